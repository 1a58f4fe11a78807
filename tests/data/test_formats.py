"""Which files are opened, by which library, and what palettes and few bits become."""

import shutil

import cv2
import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.transform import Affine

from utils.classes import read_classes
from utils.data.gdal_files import maps_to_geotiff
from utils.data.image import Image
from utils.data.label import Label
from utils.data.scenes import find_scenes, write_png

GRID = Affine(10, 0, 300000, 0, -10, 5000000)
PLACE = {"crs": "EPSG:32640", "transform": GRID}


def photo(height=70, width=90, bands=3):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, bands)).astype(np.uint8)
    return cv2.blur(noise, (5, 5)).reshape(height, width, bands)


def write(path, samples, driver="GTiff", colours=None, **more):
    """samples: [height, width, bands]."""
    height, width, bands = samples.shape
    with rasterio.open(path, "w", driver=driver, count=bands, height=height, width=width,
                       dtype=samples.dtype, **more) as dataset:
        if colours:
            dataset.write_colormap(1, colours)
        dataset.write(np.moveaxis(samples, -1, 0))
    return str(path)


def whole(path, *bands):
    with Image(path, *bands) as image:
        return image.read(0, 0, image.height, image.width)


FORMATS = [("a.jp2", "JP2OpenJPEG", {"REVERSIBLE": "YES", "QUALITY": 100}), ("a.img", "HFA", {}),
           ("a.ntf", "NITF", {"ICORDS": "N"}), ("a.png", "GTiff", {}), ("a.jpg", "GTiff", {}),
           ("a.TIF", "GTiff", {"compress": "deflate"}), ("a", "GTiff", {})]


