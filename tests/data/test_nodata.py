"""What declares no data, in a label or in its image, is ignored."""

import re

import numpy as np
import pytest
import rasterio

from conftest import draw_scene
from preprocess_runs import TABLE, read_list, run_preprocess
from utils.classes import colour_map, read_classes
from utils.data.image import MEAN_PIXEL
from utils.data.polygons import LabelOptions
from utils.data.scenes import Scene, read_image, read_label, read_scene, write_png


@pytest.fixture(name="table", scope="module")
def table_fixture():
    return read_classes(TABLE)


def write(path, samples, colours=None, **more):
    """samples: [bands, height, width]."""
    with rasterio.open(path, "w", driver="GTiff", count=len(samples), height=samples.shape[1],
                       width=samples.shape[2], dtype=samples.dtype, **more) as dataset:
        if colours:
            dataset.write_colormap(1, colours)
        dataset.write(samples)
    return str(path)


@pytest.mark.parametrize("dtype, nodata", [
    (np.uint8, 200), (np.int16, -9999), (np.float32, np.nan), (np.float32, -3.4028234663852886e38),
    (np.int8, -1), (np.uint8, 255)])
def test_a_labels_nodata_value_is_ignored(tmp_path, table, dtype, nodata):
    label = draw_scene(40, 50)[1]
    expected = np.where(label == 3, 255, label)
    expected[label == 255] = 0
    stored = np.where(expected == 255, dtype(nodata), expected.astype(dtype))[None]
    np.testing.assert_array_equal(
        read_label(write(tmp_path / "a.tif", stored, nodata=nodata), table), expected)
    if nodata != 255:  # the same value without being declared is an error still
        with pytest.raises(ValueError, match="b.tif: label value .* is not in the class table"):
            read_label(write(tmp_path / "b.tif", stored), table)
        stored[0, 0, 0] = 77  # and so is any other
        with pytest.raises(ValueError, match=r"c.tif: label value 77 .*; 1 pixels"):
            read_label(write(tmp_path / "c.tif", stored, nodata=nodata), table)


def test_a_value_that_the_table_has_is_its_class_whatever_is_declared(tmp_path, table):
    label = draw_scene(40, 50)[1]
    np.testing.assert_array_equal(
        read_label(write(tmp_path / "a.tif", label[None], nodata=0), table), label)


def test_the_colour_of_nodata_is_ignored_where_the_table_does_not_know_it(tmp_path, table):
    label = draw_scene(40, 50)[1]
    colours = colour_map(label, table)
    colours[label == 255] = 9
    path = write(tmp_path / "a.tif", np.moveaxis(colours, -1, 0), nodata=9)
    np.testing.assert_array_equal(read_label(path, table), label)
    palette = {i: (*colour, 255) for i, colour in enumerate(table.colours[::-1].tolist())} | {
        7: (9, 9, 9, 255)}
    indices = np.where(label == 255, 7, 4 - label).astype(np.uint8)
    path = write(tmp_path / "b.tif", indices[None], palette, nodata=7)
    np.testing.assert_array_equal(read_label(path, table), label)


def test_where_the_image_has_no_data_its_label_is_ignored(tmp_path, table):
    image, label = draw_scene(60, 80)
    label[label == 255] = 1
    image = np.maximum(image, 1)
    image[10:30, 40:] = 0
    samples = np.moveaxis(image, -1, 0)
    write_png(str(tmp_path / "l.png"), label)
    empty = np.where((image == 0).all(-1), 255, label)
    alpha = np.where(empty == 255, 0, 255).astype(np.uint8)
    for name, more, expected in (("plain", {}, label), ("nodata", {"nodata": 0}, empty)):
        scene = Scene(name, write(tmp_path / f"{name}.tif", samples, **more),
                      str(tmp_path / "l.png"))
        np.testing.assert_array_equal(read_scene(scene, table)[1], expected)
        np.testing.assert_array_equal(read_scene(
            scene, table, options=LabelOptions(keep_nodata=True))[1], label)
    scene = Scene("alpha", write(tmp_path / "alpha.tif", np.concatenate([samples, alpha[None]])),
                  str(tmp_path / "l.png"))
    np.testing.assert_array_equal(read_scene(scene, table)[1], empty)


def test_tiles_of_nodata_are_ignored_unless_a_flag_keeps_them(tmp_path):
    image, label = draw_scene(200, 220)
    label[label == 255] = 1
    image[image == MEAN_PIXEL] = 127
    image[:, 120:] = 0
    for name in ("1", "2"):
        write(tmp_path / f"{name}.tif", np.moveaxis(image, -1, 0), nodata=0)
        write_png(str(tmp_path / f"{name}_class.png"), label)
    flags = ("--origin", tmp_path, "--tiles", 20, "--tile_size", 64, "--no_augment",
             "--test_scene", "2")
    for name, more in (("ignored", ()), ("kept", ("--keep_nodata",))):
        result = run_preprocess(tmp_path / name, *flags, *more)
        assert result.returncode == 0, result.stderr
    seen = 0
    for tile in read_list(tmp_path / "ignored").itertuples():
        pixels, ignored, kept = (
            read(str(tmp_path / name / file), *more) for read, name, file, more in (
                (read_image, "ignored", tile.image, ()),
                (read_label, "ignored", tile.label, (read_classes(TABLE),)),
                (read_label, "kept", tile.label, (read_classes(TABLE),))))
        empty = (pixels == MEAN_PIXEL).all(-1)
        np.testing.assert_array_equal(ignored, np.where(empty, 255, kept))
        assert not (kept == 255).any()
        seen += empty.any() and not empty.all()
    assert seen


def test_black_borders_that_no_file_declares_are_told_of(tmp_path):
    """One line names them; a scene whose file declares its border, or that has none, is not."""
    image, label = draw_scene(200, 220)
    write_png(str(tmp_path / "5.png"), np.maximum(image, 1))
    image[:, 132:] = 0
    for name, more in (("1", {}), ("2", {"nodata": 0}), ("3", {})):
        write(tmp_path / f"{name}.tif", np.moveaxis(image, -1, 0), **more)
        write_png(str(tmp_path / f"{name}_class.png"), label)
    write_png(str(tmp_path / "5_class.png"), label)
    result = run_preprocess(tmp_path / "set", "--origin", tmp_path, "--tiles", 4, "--tile_size", 64,
                            "--no_augment")
    assert result.returncode == 0, result.stderr
    [line] = [line for line in result.stdout.splitlines() if "warning: " in line]
    assert re.fullmatch(r"warning: scenes 1, 3: about (3|4)\d% of it is black \(0 in every band\) "
                        r"and counts as ground; .*\(nodata in docs/data.md\)", line)
