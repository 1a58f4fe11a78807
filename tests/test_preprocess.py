import filecmp
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import rasterio
from conftest import REPOSITORY, write_small_dataset

import preprocess
from utils.data.augment import TURNS
from utils.data.augment import AUGMENTATIONS
from utils.classes import read_classes
from utils.cli import run_script
from utils.data.sampling import (allowed_corners, choose_validation_cells, draw_corner,
                         rare_class_corners, tiles_by_scene)
from utils.files import replace_set
from utils.data.scenes import (find_scenes, read_bands, read_image, read_label, read_scene,
                          write_png)

TABLE = str(REPOSITORY / "dataset" / "classes.csv")
SIZE = 64
FLAGS = ("--tile_size", SIZE, "--validation_fraction", 0.2, "--seed", 7)


def command(dataset, *flags):
    return [sys.executable, str(REPOSITORY / "preprocess.py"), "--dataset", str(dataset),
            "--classes", TABLE, *map(str, flags)]


def run(dataset, *flags, **options):
    return subprocess.run(command(dataset, *flags), capture_output=True, text=True, timeout=120,
                          **options)


def read_list(dataset, name="path_list.csv"):
    return pd.read_csv(dataset / name, dtype={"scene": str}, keep_default_na=False)


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def same_content(first, second, names):
    return filecmp.cmpfiles(first, second, names, shallow=False) == (names, [], [])


@pytest.fixture(name="tile_set", scope="module")
def tile_set_fixture(tmp_path_factory):
    """150 tiles of the small scenes 1 and 2, cut by one process."""
    dataset = write_small_dataset(tmp_path_factory.mktemp("tiles"))
    result = run(dataset, *FLAGS, "--tiles", 150, "--processes", 1)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return dataset


@pytest.fixture(name="scenes", scope="module")
def scenes_fixture(tile_set):
    """name -> (image, label)"""
    table = read_classes(TABLE)
    return {name: read_scene(scene, table)
            for name, scene in find_scenes(str(tile_set / "origin")).items()}


def test_layout_and_lists(tile_set):
    tiles, validation = read_list(tile_set), read_list(tile_set, "validation_list.csv")
    assert list(tiles.columns) == ["image", "label", "scene", "row", "column", "augmentations"]
    assert list(validation.columns) == list(tiles.columns)
    assert len(tiles) == 150 and tiles["image"][149] == "train/images/000149.png"
    # The held-out scene 5 is nowhere; areas 300 x 340 and 340 x 310 share the tiles out.
    assert tiles["scene"].value_counts().to_dict() == {"1": 74, "2": 76}
    assert set(validation["scene"]) == {"1", "2"}
    listed = [*tiles["image"], *tiles["label"], *validation["image"], *validation["label"]]
    assert sorted(listed) == [name for name in files_below(tile_set)
                              if name.startswith(("train", "validation/"))]


def test_tiles_are_exactly_their_crops_turned_as_listed(tile_set, scenes):
    table = read_classes(TABLE)
    plain = 0
    for tile in read_list(tile_set).itertuples():
        window = np.s_[tile.row:tile.row + SIZE, tile.column:tile.column + SIZE]
        image, label = (array[window] for array in scenes[tile.scene])
        done = tile.augmentations.split()
        for turns, name in enumerate(TURNS, start=1):
            if name in done:
                image, label = np.rot90(image, turns), np.rot90(label, turns)
        if "flip_horizontal" in done:
            image, label = np.fliplr(image), np.fliplr(label)
        if "flip_vertical" in done:
            image, label = np.flipud(image), np.flipud(label)
        np.testing.assert_array_equal(read_label(str(tile_set / tile.label), table), label)
        same = (read_image(str(tile_set / tile.image)) == image).all()
        photometric = [name for name in done if not name.startswith(("rotate", "flip"))]
        assert same == (not photometric), done
        plain += same
    assert 20 < plain < 100


