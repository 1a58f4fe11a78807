"""Scenes and labels read window by window, and what GeoTIFFs say beyond their pixels."""

import threading

import cv2
import numpy as np
import pytest
import rasterio

from utils.classes import colour_map, read_classes
from utils.data.gdal_files import is_gdal_error
from utils.data.image import MEAN_PIXEL, Image
from utils.data.label import Label
from utils.data.scenes import common_stretch, write_png


@pytest.fixture(name="table", scope="module")
def table_fixture(repository):
    return read_classes(str(repository / "dataset" / "classes.csv"))


def _random(shape, dtype, high=256, seed=0):
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def _write(path, samples, **settings):
    """samples: [bands, height, width]."""
    bands, height, width = samples.shape
    with rasterio.open(path, "w", driver="GTiff", count=bands, height=height, width=width,
                       dtype=samples.dtype, **settings) as dataset:
        dataset.write(samples)
    return str(path)


def _whole(image):
    return image.read(0, 0, image.height, image.width)


@pytest.mark.parametrize("settings", [
    {}, {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"},
    {"interleave": "pixel", "compress": "lzw"}])
def test_windows_and_bands_of_a_tiff(tmp_path, settings):
    samples = _random((5, 150, 201), np.uint8)
    path = _write(tmp_path / "1.tif", samples, **settings)
    for bands in ((1, 2, 3), (5, 3, 2), (4, 4, 4), (4,), (5, 1), (4, 3, 2, 1), (1, 5, 3, 1, 2)):
        with Image(path, bands) as image:
            assert (image.height, image.width, image.stretch) == (150, 201, None)
            for top, left, height, width in ((0, 0, 150, 201), (149, 200, 1, 1), (30, 60, 90, 70)):
                expected = np.stack([samples[band - 1] for band in bands], -1)
                read = image.read(top, left, height, width)
                assert read.dtype == np.uint8
                np.testing.assert_array_equal(
                    read, expected[top:top + height, left:left + width])
            assert image.has_data(0, 0, 150, 201).all()


def test_bands_that_are_not_there(tmp_path):
    path = _write(tmp_path / "1.tif", _random((4, 20, 20), np.uint8))
    with pytest.raises(ValueError, match=r"1.tif: 4 band\(s\) of uint8; there is no band 5"):
        Image(path, (5, 3, 2))
    path = _write(tmp_path / "2.tif", _random((1, 20, 20), np.uint16))
    with pytest.raises(ValueError, match="needs three bands.*--bands 1 1 1"):
        Image(path)
    with pytest.raises(ValueError, match=r"2.tif: 1 band\(s\) of uint16; there is no band 4"):
        Image(path, (1, 4))


def test_a_photo_has_no_other_bands_than_its_own(tmp_path):
    rgba = _random((20, 30, 4), np.uint8)
    rgba[..., 3] |= 1
    cv2.imwrite(str(tmp_path / "1.png"), cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
    cv2.imwrite(str(tmp_path / "2.jpg"), rgba[..., 0])
    for bands in ((4, 3, 2, 1), (4,), (1, 2, 3, 5)):  # the fourth is transparency
        with pytest.raises(ValueError, match="1.png: .*red, green and blue at most.*GeoTIFF"):
            Image(str(tmp_path / "1.png"), bands)
    with pytest.raises(ValueError, match="2.jpg: 1 band.*there is no band 2"):
        Image(str(tmp_path / "2.jpg"), (1, 2))
    with Image(str(tmp_path / "1.png"), (3, 1)) as image:
        np.testing.assert_array_equal(_whole(image), rgba[..., [2, 0]])


def test_a_fourth_band_that_gdal_takes_for_alpha_is_data_once_chosen(tmp_path):
    """GDAL writes four bands of 8 bits as RGBA, so a dark near infrared would be 'no data'."""
    samples = _random((4, 20, 30), np.uint8)
    samples[3, :, :10] = 0
    path = _write(tmp_path / "1.tif", samples)
    with Image(path) as image:
        assert image.has_data(0, 0, 20, 30).mean() < .7
    with Image(path, (1, 2, 3, 4)) as image:
        assert image.has_data(0, 0, 20, 30).all()
        np.testing.assert_array_equal(_whole(image), np.moveaxis(samples, 0, -1))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_a_stretch_takes_percentiles_of_what_is_data_to_black_and_white(tmp_path, dtype):
    values = np.random.default_rng(3).normal(3000, 400, (3, 400, 300))
    values += np.array([0, 1000, 2000])[:, None, None]
    samples = values.astype(dtype)
    samples[:, :200] = -999 if dtype != np.uint16 else 0
    path = _write(tmp_path / "1.tif", samples, nodata=samples[0, 0, 0])
    low, high = np.percentile(samples[:, 200:], (2, 98), axis=(1, 2))
    with Image(path) as image:
        np.testing.assert_allclose(image.stretch, np.stack([low, high], 1), rtol=.005)
        picture = _whole(image)
        data = image.has_data(0, 0, 400, 300)
        np.testing.assert_array_equal(data, np.arange(400)[:, None].repeat(300, 1) >= 200)
        stretch = image.stretch
    for band in range(3):
        exact = 255 * (samples[band] - stretch[band, 0]) / (stretch[band, 1] - stretch[band, 0])
        np.testing.assert_allclose(picture[200:, :, band], np.clip(exact, 0, 255)[200:], atol=.51)
        assert 1 <= 100 * (picture[200:, :, band] == 255).mean() <= 3
    # A run's own limits take the place of the scene's.
    with Image(path, stretch=[(0, 10000)] * 3) as image:
        expected = samples[:, 200:] / 10000 * 255
        np.testing.assert_allclose(_whole(image)[200:], np.moveaxis(expected, 0, -1), atol=.51)


def test_a_scene_with_hardly_any_data_does_not_spoil_the_common_stretch(tmp_path):
    random, paths = np.random.default_rng(0), []
    for name, valid in (("a", 40000), ("b", 160000), ("empty", 0), ("edge", 6)):
        side = 400 if name == "b" else 200
        samples = random.integers(1000, 3000, (3, side, side)).astype(np.uint16)
        samples.reshape(3, -1)[:, valid:] = 0
        samples.reshape(3, -1)[:, :valid] += 1000 * (name == "b")
        paths.append(str(tmp_path / f"{name}.tif"))
        with rasterio.open(paths[-1], "w", driver="GTiff", count=3, height=side, width=side,
                           dtype="uint16", nodata=0) as dataset:
            dataset.write(samples)
    # a is even from 1000 to 3000, b from 2000 to 4000, with the same say.
    for used in (paths[:2], paths[:3], paths):
        np.testing.assert_allclose(common_stretch(used, (1, 2, 3)), [(1080, 3920)] * 3, atol=15)
    alone = common_stretch(paths[3:], (1, 2, 3))
    assert all(1000 <= low < high < 3000 for low, high in alone)
    assert common_stretch(paths[2:3], (1, 2, 3)) == [(0, 1)] * 3


def test_a_stretch_is_estimated_from_overviews_or_a_sample(tmp_path):
    # A slope, so that a sample from one corner would be far off.
    values = np.add.outer(np.arange(1500), 2 * np.arange(1800)).astype(np.uint16)
    samples = np.stack([values, values + 500, values])
    exact = np.percentile(samples, (2, 98), axis=(1, 2)).T
    for overviews in (False, True):
        path = _write(tmp_path / f"{overviews}.tif", samples, tiled=True, blockxsize=256,
                      blockysize=256)
        if overviews:
            with rasterio.open(path, "r+") as dataset:
                dataset.build_overviews([2, 4])
        with Image(path) as image:
            np.testing.assert_allclose(image.stretch, exact, atol=.02 * values.max())


def test_no_number_is_nodata_and_an_even_band_has_a_stretch(tmp_path):
    samples = np.full((3, 30, 40), 7, np.float32)
    samples[1, 3, 5], samples[2, 4, 6] = np.nan, np.inf
    with Image(_write(tmp_path / "1.tif", samples)) as image:
        data = image.has_data(0, 0, 30, 40)
        assert not data[3, 5] and not data[4, 6] and data.sum() == data.size - 2
        assert (_whole(image) == np.where(data, 0, MEAN_PIXEL)[..., None]).all()
    with Image(_write(tmp_path / "2.tif", samples * np.nan)) as image:
        assert not image.has_data(0, 0, 30, 40).any() and (_whole(image) == MEAN_PIXEL).all()


def test_alpha_and_masks_say_where_no_data_is(tmp_path):
    rgba = _random((40, 50, 4), np.uint8)
    rgba[..., 3] = np.where(np.arange(50) < 20, 0, 255)
    cv2.imwrite(str(tmp_path / "1.png"), rgba)
    tiff = _write(tmp_path / "2.tif", np.moveaxis(rgba[..., [2, 1, 0, 3]], -1, 0),
                  photometric="RGB", alpha="YES")
    for path in (str(tmp_path / "1.png"), tiff):
        with Image(path) as image:
            expected = np.where(rgba[..., 3:], rgba[..., 2::-1], MEAN_PIXEL)
            np.testing.assert_array_equal(_whole(image), expected)
            np.testing.assert_array_equal(image.read(3, 10, 5, 20), expected[3:8, 10:30])
            np.testing.assert_array_equal(image.has_data(3, 10, 5, 20)[0], np.arange(10, 30) >= 20)


def test_many_threads_may_read_one_scene(tmp_path):
    samples = _random((3, 600, 600), np.uint8)
    wrong = []
    with Image(_write(tmp_path / "1.tif", samples, tiled=True, compress="deflate")) as image:
        def read(seed):
            for top, left in np.random.default_rng(seed).integers(0, 500, (60, 2)).tolist():
                expected = np.moveaxis(samples[:, top:top + 100, left:left + 100], 0, -1)
                if not (image.read(top, left, 100, 100) == expected).all():
                    wrong.append((top, left))

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.parametrize("block", [64, 4096])
def test_a_damaged_block_is_found_where_it_is_read(tmp_path, block, capfd):
    path = _write(tmp_path / "1.tif", _random((3, 256, 256), np.uint8), compress="deflate",
                  tiled=True, blockxsize=64, blockysize=64)
    with open(path, "r+b") as file:
        file.seek(60000)
        file.write(bytes(block))
    with pytest.raises(ValueError, match="1.tif: truncated or not an image"):
        with Image(path) as image:
            _whole(image)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("header", [b"II*\0", b"II*\0\x08\0\0\0\0\0\0\0\0\0"])
def test_a_damaged_header_is_found_and_is_an_error_of_gdal_when_written_over(tmp_path, header):
    path = tmp_path / "1.tif"
    path.write_bytes(header)
    with pytest.raises(ValueError, match="1.tif: truncated or not an image"):
        Image(str(path))
    # Here rasterio raises one that is no RasterioError.
    with pytest.raises(Exception) as caught:
        _write(path, _random((1, 8, 8), np.uint8))
    assert is_gdal_error(caught.value) and not is_gdal_error(ValueError("ours"))


def test_windows_of_a_label_are_those_of_the_whole(tmp_path, draw_scene, table):
    _, label = draw_scene(90, 120)
    ids, colours = str(tmp_path / "ids.tif"), str(tmp_path / "colours.png")
    _write(ids, label[None].astype(np.uint16))
    write_png(colours, colour_map(label, table))
    for path in (ids, colours):
        with Label(path, table) as opened:
            np.testing.assert_array_equal(opened.read(10, 20, 50, 60), label[10:60, 20:80])


def test_the_colours_of_a_palette_decide_where_the_table_knows_them(tmp_path, draw_scene, table):
    _, label = draw_scene(40, 50)
    order = np.random.default_rng(1).permutation(256).astype(np.uint8)
    colours = colour_map(np.arange(256).astype(np.uint8), table)
    known, unknown = {}, {}
    for value in range(256):
        known[int(order[value])] = tuple(map(int, colours[value]))
        unknown[value] = (value, 7, 9)
    for name, palette, indices in (("known", known, order[label]), ("unknown", unknown, label)):
        path = str(tmp_path / f"{name}.tif")
        with rasterio.open(path, "w", driver="GTiff", count=1, height=40, width=50,
                           dtype="uint8") as dataset:
            dataset.write_colormap(1, palette)
            dataset.write(indices[None])
        with Label(path, table) as opened:
            np.testing.assert_array_equal(_whole(opened), label, err_msg=name)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_usual_nodata_values_do_not_overflow(tmp_path, dtype):
    samples = np.random.default_rng(0).random((3, 60, 60)).astype(dtype)
    samples[:, :20] = nodata = np.finfo(dtype).min
    with Image(_write(tmp_path / "1.tif", samples, nodata=nodata)) as image:
        assert (_whole(image)[:20] == MEAN_PIXEL).all() and _whole(image)[20:].max() == 255