@pytest.mark.parametrize("name, driver, more", FORMATS)
def test_what_gdal_opens_is_read_by_window_wherever_it_lies(tmp_path, name, driver, more):
    samples = photo()
    path = write(tmp_path / name, samples, driver, **PLACE, **more)
    with Image(path) as image:
        assert image.reads_windows and image.georeference()["transform"] == GRID
        assert image.georeference()["crs"] == rasterio.CRS.from_epsg(32640)
        np.testing.assert_array_equal(image.read(20, 30, 40, 50), samples[20:60, 30:80])
    assert maps_to_geotiff(path)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[:len(data) // 2])
    with pytest.raises(ValueError, match="truncated or not an image"):
        whole(path)


@pytest.mark.parametrize("name, driver", [("a.png", "PNG"), ("a.jpg", "JPEG")])
def test_a_world_file_changes_no_pixel_of_a_picture(tmp_path, name, driver):
    plain = str(tmp_path / name)
    cv2.imwrite(plain, photo())
    decoded = cv2.imread(plain)[..., ::-1]
    with Image(plain) as image:
        assert not image.georeference()
        np.testing.assert_array_equal(image.read(0, 0, 70, 90), decoded)
    assert not maps_to_geotiff(plain)
    (tmp_path / "a.wld").write_text("10\n0\n0\n-10\n300005\n4999995\n")  # of a pixel's centre
    with Image(plain) as image, rasterio.open(plain) as dataset:
        assert dataset.driver == driver
        assert image.georeference()["transform"] == dataset.transform == GRID
        np.testing.assert_array_equal(image.read(0, 0, 70, 90), decoded)
    assert maps_to_geotiff(plain)


def test_a_list_of_other_files_is_opened_by_its_name_only(tmp_path):
    samples = photo()
    write(tmp_path / "a.tif", samples, **PLACE)
    with rasterio.open(tmp_path / "a.tif") as dataset:
        rasterio.shutil.copy(dataset, str(tmp_path / "b.vrt"), driver="VRT")
    np.testing.assert_array_equal(whole(str(tmp_path / "b.vrt")), samples)
    assert maps_to_geotiff(str(tmp_path / "b.vrt"))
    assert [*find_scenes(str(tmp_path))] == ["a", "b"]
    for name in ("c.tif", "c.png", "c"):
        shutil.copy(tmp_path / "b.vrt", tmp_path / name)
        with rasterio.open(tmp_path / name) as dataset:
            assert dataset.driver == "VRT"  # to which GDAL, left alone, would say yes
        with pytest.raises(ValueError, match=f"{name}: a list of other files .*rename it to .vrt"):
            Image(str(tmp_path / name))
    (tmp_path / "a.tif").unlink()
    with pytest.raises(ValueError, match="b.vrt: it or a file that it names is missing"):
        Image(str(tmp_path / "b.vrt"))


@pytest.mark.parametrize("driver", ["ENVI", "EHdr", "PCIDSK"])
def test_no_other_format_is_opened_under_any_name(tmp_path, driver):
    path = write(tmp_path / "a.tif", photo(bands=1), driver)
    with pytest.raises(ValueError, match="a.tif: truncated or not an image"):
        Image(path, (1,))


@pytest.mark.parametrize("dtype, count", [(np.uint8, 256), (np.uint16, 3000)])
def test_a_palette_is_expanded_to_its_colours(tmp_path, dtype, count):
    random = np.random.default_rng(1)
    colours = {i: (*map(int, random.integers(0, 256, 3)), 255) for i in range(count)}
    indices = random.integers(0, count, (40, 50, 1)).astype(dtype)
    path = write(tmp_path / "a.tif", indices, photometric="palette", colours=colours)
    with rasterio.open(path) as dataset:
        table = dataset.colormap(1)
    expected = np.array([[table[i][:3] for i in row] for row in indices[..., 0].tolist()])
    np.testing.assert_array_equal(whole(path), expected)
    np.testing.assert_array_equal(whole(path, (3, 1)), expected[..., [2, 0]])
    with pytest.raises(ValueError, match=r"a.tif: 3 band\(s\) of uint8; there is no band 4"):
        Image(path, (1, 4))


@pytest.mark.parametrize("bits", range(1, 8))
def test_few_bits_are_scaled_to_eight(tmp_path, repository, bits):
    samples = np.random.default_rng(bits).integers(0, 2 ** bits, (40, 50, 3)).astype(np.uint8)
    path = write(tmp_path / "a.tif", samples, nbits=bits, interleave="band")
    np.testing.assert_allclose(whole(path), samples / (2 ** bits - 1) * 255, atol=.5)
    # OpenCV does so by itself with a PNG, of which this is one band.
    grey = write(tmp_path / "grey.tif", samples[..., :1], nbits=bits)
    np.testing.assert_array_equal(whole(grey, (1,)), whole(path, (1,)))
    # The ids of a label are its samples, though GDAL gives those of one bit a palette.
    label = np.minimum(samples[..., :1], 4)
    table = read_classes(str(repository / "dataset" / "classes.csv"))
    with Label(write(tmp_path / "l.tif", label, nbits=bits), table) as opened:
        np.testing.assert_array_equal(opened.read(0, 0, 40, 50), label[..., 0])
    if bits in (1, 2, 4):
        with Label(write(tmp_path / "l.png", label, "PNG", nbits=bits), table) as opened:
            np.testing.assert_array_equal(opened.read(0, 0, 40, 50), label[..., 0])
        png = write(tmp_path / "grey.png", samples[..., :1], "PNG", nbits=bits)
        np.testing.assert_array_equal(whole(png, (1,)), whole(grey, (1,)))


def test_bands_of_other_types_are_left_alone_or_refused(tmp_path):
    """As in a list of Sentinel-2's bands, of which one holds classes of 8 bits."""
    classes = write(tmp_path / "scl.tif", photo(bands=1))
    light = (photo() * np.uint16(20) + np.uint16(7)).astype(np.uint16)
    reflectance = write(tmp_path / "10m.tif", light)
    source = ('<VRTRasterBand dataType="{}" band="{}"><SimpleSource><SourceFilename>{}'
              '</SourceFilename><SourceBand>{}</SourceBand></SimpleSource></VRTRasterBand>')
    bands = [("Byte", 1, classes, 1)] + [("UInt16", n + 1, reflectance, n) for n in (1, 2, 3)]
    path = tmp_path / "all.vrt"
    path.write_text('<VRTDataset rasterXSize="90" rasterYSize="70">'
                    + "".join(source.format(*band) for band in bands) + "</VRTDataset>")
    np.testing.assert_array_equal(whole(str(path), (2, 3, 4)), whole(reflectance, (1, 2, 3)))
    np.testing.assert_array_equal(whole(str(path), (1,)), whole(classes, (1,)))
    with pytest.raises(ValueError, match="all.vrt: bands 1 2 3 have samples of uint16 and uint8"):
        Image(str(path))
    with pytest.raises(ValueError, match=r"all.vrt: .*choose bands of one type with --bands"):
        Image(str(path), (2, 1))


def test_scenes_of_all_these_formats_are_found(tmp_path):
    for name in ("1.jp2", "2.img", "3.VRT", "4.ntf", "5.jpeg", "1_class.img", "6.hdr", "7.wld"):
        (tmp_path / name).touch()
    scenes = find_scenes(str(tmp_path))
    assert [*scenes] == ["1", "2", "3", "4", "5"]
    assert scenes["1"].label_path == str(tmp_path / "1_class.img")


def test_of_what_cannot_be_opened_the_name_decides_what_its_map_is(tmp_path):
    write_png(str(tmp_path / "a.png"), photo())
    (tmp_path / "b.tif").write_bytes(b"II*\0")
    for name, expected in (("a.png", False), ("b.tif", True), ("gone.tif", True), ("no.png", False),
                           ("gone", False)):
        assert maps_to_geotiff(str(tmp_path / name)) == expected, name
