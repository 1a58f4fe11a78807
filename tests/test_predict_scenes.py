"""predict.py on rasters: GeoTIFFs, many scenes, and inputs that end with one line.

The model is a stand-in whose answer is known, so that every pixel of a map can be checked.
"""

import os

import cv2
import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from predict_stand_in import (  # noqa: F401  (fixtures)
    TABLE, WINDOW, brightest, call, logs, samples_of, write_geotiff, write_run)
from utils.inference import map_writer
from conftest import read_settings
from utils.classes import decode_colours
from utils.data.image import MEAN_PIXEL, Image
from utils.data.scenes import read_image, read_label, write_png


def _expected(path, nodata=None, bands=(1, 2, 3)):
    """The stand-in's map, from the scene as utils.data.rasters reads it."""
    with Image(path, bands) as image:
        classes = image.read(0, 0, image.height, image.width).argmax(-1).astype(np.uint8)
    if nodata is not None:
        classes[nodata] = 255
    return classes


def test_geotiff_in_is_geotiff_out(call, tmp_path):
    samples = samples_of(300, 700)
    empty = np.zeros((300, 700), bool)
    empty[40:120, 300:] = True
    samples[:, empty] = 0
    place = {"crs": "EPSG:32640", "transform": Affine(.5, .01, 325000, -.02, -.5, 2785000)}
    path = write_geotiff(tmp_path / "in" / "a.tif", samples, nodata=0, **place)
    status, out = call("--image", path, "--probabilities")
    assert status == 0
    assert sorted(os.listdir(out)) == ["a_area.csv", "a_class.tif", "a_class.tif.aux.xml",
                                       "a_colour.png", "a_overlay.png", "a_probabilities.tif"]
    with rasterio.open(out / "a_class.tif") as result:
        assert (result.crs, result.transform) == (rasterio.CRS.from_epsg(32640), place["transform"])
        assert (result.count, result.dtypes, result.nodata) == (1, ("uint8",), 255)
        assert result.profile["tiled"] and result.block_shapes == [(256, 256)]
        assert result.compression.value == "DEFLATE"
        colours = result.colormap(1)
        assert [colours[i][:3] for i in range(3)] == [tuple(row) for row in TABLE.colours.tolist()]
        assert colours[255][:3] == TABLE.ignore_colour
        assert result.tags()["run"] == "stand-in" and result.tags()["step"] == "7"
        np.testing.assert_array_equal(result.read(1), _expected(path, empty))
    # As a label the map is what it says, by its ids and by its colours.
    np.testing.assert_array_equal(read_label(str(out / "a_class.tif"), TABLE),
                                  _expected(path, empty))
    with rasterio.open(out / "a_probabilities.tif") as result:
        assert (result.crs, result.transform) == (rasterio.CRS.from_epsg(32640), place["transform"])
        assert (result.count, result.nodata, result.descriptions) == (3, 255, TABLE.names)
        assert result.scales == pytest.approx((1 / 254,) * 3)
        values = result.read()
    assert (values[:, empty] == 255).all()
    shares = (samples + np.float32(1)) / (samples + np.float32(1)).sum(0)
    np.testing.assert_allclose(values[:, ~empty], 254 * shares[:, ~empty], atol=.51)


def test_ground_control_points_are_kept(call, tmp_path):
    points = [rasterio.control.GroundControlPoint(row, column, 10 + column, 50 - row)
              for row, column in ((0, 0), (0, 80), (70, 0), (70, 80))]
    path = write_geotiff(tmp_path / "in" / "a.tif", samples_of(70, 80), gcps=points,
                         crs="EPSG:4326")
    _, out = call("--image", path)
    with rasterio.open(out / "a_class.tif") as result:
        kept, crs = result.gcps
        assert crs == rasterio.CRS.from_epsg(4326)
        assert [(p.row, p.col, p.x, p.y) for p in kept] == [(p.row, p.col, p.x, p.y)
                                                           for p in points]