def test_validation_tiles_are_their_cells_untouched(tile_set, scenes):
    validation = read_list(tile_set, "validation_list.csv")
    # 20% of 300 x 340 and of 340 x 310 are 5 cells of 64 x 64 each; a rectangle of 4 will do.
    assert set(validation["scene"].value_counts()) <= {4, 5}
    for tile in validation.itertuples():
        assert tile.row % SIZE == 0 and tile.column % SIZE == 0 and tile.augmentations == ""
        window = np.s_[tile.row:tile.row + SIZE, tile.column:tile.column + SIZE]
        image, label = (array[window] for array in scenes[tile.scene])
        np.testing.assert_array_equal(read_image(str(tile_set / tile.image)), image)
        np.testing.assert_array_equal(
            read_label(str(tile_set / tile.label), read_classes(TABLE)), label)


def assert_apart(tiles, validation):
    """No training crop shares a pixel with a validation tile."""
    for tile in validation.itertuples():
        crops = tiles[tiles["scene"] == tile.scene]
        near = (abs(crops["row"] - tile.row) < SIZE) & (abs(crops["column"] - tile.column) < SIZE)
        assert not near.any()


def test_no_crop_shares_a_pixel_with_validation(tile_set):
    assert_apart(read_list(tile_set), read_list(tile_set, "validation_list.csv"))


def test_class_frequencies_are_those_of_the_tiles(tile_set):
    frequencies = pd.read_csv(tile_set / "class_frequencies.csv")
    assert frequencies["id"].tolist() == [0, 1, 2, 3, 4, 255]
    assert frequencies["name"].tolist()[-2:] == ["water", "ignore"]
    for part, name in (("train", "path_list.csv"), ("validation", "validation_list.csv")):
        labels = np.stack([read_label(str(tile_set / path), read_classes(TABLE))
                           for path in read_list(tile_set, name)["label"]])
        pixels = [(labels == value).sum() for value in frequencies["id"]]
        assert frequencies[f"{part}_pixels"].tolist() == pixels
        np.testing.assert_allclose(frequencies[f"{part}_frequency"][:5],
                                   np.array(pixels[:5]) / sum(pixels[:5]), atol=1e-6)
    assert pixels[5] + sum(pixels[:5]) == labels.size


def test_same_tiles_from_any_number_of_processes_and_others_from_another_seed(tile_set, tmp_path):
    origin = ("--origin", tile_set / "origin", "--tiles", 150)
    assert run(tmp_path / "same", *FLAGS, *origin, "--processes", 3).returncode == 0
    names = [name for name in files_below(tile_set) if not name.startswith("origin")]
    assert files_below(tmp_path / "same") == names
    assert same_content(tile_set, tmp_path / "same", names)
    assert run(tmp_path / "other", *FLAGS, *origin, "--seed", 8).returncode == 0
    first, other = read_list(tile_set), read_list(tmp_path / "other")
    assert ((first["row"] == other["row"]) & (first["column"] == other["column"])).mean() < 0.1


def test_without_augmentation_tiles_are_their_crops(small_dataset, scenes):
    result = run(small_dataset, *FLAGS, "--tiles", 20, "--no_augment", "--gamma", 1)
    assert result.returncode == 0, result.stderr
    for tile in read_list(small_dataset).itertuples():
        window = np.s_[tile.row:tile.row + SIZE, tile.column:tile.column + SIZE]
        assert tile.augmentations == ""
        np.testing.assert_array_equal(read_image(str(small_dataset / tile.image)),
                                      scenes[tile.scene][0][window])


