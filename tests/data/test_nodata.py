"""What declares no data, in a label or in its image, is ignored."""

import cv2
import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from conftest import draw_scene
from preprocess_runs import TABLE, read_list, run_preprocess
from utils.classes import colour_map, read_classes
from utils.data.image import MEAN_PIXEL, Image, is_partly_black
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


def test_what_a_labels_mask_or_alpha_leaves_out_is_ignored(tmp_path, table):
    label = draw_scene(40, 50)[1]
    label[label == 255] = 0
    left_out = np.random.default_rng(0).random(label.shape) < .3
    expected, stored = np.where(left_out, 255, label), np.where(left_out, 0, label)
    data = np.where(left_out, 0, 255).astype(np.uint8)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(
            tmp_path / "a.tif", "w", driver="GTiff", count=1, height=40, width=50,
            dtype="uint8") as dataset:
        dataset.write(stored, 1)
        dataset.write_mask(data)
    np.testing.assert_array_equal(read_label(str(tmp_path / "a.tif"), table), expected)
    colours = np.dstack([colour_map(label, table) * (data > 0)[..., None], data])
    cv2.imwrite(str(tmp_path / "b.png"), cv2.cvtColor(colours, cv2.COLOR_RGBA2BGRA))
    write(tmp_path / "c.tif", np.moveaxis(colours, -1, 0), photometric="RGB", alpha="YES")
    for name in ("b.png", "c.tif"):
        np.testing.assert_array_equal(read_label(str(tmp_path / name), table), expected)


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


@pytest.mark.parametrize("count, dtype, bands, alpha", [
    (4, np.uint8, (1, 2, 3), False),   # GDAL takes the fourth of four bands for alpha
    (4, np.uint8, (4, 3, 2), False),
    (4, np.uint16, (1, 2, 3), False),  # the fourth goes on where the others have nothing
    (5, np.uint8, (1, 2, 3), True), (5, np.uint8, (4, 3, 2), True), (4, np.uint16, (1, 2, 3), True)])
@pytest.mark.parametrize("overviews", [False, True])
def test_the_chosen_bands_or_an_alpha_band_say_where_nothing_is(tmp_path, count, dtype, bands,
                                                                alpha, overviews):
    samples = np.random.default_rng(0).integers(1, 200, (count, 60, 80)).astype(dtype)
    hole = np.zeros((60, 80), bool)
    hole[:, 48:] = True
    samples[:3, hole] = 0
    samples[1, 40, 5] = 0  # and something in the other bands
    if bands[0] == 4:
        samples[3, hole] = 0
    elif dtype == np.uint8:
        samples[3, :20] = 0
    if alpha:
        samples[-1] = np.where(hole, 0, np.iinfo(dtype).max)
    path = write(tmp_path / "a.tif", samples, **({} if alpha else {"nodata": 0}))
    with rasterio.open(path, "r+") as dataset:
        if alpha:
            dataset.colorinterp = [*dataset.colorinterp[:-1], ColorInterp.alpha]
        if overviews:
            dataset.build_overviews([2])
    with Image(path, bands, [(0, 255)] * 3) as image:
        np.testing.assert_array_equal(image.has_data(0, 0, 60, 80), ~hole)
        expected = np.moveaxis(samples[[band - 1 for band in bands]], 0, -1)
        np.testing.assert_array_equal(image.read(0, 0, 60, 80),
                                      np.where(hole[..., None], MEAN_PIXEL, expected))
        assert not image.is_complete and not is_partly_black(image)
        assert image.sample(bands)[1].mean() == pytest.approx(.6)


@pytest.mark.parametrize("size", [(30, 40), (60, 80), (97, 131), (41, 33)])
def test_what_is_transparent_is_no_part_of_a_resampled_picture(tmp_path, size):
    rgba = np.random.default_rng(1).integers(0, 256, (60, 80, 4)).astype(np.uint8)
    rgba[..., 3] = np.where(np.add.outer(np.arange(60), np.arange(80)) < 61, 0, 255)
    opaque = rgba[..., 3] > 0
    views = []
    for stored in (0, 255):
        rgba[~opaque, :3] = stored
        cv2.imwrite(str(tmp_path / "a.png"), rgba[..., [2, 1, 0, 3]])
        with Image(str(tmp_path / "a.png")) as image:
            view = image.resampled(*size)
            views.append((view.read(0, 0, *size), view.has_data(0, 0, *size)))
    np.testing.assert_array_equal(*[pixels for pixels, _ in views])
    pixels, data = views[0]
    assert (pixels[~data] == MEAN_PIXEL).all() and .3 < (~data).mean() < .4
    if size == (30, 40):  # each the average of what is opaque of four
        squares = np.ma.array(rgba[..., :3], mask=~opaque[..., None].repeat(3, -1))
        squares = squares.reshape(30, 2, 40, 2, 3).mean((1, 3))
        np.testing.assert_array_equal(data, ~squares.mask.any(-1))
        np.testing.assert_allclose(pixels[data], squares[data], atol=.51)


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
    assert line == ("warning: scenes 1, 3: partly black (0 in every band), which is ground to the "
                    "model; where nothing is, let the file say so (nodata in docs/data.md)")