def test_16_bit_scene_of_many_bands(call, tmp_path, capsys):
    path = write_geotiff(tmp_path / "in" / "a.tif",
                         samples_of(90, 80, 5, dtype=np.uint16, high=4000))
    _, out = call("--image", path, "--bands", 5, 3, 2)
    np.testing.assert_array_equal(read_label(str(out / "a_class.tif"), TABLE),
                                  _expected(path, bands=(5, 3, 2)))
    with Image(path, (5, 3, 2)) as image:
        limits = f"{image.stretch[0, 0]:g} {image.stretch[0, 1]:g}"
        np.testing.assert_array_equal(
            np.abs(read_image(str(out / "a_overlay.png"))
                   - (image.read(0, 0, 90, 80) * .5 + TABLE.colours[_expected(path, None,
                                                                            (5, 3, 2))] * .5)) < 1,
            True)
    with rasterio.open(out / "a_class.tif") as result:
        assert result.tags()["bands"] == "5 3 2" and result.tags()["stretch"].startswith(limits)
    assert f"uint16 stretched from {limits}" in capsys.readouterr().out


def test_a_run_knows_its_bands_and_stretch(call, logs, tmp_path):
    samples = samples_of(70, 80, 4, dtype=np.uint16, high=4000)
    path = write_geotiff(tmp_path / "in" / "a.tif", samples)
    stretch = [[0, 1000], [0, 2000], [0, 4000]]
    settings = read_settings(str(logs / "stand-in")) | {"bands": [4, 2, 1], "stretch": stretch}
    write_run(logs / "sixteen", settings)
    for bands, flags in (((4, 2, 1), ()), ((1, 2, 3), ("--bands", 1, 2, 3))):
        _, out = call("--image", path, "--run", "sixteen", "--overwrite", *flags)
        with Image(path, bands, None if flags else stretch) as image:
            expected = image.read(0, 0, 70, 80).argmax(-1)
        np.testing.assert_array_equal(read_label(str(out / "a_class.tif"), TABLE), expected)


def test_as_many_bands_as_the_run_was_trained_on(call, logs, tmp_path, capsys):
    """Four bands, one of them for the fourth place: the stand-in's classes are the places."""
    settings = read_settings(str(logs / "stand-in"))
    classes = settings["classes"] + [{"id": 3, "name": "other", "colour": "#ffffff"}]
    write_run(logs / "four", {
        "model": {"num_classes": 4, "bands": 4}, "classes": classes, "tile_size": WINDOW,
        "bands": [3, 1, 2, 5]})
    path = write_geotiff(tmp_path / "1.tif", samples_of(70, 90, bands=5))
    _, out = call("--run", "four", "--image", path)
    with Image(path, (3, 1, 2, 5)) as image:
        samples = image.read(0, 0, 70, 90)
    with rasterio.open(out / "1_class.tif") as result:
        np.testing.assert_array_equal(result.read(1), samples.argmax(-1))
    overlay = read_image(str(out / "1_overlay.png"))
    colours = np.array([[200, 0, 0], [0, 160, 0], [0, 0, 190], [255, 255, 255]])
    np.testing.assert_allclose(overlay, (colours[samples.argmax(-1)] + samples[..., :3]) / 2,
                               atol=.51)
    for bands in ((1,), (3, 2, 1), (1, 2, 3, 4, 5)):
        with pytest.raises(ValueError, match=rf"--bands 1?.*: {len(bands)} .* was trained on 4"):
            call("--run", "four", "--image", path, "--bands", *bands)
    write_png(str(tmp_path / "2.png"), np.zeros((70, 90, 3), np.uint8))
    with pytest.raises(ValueError, match="2.png: there is no band 5; .* need a GeoTIFF"):
        call("--run", "four", "--image", tmp_path / "2.png")


def test_pictures_of_a_large_scene_show_every_nth_pixel(call, tmp_path, monkeypatch):
    monkeypatch.setattr(map_writer, "PICTURE_PIXELS", 4000)
    path = write_geotiff(tmp_path / "in" / "a.tif", samples_of(207, 150))
    _, out = call("--image", path)
    colours = decode_colours(read_image(str(out / "a_colour.png")), TABLE, "picture")
    np.testing.assert_array_equal(colours, _expected(path)[::3, ::3])
    assert read_image(str(out / "a_overlay.png")).shape == (69, 50, 3)