def test_rerun_replaces_the_set_and_clears_what_a_killed_run_left(small_dataset):
    assert run(small_dataset, *FLAGS, "--tiles", 40).returncode == 0
    (small_dataset / ".partial-tiles-99" / "train" / "images").mkdir(parents=True)
    result = run(small_dataset, "--tile_size", 300, "--tiles", 6)
    # A scene of 300 rows is exactly one tile high; there is no cell to spare.
    assert result.returncode == 0, result.stderr
    assert "warning: there are no validation tiles" in result.stdout
    assert read_list(small_dataset, "validation_list.csv").empty
    assert len(list((small_dataset / "train" / "images").iterdir())) == 6
    assert len(list((small_dataset / "train" / "labels").iterdir())) == 6
    assert not list((small_dataset / "validation" / "images").iterdir())
    tiles = read_list(small_dataset)
    assert (tiles["row"][tiles["scene"] == "1"] == 0).all()
    assert read_image(str(small_dataset / tiles["image"][0])).shape == (300, 300, 3)
    assert not list(small_dataset.glob(".partial*"))


def limit_file_size():
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))


@pytest.fixture(name="old_set")
def old_set_fixture(tile_set, tmp_path):
    """A copy of the tile set for a failing rerun, and a check that it is still the same."""
    import shutil
    shutil.copytree(tile_set, tmp_path / "set")
    yield tmp_path / "set"
    names = files_below(tile_set)
    assert files_below(tmp_path / "set") == names
    assert same_content(tile_set, tmp_path / "set", names)
    assert not list((tmp_path / "set").glob(".partial*"))


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on file sizes")
def test_a_disk_that_takes_no_more_ends_in_one_line_and_keeps_the_old_set(old_set):
    result = run(old_set, *FLAGS, "--tiles", 80, preexec_fn=limit_file_size)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "could not be written (File too large); free some space" in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_rerun_keeps_the_old_set(old_set, number, status):
    with subprocess.Popen(command(old_set, *FLAGS, "--tiles", 1000000), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while not list(old_set.glob(".partial*/train/images/000001.png")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        # As a terminal does it: to the workers too.
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in errors


def test_a_replacement_cut_short_leaves_no_list_of_other_tiles(tmp_path, monkeypatch):
    folders, files = ("train/images", "train/labels"), ("classes.csv", "list.csv")
    rename = os.rename
    for allowed in range(9):
        target, source = tmp_path / f"target{allowed}", tmp_path / f"source{allowed}"
        for place in (target, source):
            for name in folders:
                (place / name).mkdir(parents=True)
                (place / name / "0.png").write_text(place.name)
            for name in files:
                (place / name).write_text(place.name)
        left = [allowed]

        def rename_or_fail(old, new, left=left):
            if not left[0]:
                raise OSError("cut short")
            left[0] -= 1
            rename(old, new)

        monkeypatch.setattr(os, "rename", rename_or_fail)
        try:
            replace_set(str(target), str(source), folders, files)
        except OSError:
            assert allowed < 8
        else:
            assert allowed == 8
        if (target / "list.csv").exists():
            contents = {(target / name / "0.png").read_text() for name in folders}
            contents |= {(target / name).read_text() for name in files}
            assert contents == {(target / "list.csv").read_text()}


# How crops are chosen

def test_every_crop_inside_the_scene_may_be_drawn_last_row_and_column_included():
    allowed = allowed_corners((20, 23), np.empty((0, 2), int), 16)
    assert allowed.shape == (5, 8) and allowed.all()
    random = np.random.default_rng(0)
    drawn = {draw_corner(allowed, random) for _ in range(1000)}
    assert drawn == {(row, column) for row in range(5) for column in range(8)}


def test_allowed_corners_against_a_count_of_shared_pixels():
    cells = np.array([[16, 32], [32, 32]])
    blocked = np.zeros((70, 90), bool)
    for row, column in cells:
        blocked[row:row + 16, column:column + 16] = True
    allowed = allowed_corners(blocked.shape, cells, 16)
    assert allowed.shape == (55, 75)
    for row, column in np.ndindex(*allowed.shape):
        assert allowed[row, column] == (not blocked[row:row + 16, column:column + 16].any())


@pytest.mark.parametrize("height, width, cells", [(300, 340, 0), (256, 256, 0), (1024, 1024, 2),
                                                  (2600, 3300, 13), (4438, 6447, 44)])
def test_validation_cells_are_whole_distinct_and_about_the_fraction(height, width, cells):
    # Classes in bands, so that blocks in the wrong place would miss some.
    label = (np.arange(width)[None] * 5 // width + np.zeros((height, 1), int)).astype(np.uint8)
    label[:height // 3] = 255
    corners = choose_validation_cells(label, 256, 0.1, np.random.default_rng(1))
    assert 0.75 * cells <= len(corners) <= cells
    assert len(np.unique(corners, axis=0)) == len(corners)
    assert (corners % 256 == 0).all() and (corners >= 0).all()
    assert (corners + 256 <= (height, width)).all()
    assert allowed_corners(label.shape, corners, 256).mean() >= min(1, 0.5 + 0.5 * (cells == 0))
    if cells > 10:
        chosen = np.concatenate([label[row:row + 256, column:column + 256].ravel()
                                 for row, column in corners])
        shares = np.bincount(chosen[chosen < 255], minlength=5) / (chosen < 255).sum()
        assert (shares > 0.05).all()


def test_validation_never_takes_the_last_place_for_a_crop():
    for side in range(64, 260, 7):
        for fraction in (0.1, 0.3, 0.5):
            label = np.zeros((side, side + 10), np.uint8)
            cells = choose_validation_cells(label, 64, fraction, np.random.default_rng(side))
            assert allowed_corners(label.shape, cells, 64).any()
    assert not len(choose_validation_cells(label, 64, 0.0, np.random.default_rng(0)))


def test_tiles_are_shared_out_by_area():
    scenes = tiles_by_scene([100, 300, 50], 91, np.random.default_rng(0))
    assert np.bincount(scenes).tolist() == [20, 61, 10]
    assert len(set(scenes[:20])) == 3
    assert np.bincount(tiles_by_scene([1, 1, 1], 10, np.random.default_rng(0))).max() == 4


def test_rare_class_crops_are_centred_on_their_class_and_keep_clear_of_validation():
    random = np.random.default_rng(0)
    labels = [np.zeros((200, 300), np.uint8), np.zeros((250, 180), np.uint8)]
    labels[0][100:120, 150:170] = 1
    labels[1][0:4, 0:4] = 2                              # in a corner: the crop is moved inside
    labels[1][:, 100:] = 255
    cells = [np.array([[64, 128]]), np.empty((0, 2), int)]
    allowed = [allowed_corners(label.shape, cell, 64) for label, cell in zip(labels, cells)]
    corners, shares = rare_class_corners(labels, allowed, 64, random)
    # Every crop around class 1 would touch the validation cell, so two classes are left.
    assert len(corners) == 2
    np.testing.assert_allclose(shares[1] / shares[0], (labels[0] == 0).sum() / 16
                               + (labels[1] == 0).sum() / 16)
    assert (corners[1] == [1, 0, 0]).all()
    for scene, row, column in corners[0]:
        assert allowed[scene][row, column]
    corners, shares = rare_class_corners(labels, [np.ones_like(mask) for mask in allowed], 64,
                                         random)
    for scene, row, column in corners[1]:
        assert scene == 0 and labels[0][row + 32, column + 32] == 1
    assert len(np.unique(corners[1], axis=0)) == 400     # every pixel of the class is a centre
    with pytest.raises(ValueError, match="no training scene has a labelled pixel"):
        rare_class_corners([np.full((80, 80), 255, np.uint8)], [np.ones((17, 17), bool)], 64,
                           random)


def test_weighting_raises_the_share_of_a_rare_class(tmp_path, draw_scene):
    image, label = draw_scene(300, 340, num_classes=4)
    label[200:210, 200:210] = 4
    write_png(str(tmp_path / "origin" / "1.png"), image)
    write_png(str(tmp_path / "origin" / "1_class.png"), label)
    share = {}
    for weight in (0, 0.8):
        result = run(tmp_path, *FLAGS, "--tiles", 100, "--scenes", 1, "--rare_class_weight", weight)
        assert result.returncode == 0, result.stderr
        share[weight] = pd.read_csv(tmp_path / "class_frequencies.csv")["train_frequency"][4]
        assert_apart(read_list(tmp_path), read_list(tmp_path, "validation_list.csv"))
    assert share[0.8] > 3 * share[0]


# Bad input

def overwrite(name, change):
    def do(origin):
        path = origin / name
        path.write_bytes(change(path.read_bytes()))
    return do


def relabel(value):
    def do(origin):
        label = read_label(str(origin / "2_class.png"), read_classes(TABLE))
        label[17, 19] = value
        write_png(str(origin / "2_class.png"), label)
    return do


def crop_label(origin):
    label = read_label(str(origin / "1_class.png"), read_classes(TABLE))
    write_png(str(origin / "1_class.png"), label[:, 1:])


def remove_labels(origin):
    for name in ("1_class.png", "2_class.png"):
        (origin / name).unlink()


def empty(origin):
    for path in origin.iterdir():
        path.unlink()


def nothing(origin):
    pass


@pytest.mark.parametrize("spoil, flags, complaint", [
    (empty, (), "origin: no scenes there"),
    (nothing, ("--origin", "/no/such/folder"), "/no/such/folder: no scenes there"),
    (overwrite("1.png", lambda data: data[:-300]), (), "1.png: truncated"),
    (overwrite("2_class.png", lambda data: data[:30]), (), "2_class.png: truncated"),
    (overwrite("1.png", lambda data: b"hello"), (), "1.png: truncated or not an image"),
    (crop_label, (), "1_class.png: 300 x 339"),
    (relabel(5), (), "2_class.png: label value 5 is not in the class table"),
    (relabel(254), (), "2_class.png: label value 254 is not"),
    (remove_labels, (), "no scene but the held-out 5 has a label"),
    (remove_labels, ("--scenes", "1"), "its label 1_class.png is missing"),
    (nothing, ("--scenes", "1", "5"), "scene 5 is held out"),
    (nothing, ("--scenes", "1", "9"), "there is no scene 9; there are 1, 2, 5"),
    (nothing, ("--test_scene", "55"), "(--test_scene): there is no scene 55"),
    (nothing, ("--tile_size", "301"), "1.png: 300 x 340 pixels (height x width), smaller than"),
    (nothing, ("--classes", "/no/such.csv"), "/no/such.csv: no class table there"),
    (nothing, ("--tiles", "0"), "--tiles: 0 is not 1 or more"),
    (nothing, ("--seed", "-1"), "--seed: -1 is not from 0 to"),
    (nothing, ("--blur", "1.5"), "--blur: 1.5 is not between 0 and 1"),
    (nothing, ("--validation_fraction", "0.6"), "--validation_fraction is above 0.5"),
    (nothing, ("--rotate_90", "0.6"), "add up to more than 1"),
    (nothing, ("--gamma_range", "2", "1"), "needs 0 < LOW <= HIGH"),
    (nothing, ("--gamma_range", "0", "1"), "needs 0 < LOW <= HIGH"),
    (nothing, ("--gamma_range", "nan", "1"), "needs 0 < LOW <= HIGH"),
])
def test_bad_input_ends_in_one_line_and_status_2(small_dataset, monkeypatch, capfd, spoil, flags,
                                                 complaint):
    spoil(small_dataset / "origin")
    before = files_below(small_dataset)
    monkeypatch.setattr(sys, "argv", command(small_dataset, "--tiles", "10", *flags)[1:])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as leaving:
        run_script(preprocess.main)
    assert leaving.value.code == 2
    message = capfd.readouterr().err.splitlines()[-1]
    assert message.startswith("preprocess.py: error: ") and complaint in message
    assert files_below(small_dataset) == before


def test_bad_input_from_the_shell(tmp_path):
    result = run(tmp_path / "nowhere")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and "utils.data.demo_scenes" in result.stderr
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("output, status, complaint", [
    (">&-", 0, ""), ("> /dev/full", 2, "standard output: could not be written (No space"),
    ("| true", 2, "standard output: could not be written (Broken pipe)")])
def test_an_output_that_nobody_takes_is_not_blamed_on_the_tiles(small_dataset, output, status,
                                                                complaint):
    result = subprocess.run(
        ["bash", "-c", f'"$@" {output}; exit "${{PIPESTATUS[0]}}"', "bash",
         *command(small_dataset, *FLAGS, "--tiles", 4, "--processes", 1)],
        capture_output=True, text=True, timeout=120)
    assert result.returncode == status, result.stderr
    assert complaint in result.stderr and result.stderr.count("\n") == (status != 0)
    assert not [name for name in os.listdir(small_dataset) if "partial" in name]


def test_starts_without_tensorflow(repository):
    subprocess.run([sys.executable, "-c", "import sys, preprocess; "
                    "sys.exit('tensorflow' in sys.modules)"], check=True, cwd=repository)


def test_real_scenes(shared_data, tmp_path):
    result = run(tmp_path, "--origin", shared_data / "dubai", "--scenes", 1, 3, "--tiles", 64)
    assert result.returncode == 0, result.stderr
    tiles, validation = read_list(tmp_path), read_list(tmp_path, "validation_list.csv")
    assert len(tiles) == 64 and set(tiles["scene"]) == {"1", "3"}
    assert set(validation["scene"].value_counts()) <= set(range(5, 11))


def test_16_bit_scenes_of_many_bands_are_stretched_together(tmp_path, draw_scene):
    origin = tmp_path / "origin"
    origin.mkdir()
    scenes = {}
    for name, gain in (("1", 10), ("2", 30), ("5", 20)):
        image, label = draw_scene(300, 320, seed=int(name))
        samples = np.zeros((4, 300, 320), np.uint16)
        samples[1:] = np.moveaxis(image, -1, 0).astype(np.uint16)[::-1] * gain + 200
        with rasterio.open(origin / f"{name}.tif", "w", driver="GTiff", count=4, height=300,
                           width=320, dtype="uint16") as dataset:
            dataset.write(samples)
        write_png(str(origin / f"{name}_class.png"), label)
        scenes[name] = samples
    plain = [flag for name in AUGMENTATIONS for flag in (f"--{name}", 0)]
    result = run(tmp_path, "--tiles", 6, "--tile_size", 64)
    assert result.returncode == 2 and "needs three bands" in result.stderr
    result = run(tmp_path, "--tiles", 6, "--tile_size", 64, "--bands", 4, 3, 2, *plain)
    assert result.returncode == 0, result.stderr
    noted = read_bands(str(tmp_path))
    assert noted["bands"] == [4, 3, 2]
    # One stretch for both scenes, though one is three times as bright.
    both = np.concatenate([scenes[name][[3, 2, 1]].reshape(3, -1) for name in "12"], axis=1)
    low, high = np.percentile(both, (2, 98), axis=1)
    np.testing.assert_allclose(noted["stretch"], np.stack([low, high], 1), rtol=.02)
    low, high = np.array(noted["stretch"]).T[:, None, None]
    for tile in read_list(tmp_path).itertuples():
        window = np.s_[tile.row:tile.row + 64, tile.column:tile.column + 64]
        crop = np.moveaxis(scenes[tile.scene][[3, 2, 1]], 0, -1)[window]
        expected = np.clip((crop - low) / (high - low) * 255, 0, 255)
        np.testing.assert_allclose(read_image(str(tmp_path / tile.image)), expected, atol=.51)


def test_scenes_of_8_bits_need_no_bands(tile_set):
    assert read_bands(str(tile_set)) == {}
