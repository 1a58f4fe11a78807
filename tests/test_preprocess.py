"""preprocess.py: its tiles against the scenes that they were cut from."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import rasterio
from preprocess_runs import (FLAGS, SIZE, TABLE, files_below, read_list,  # noqa: F401
                             run_preprocess, same_content, tile_set_fixture)

from utils.classes import read_classes
from utils.data.augment import AUGMENTATIONS, TURNS
from utils.data.scenes import find_scenes, read_image, read_label, read_scene, write_png
from utils.data.tiles import read_bands


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


def test_validation_tiles_are_cut_untouched(tile_set, scenes):
    validation = read_list(tile_set, "validation_list.csv")
    # 20% of 300 x 340 and of 340 x 310 are 5 tiles of 64 x 64 each; a rectangle of 4 will do.
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


def test_same_tiles_from_any_number_of_workers_and_others_from_another_seed(tile_set, tmp_path):
    origin = ("--origin", tile_set / "origin", "--tiles", 150)
    assert run_preprocess(tmp_path / "same", *FLAGS, *origin, "--processes", 3).returncode == 0
    names = [name for name in files_below(tile_set) if not name.startswith("origin")]
    assert files_below(tmp_path / "same") == names
    assert same_content(tile_set, tmp_path / "same", names)
    assert run_preprocess(tmp_path / "other", *FLAGS, *origin, "--seed", 8).returncode == 0
    first, other = read_list(tile_set), read_list(tmp_path / "other")
    assert ((first["row"] == other["row"]) & (first["column"] == other["column"])).mean() < 0.1


def test_without_augmentation_tiles_are_their_crops(small_dataset, scenes):
    result = run_preprocess(small_dataset, *FLAGS, "--tiles", 20, "--no_augment", "--gamma", 1)
    assert result.returncode == 0, result.stderr
    for tile in read_list(small_dataset).itertuples():
        window = np.s_[tile.row:tile.row + SIZE, tile.column:tile.column + SIZE]
        assert tile.augmentations == ""
        np.testing.assert_array_equal(read_image(str(small_dataset / tile.image)),
                                      scenes[tile.scene][0][window])


def test_rerun_replaces_the_set_and_clears_what_a_killed_run_left(small_dataset):
    assert run_preprocess(small_dataset, *FLAGS, "--tiles", 40).returncode == 0
    (small_dataset / ".partial-tiles-99" / "train" / "images").mkdir(parents=True)
    result = run_preprocess(small_dataset, "--tile_size", 300, "--tiles", 6)
    # A scene of 300 rows is exactly one tile high; there is none to spare.
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


def test_weighting_raises_the_share_of_a_rare_class(tmp_path, draw_scene):
    image, label = draw_scene(300, 340, num_classes=4)
    label[200:210, 200:210] = 4
    write_png(str(tmp_path / "origin" / "1.png"), image)
    write_png(str(tmp_path / "origin" / "1_class.png"), label)
    share = {}
    for weight in (0, 0.8):
        result = run_preprocess(tmp_path, *FLAGS, "--tiles", 100, "--scenes", 1, "--rare_class_weight", weight)
        assert result.returncode == 0, result.stderr
        share[weight] = pd.read_csv(tmp_path / "class_frequencies.csv")["train_frequency"][4]
        assert_apart(read_list(tmp_path), read_list(tmp_path, "validation_list.csv"))
    assert share[0.8] > 3 * share[0]


def test_starts_without_tensorflow(repository):
    subprocess.run([sys.executable, "-c", "import sys, preprocess; "
                    "sys.exit('tensorflow' in sys.modules)"], check=True, cwd=repository)


def test_real_scenes(shared_data, tmp_path):
    result = run_preprocess(tmp_path, "--origin", shared_data / "dubai", "--scenes", 1, 3, "--tiles", 64)
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
    result = run_preprocess(tmp_path, "--tiles", 6, "--tile_size", 64)
    assert result.returncode == 2 and "needs three bands" in result.stderr
    result = run_preprocess(tmp_path, "--tiles", 6, "--tile_size", 64, "--bands", 4, 3, 2, *plain)
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


def test_scenes_on_disk_give_the_tiles_that_scenes_in_memory_give(small_dataset):
    origin = small_dataset / "origin"
    for path in list(origin.iterdir()):
        with rasterio.open(path) as png, rasterio.open(
                path.with_suffix(".tif"), "w", driver="GTiff", dtype="uint8", tiled=True,
                count=png.count, height=png.height, width=png.width, compress="deflate") as tiff:
            tiff.write(png.read())
        if path.stem != "2_class":  # what can only be decoded whole
            path.unlink()
    (origin / "2_class.tif").unlink()
    flags = (*FLAGS, "--origin", origin, "--tiles", 120, "--rare_class_weight", .5)
    names = {}
    for memory in (4, 0):
        folder = small_dataset / f"memory {memory}"
        result = run_preprocess(folder, *flags, "--memory", memory)
        assert (result.returncode, result.stderr) == (0, "")
        names[memory] = files_below(folder)
    assert names[0] == names[4] and len(names[0]) > 2 * 120
    assert same_content(small_dataset / "memory 4", small_dataset / "memory 0", names[0])