def test_what_is_stored_where_no_data_is_does_not_reach_the_map(call, tmp_path):
    """The stand-in looks around; so a black or white border would change the pixels beside it."""
    def blurred(windows):
        seen.append((windows == MEAN_PIXEL).all(-1).any())
        return brightest(np.stack([cv2.blur(window, (15, 15)) for window in windows]))

    seen, results = [], []
    rgba = np.moveaxis(samples_of(150, 130, 4), 0, -1)
    rgba[..., 3] = np.where(np.add.outer(np.arange(150), np.arange(130)) < 150, 0, 255)
    for name, stored in (("black", 0), ("white", 255)):
        rgba[rgba[..., 3] == 0, :3] = stored
        cv2.imwrite(str(tmp_path / f"{name}.png"), rgba)
        _, out = call("--image", tmp_path / f"{name}.png", "--probabilities", predictor=blurred)
        with rasterio.open(next(out.glob(f"{name}_probabilities.*"))) as result:
            results.append(result.read())
    assert any(seen) and (results[0][:, rgba[..., 3] > 0] < 255).all()
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("nodata, warned", [(None, True), (0, False)])
def test_a_black_border_that_the_file_does_not_declare_is_told_of(call, tmp_path, capsys, nodata,
                                                                  warned):
    samples = samples_of(100, 90)
    samples[:, :10] = 0
    path = write_geotiff(tmp_path / "in" / "a.tif", samples, nodata=nodata)
    call("--image", path)
    assert (f"warning: {path}: partly black" in capsys.readouterr().out) == warned


def test_nodata_and_ignored_pixels_do_not_count(call, tmp_path, capsys):
    samples = samples_of(100, 90)
    samples[:, :10] = 0
    path = write_geotiff(tmp_path / "in" / "a.tif", samples, nodata=0)
    label = samples.argmax(0).astype(np.uint8)
    label[:, :20] = 255
    right = label.copy()
    label[50:, 50:] = 0
    write_png(str(tmp_path / "in" / "a_class.png"), label)
    _, out = call("--image", path, "--label", tmp_path / "in" / "a_class.png")
    counted = (label != 255) & (np.arange(100) >= 10)[:, None]
    accuracy = (label == right)[counted].mean()
    assert f"accuracy {accuracy:.4f} ({counted.sum():,} pixels)" in capsys.readouterr().out
    assert {"a_scores.csv", "a_confusion.png"} <= set(os.listdir(out))


def test_many_scenes_one_model_and_one_bad_scene(call, tmp_path, capsys):
    folder = tmp_path / "in"
    for number, name in enumerate("abcd"):
        write_geotiff(folder / f"{name}.tif", samples_of(70 + number, 90, seed=number))
    write_geotiff(folder / "a_class.tif", samples_of(70, 90))  # a label: not for the pattern
    (folder / "b.tif").write_bytes((folder / "b.tif").read_bytes()[:9000])
    status, out = call("--image", folder / "d.tif", f"{folder}/*.tif", folder / "a.tif")
    assert status == 2 and len(call.models) == 1
    error = capsys.readouterr().err
    assert error.endswith(f": error: {folder}/b.tif: truncated or not an image; fetch or export "
                          "it again\n") and error.count("\n") == 1
    for name in "acd":
        np.testing.assert_array_equal(read_label(str(out / f"{name}_class.tif"), TABLE),
                                      _expected(str(folder / f"{name}.tif")))
    assert not [name for name in os.listdir(out) if name.startswith(("b_", "."))]


def test_names_of_scenes_are_checked_first(call, tmp_path):
    a = write_geotiff(tmp_path / "in" / "a.tif", samples_of(64, 64))
    other = write_geotiff(tmp_path / "other" / "a.tif", samples_of(64, 64))
    with pytest.raises(ValueError, match="other/a.tif: .*in/a.tif is called a too"):
        call("--image", a, other)
    with pytest.raises(FileNotFoundError, match="x.*: no file matches that pattern; check --image"):
        call("--image", a, tmp_path / "x*.tif")
    b = write_geotiff(tmp_path / "in" / "b.tif", samples_of(64, 64))
    with pytest.raises(ValueError, match="a.tif: 1 of --label for 2 of --image; give one"):
        call("--image", a, b, "--label", a)
    assert not call.models
