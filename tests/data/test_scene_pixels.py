"""utils/data/scene_pixels.py: scenes held in memory and scenes left on disk read alike."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio

from utils.classes import DEFAULT_TABLE, colour_map, read_classes
from utils.data import rasters, scene_pixels
from utils.data.label import Label
from utils.data.scene_pixels import Held, OnDisk, open_scenes
from utils.data.polygons import LabelOptions
from utils.data.scenes import Scene, read_label, write_png


@pytest.fixture
def table(repository):
    return read_classes(str(repository / DEFAULT_TABLE))


def write_tiff(path, pixels, colours=None):
    """pixels: [height, width] or [height, width, bands]."""
    bands = np.moveaxis(np.atleast_3d(pixels), -1, 0)
    with rasterio.open(path, "w", driver="GTiff", count=len(bands), height=bands.shape[1],
                       width=bands.shape[2], dtype=bands.dtype, tiled=True, blockxsize=64,
                       blockysize=64, compress="deflate") as file:
        file.write(bands)
        if colours:
            file.write_colormap(1, colours)
    return str(path)


@pytest.fixture
def scenes(tmp_path, draw_scene, table):
    """Scenes of 300 x 340: TIFF and label of ids; 16 bits and colours; TIFF and PNG; PNG both."""
    found = []
    for number in range(4):
        image, label = draw_scene(300, 340, seed=number)
        stem = str(tmp_path / str(number))
        if number == 3:
            write_png(f"{stem}.png", image)
            path = f"{stem}.png"
        else:
            path = write_tiff(f"{stem}.tif", image * np.uint16(9) if number == 1 else image)
        if number < 2:
            label_path = write_tiff(f"{stem}_class.tif",
                                    colour_map(label, table) if number else label)
        else:
            label_path = f"{stem}_class.png"
            write_png(label_path, label)
        found.append(Scene(str(number), path, label_path))
    return found


def kinds(pixels):
    return [(type(scene.image), type(scene.label.read.__self__)) for scene in pixels]


OPTIONS = ((1, 2, 3), [(0, 2000)] * 3, LabelOptions(), None)
SIZE = 300 * 340 * 4  # bytes of each


def test_windows_from_disk_are_those_from_memory(scenes, table, monkeypatch):
    monkeypatch.setattr(rasters, "STRIP_PIXELS", 340 * 7)
    held = open_scenes(scenes, table, OPTIONS, 64, 4 * SIZE)
    assert kinds(held) == 4 * [(Held, Held)]
    on_disk = open_scenes(scenes, table, OPTIONS, 64, 0)
    # What can only be decoded whole is held all the same.
    assert kinds(on_disk) == 2 * [(OnDisk, OnDisk)] + [(OnDisk, Held), (Held, Held)]
    for one, other, scene in zip(held, on_disk, scenes):
        assert one.shape == other.shape == (300, 340)
        np.testing.assert_array_equal(one.label.total, other.label.total)
        np.testing.assert_array_equal(one.label.read(0, 0, 300, 340),
                                      read_label(scene.label_path, table))
        with rasterio.open(scene.image_path) as file:
            samples = np.moveaxis(file.read(), 0, -1)
        if samples.dtype == np.uint16:
            samples = np.clip(samples / 2000 * 255, 0, 255)
        for corner in ((0, 0), (236, 276), (17, 190)):
            for first, second in zip(one.read(corner, 64), other.read(corner, 64)):
                assert first.dtype == second.dtype == np.uint8
                np.testing.assert_array_equal(first, second)
            window = np.s_[corner[0]:corner[0] + 64, corner[1]:corner[1] + 64]
            np.testing.assert_allclose(first, read_label(scene.label_path, table)[window])
            np.testing.assert_allclose(one.read(corner, 64)[0], samples[window], atol=.51)


def test_scenes_are_held_in_their_order_while_they_fit(scenes, table):
    assert kinds(open_scenes(scenes[:2], table, OPTIONS, 64, SIZE)) == [
        (Held, Held), (OnDisk, OnDisk)]
    assert kinds(open_scenes(scenes[:2], table, OPTIONS, 64, SIZE - 1)) == 2 * [(OnDisk, OnDisk)]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_few_files_are_open_however_many_scenes_and_threads(tmp_path, draw_scene, table,
                                                            monkeypatch):
    monkeypatch.setattr(scene_pixels, "FILES_OPEN", 6)
    labels = [draw_scene(80, 90, seed=number)[1] for number in range(20)]
    pixels = open_scenes([
        Scene(str(n), write_tiff(tmp_path / f"{n}.tif", np.stack([label] * 3, -1)),
              write_tiff(tmp_path / f"{n}_class.tif", label))
        for n, label in enumerate(labels)], table, (None, None, LabelOptions(), None), 64, 0)

    def read(seed):
        for number in np.random.default_rng(seed).permutation(20).tolist():
            image, label = pixels[number].read((11, 23), 64)
            expected = labels[number][11:75, 23:87]
            np.testing.assert_array_equal(label, expected)
            np.testing.assert_array_equal(image[..., 1], expected)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))
    files = [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")
             if os.path.exists(f"/proc/self/fd/{number}")]
    assert len([path for path in files if path.startswith(str(tmp_path))]) == 6


@pytest.mark.parametrize("memory", [0, 1e9])
def test_a_wrong_value_far_down_is_found_before_any_tile(scenes, table, monkeypatch, memory):
    monkeypatch.setattr(rasters, "STRIP_PIXELS", 340 * 50)
    label = read_label(scenes[0].label_path, table)
    label[280, 3] = label[120, 300:310] = 77
    write_tiff(scenes[0].label_path, label)
    # Strips do not cross the lines between tiles where pixels are counted.
    rows = "rows 114 to 127" if memory == 0 else "rows 100 to 149"
    with pytest.raises(ValueError, match="0_class.tif: label value 77 is not in the class table.*"
                       f"10 pixels.*{rows}; those below were not looked at"):
        open_scenes(scenes, table, OPTIONS, 64, memory)


@pytest.mark.parametrize("known", [True, False])
def test_a_palette_decides_for_the_whole_label_or_for_none_of_it(tmp_path, table, monkeypatch,
                                                                known):
    """Its upper half alone has colours of the table, in another order than its ids."""
    monkeypatch.setattr(rasters, "STRIP_PIXELS", 80 * 10)
    values = np.repeat(np.uint8([0, 1, 2, 3]), 20)[:, None].repeat(80, 1)
    ids = [3, 2, 1, 0]
    colours = {n: tuple(table.colours[ids[n]].tolist()) for n in range(4)}
    if not known:
        colours[3] = (1, 2, 3)
    path = write_tiff(tmp_path / "1_class.tif", values, colours)
    expected = np.array(ids)[values] if known else values
    with Label(path, table) as label:
        whole = label.read(0, 0, 80, 80)
        np.testing.assert_array_equal(whole, expected)
        with label.again() as again:
            np.testing.assert_array_equal(again.read(10, 10, 20, 20), expected[10:30, 10:30])
    np.testing.assert_array_equal(read_label(path, table), expected)
