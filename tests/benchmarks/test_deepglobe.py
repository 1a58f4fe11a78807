"""benchmarks/deepglobe.py on made-up tiles: the splits, the published score, a scene put together."""

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import jaccard_score

from benchmarks import deepglobe
from utils.classes import colour_map, read_classes
from utils.data.image import Image

# tile: (scene, row, column)
TILES = {"train/0000": (1, 3, 2), "train/0001": (2, 0, 0), "train/0002": (3, 0, 0),
         "validation/0000": (1, 4, 3), "validation/0001": (3, 0, 1)}


@pytest.fixture
def data(repository, tmp_path):
    """A folder like DeepGlobe's: images of the tile's number, random masks; and {tile: ids}."""
    random, ids = np.random.default_rng(0), {}
    table = read_classes(str(repository / "dataset" / "tables" / "deepglobe.csv"))
    for number, tile in enumerate(TILES):
        (tmp_path / tile).parent.mkdir(exist_ok=True)
        ids[tile] = random.integers(0, 7, (64, 64)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        ids[tile][ids[tile] == 6] = 255
        cv2.imwrite(str(tmp_path / f"{tile}_sat.jpg"), np.full((512, 512, 3), 40 * number, np.uint8))
        cv2.imwrite(str(tmp_path / f"{tile}_mask.png"), colour_map(ids[tile], table)[..., ::-1])
    pd.DataFrame([(tile, *place) for tile, place in TILES.items()],
                 columns=["tile", "scene", "row", "column"]).to_csv(tmp_path / "scenes.csv")
    return tmp_path, ids


def call(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["deepglobe.py", *map(str, arguments)])
    deepglobe.main()


def test_tables_split_as_others_do_and_by_scene(data, monkeypatch):
    folder, _ = data
    call(monkeypatch, "tables", "--data", folder, "--out", folder / "out")
    splits = {name: dict(pd.read_csv(folder / "out" / f"{name}.csv")[["name", "split"]].values)
              for name in ("choose", "official", "watched", "by_scene")}
    assert splits["choose"] == {
        "train_0000": "train", "train_0001": "validation", "train_0002": "train"}
    assert splits["official"] == {tile.replace("/", "_"): "train" if "train" in tile else "test"
                                  for tile in TILES}
    assert splits["watched"] == {name: split.replace("test", "validation")
                                 for name, split in splits["official"].items()}
    assert [name for name, split in splits["by_scene"].items() if split == "test"] == [
        "train_0000", "validation_0000"]
    rows = pd.read_csv(folder / "out" / "official.csv")
    assert all((folder / "out" / path).exists() for path in [*rows["image"], *rows["label"]])


def test_without_scenes_the_splits_that_need_none_are_written(data, monkeypatch):
    folder, _ = data
    call(monkeypatch, "tables", "--data", folder, "--out", folder / "with")
    (folder / "scenes.csv").unlink()
    call(monkeypatch, "tables", "--data", folder, "--out", folder / "without")
    assert {path.name for path in (folder / "without").iterdir()} == {"official.csv", "watched.csv"}
    for name in ("official.csv", "watched.csv"):
        assert (folder / "without" / name).read_text() == (folder / "with" / name).read_text()
    with pytest.raises(FileNotFoundError, match="no scenes.csv, which says where the tiles lie"):
        call(monkeypatch, "mosaic", "--data", folder, "--scene", 1, "--out", folder / "scene.png")
    with pytest.raises(FileNotFoundError, match="no train/NNNN_sat.jpg"):
        call(monkeypatch, "tables", "--data", folder / "train", "--out", folder / "without")


def test_published_score_counts_unknown_pixels_as_false_predictions(data, monkeypatch, capsys):
    folder, ids = data
    call(monkeypatch, "tables", "--data", folder, "--out", folder)
    random, truth, maps = np.random.default_rng(1), [], []
    for tile in ("validation/0000", "validation/0001"):
        wrong = random.integers(0, 6, (512, 512))
        classes = np.where((random.random((512, 512)) < .3) | (ids[tile] > 5), wrong, ids[tile])
        cv2.imwrite(str(folder / f"{tile.replace('/', '_')}_class.png"), classes.astype(np.uint8))
        truth.append(ids[tile])
        maps.append(classes)
    call(monkeypatch, "score", "--table", folder / "official.csv", "--maps", folder)
    truth, maps = np.ravel(truth), np.ravel(maps)
    published = jaccard_score(truth, maps, labels=range(6), average="macro")
    valid = truth < 6
    ours = jaccard_score(truth[valid], maps[valid], labels=range(6), average="macro")
    assert abs(ours - published) > .01
    assert capsys.readouterr().out.startswith(
        f"mean-IoU {ours:.4f}; by the published definition {published:.4f} (urban 0.")


def test_a_scene_is_put_together_by_rows_and_columns(data, monkeypatch):
    folder, ids = data
    call(monkeypatch, "mosaic", "--data", folder, "--scene", 1, "--out", folder / "scene.png")
    image, label = (cv2.imread(str(folder / name)) for name in ("scene.png", "scene_class.png"))
    assert image.shape == label.shape == (1024, 1024, 3)
    with Image(str(folder / "scene.png")) as scene:  # nothing where no tile is
        has_data = scene.has_data(0, 0, 1024, 1024)
    assert has_data[512:, 512:].all() and not has_data[:512, 512:].any()
    assert (image[:512, :512] == 0).all() and (image[512:, 512:] == 120).all()
    assert (image[:512, 512:] == 0).all() and (label[:512, 512:] == 0).all()
    mask = cv2.imread(str(folder / "validation/0000_mask.png"))
    np.testing.assert_array_equal(label[512:, 512:], mask)
