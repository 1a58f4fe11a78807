"""predict.py's GeoTIFFs as GDAL, and with it a GIS, opens them: names, overviews, layout, place."""

import os
import struct

import numpy as np
import pytest
import rasterio
import rasterio.control
import rasterio.rpc
import rasterio.shutil
from rasterio.transform import Affine, from_origin
from xml.etree import ElementTree

from predict_stand_in import (  # noqa: F401  (fixtures)
    TABLE, call, logs, samples_of, write_geotiff)
from utils.classes import ClassTable
from utils.inference import map_writer
from utils.inference.category_names import category_names

UTM = "EPSG:32640"


def band_as_gdal_reads_it(path, tmp_path):
    """The first band in GDAL's own words: those of a VRT that it makes of the file."""
    rasterio.shutil.copy(str(path), str(tmp_path / "read.vrt"), driver="VRT")
    return ElementTree.parse(tmp_path / "read.vrt").getroot().find("VRTRasterBand")


@pytest.mark.parametrize("cog", [(), ("--cog",)])
def test_gdal_reads_names_and_colours_without_a_style_file(call, tmp_path, cog):
    path = write_geotiff(tmp_path / "in" / "a.tif", samples_of(70, 80))
    _, out = call("--image", path, *cog)
    band = band_as_gdal_reads_it(out / "a_class.tif", tmp_path)
    assert [name.text for name in band.find("CategoryNames")] == [*TABLE.names]
    entries = [[int(entry.get(f"c{i}")) for i in (1, 2, 3)] for entry in band.find("ColorTable")]
    assert entries[:3] == TABLE.colours.tolist() and entries[255] == [*TABLE.ignore_colour]
    rows = [[cell.text for cell in row]
            for row in band.find("GDALRasterAttributeTable").findall("Row")]
    assert rows == [[str(number), name, *map(str, colour)] for number, (name, colour) in enumerate(
        zip(TABLE.names, TABLE.colours.tolist()))]


def test_names_may_hold_anything(tmp_path):
    names = ("a & b", "<c>", "草地 \"d\"")
    path = write_geotiff(tmp_path / "a.tif", samples_of(9, 9, 1))
    with open(path + ".aux.xml", "wb") as file:
        file.write(category_names(ClassTable(names, TABLE.colours)))
    band = band_as_gdal_reads_it(path, tmp_path)
    assert [name.text for name in band.find("CategoryNames")] == [*names]


@pytest.mark.parametrize("cog", [(), ("--cog",)])
def test_overviews_hold_pixels_of_the_map(call, tmp_path, cog):
    path = write_geotiff(tmp_path / "in" / "a.tif", samples_of(300, 1100), crs=UTM,
                         transform=from_origin(3e5, 2e6, 1, 1))
    _, out = call("--image", path, "--probabilities", "--confidence", *cog)
    for name in ("class", "probabilities", "confidence"):
        with rasterio.open(out / f"a_{name}.tif") as result:
            assert {*map(tuple, map(result.overviews, result.indexes))} == {(2, 4, 8)}
            whole = result.read()
        with rasterio.open(out / f"a_{name}.tif", overview_level=0) as result:
            half = result.read()
            assert result.compression.value == "DEFLATE"
        assert half.shape[1:] == (150, 550)
        shifted = [whole[:, top::2, left::2] for top in (0, 1) for left in (0, 1)]
        assert (half == shifted).any(axis=0).all()
    with rasterio.open(out / "a_class.tif") as result:
        assert result.tags()["step"] == "7" and result.nodata == 255


def first_offsets(path):
    """The file offsets of each image's directory and of its first block, largest image first."""
    with open(path, "rb") as file:
        data = file.read()
    sizes, found = {3: "H", 4: "I"}, []
    assert data[:4] == b"II*\0"  # a classic little-endian TIFF
    place, = struct.unpack_from("<I", data, 4)
    while place:
        count, = struct.unpack_from("<H", data, place)
        for entry in range(place + 2, place + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from("<HHI", data, entry)
            if tag == 324:  # TileOffsets
                at = entry + 8 if values == 1 else struct.unpack_from("<I", data, entry + 8)[0]
                found.append((place, struct.unpack_from(f"<{sizes[kind]}", data, at)[0]))
        place, = struct.unpack_from("<I", data, place + 2 + 12 * count)
    return found


def test_cloud_optimized_means_in_the_order_of_the_format(call, tmp_path):
    """The rules of rio-cogeo and GDAL's validate_cloud_optimized_geotiff.py: tiled, overviews,
    directories first, from the largest to the smallest image, then pixels in the other order."""
    path = write_geotiff(tmp_path / "in" / "a.tif", samples_of(300, 600), crs=UTM,
                         transform=from_origin(3e5, 2e6, 1, 1))
    _, out = call("--image", path, "--cog", "--probabilities")
    for name in ("class", "probabilities"):
        with rasterio.open(out / f"a_{name}.tif") as result:
            assert result.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert result.block_shapes[0] == (256, 256) and result.overviews(1) == [2, 4]
            assert (result.crs, result.transform) == (rasterio.CRS.from_user_input(UTM),
                                                      from_origin(3e5, 2e6, 1, 1))
        directories, pixels = zip(*first_offsets(out / f"a_{name}.tif"))
        assert len(directories) == 3 and list(directories) == sorted(directories)
        assert list(pixels) == sorted(pixels, reverse=True) and max(directories) < min(pixels)
    plain, cloud = [], []
    for target, flags in ((plain, ()), (cloud, ("--cog",))):
        call("--image", path, "--overwrite", *flags)
        with rasterio.open(out / "a_class.tif") as result:
            target.append(result.read())
            if flags == ():
                assert "LAYOUT" not in result.tags(ns="IMAGE_STRUCTURE")
    np.testing.assert_array_equal(plain, cloud)
    assert not [name for name in os.listdir(out) if name.startswith(".")]


def test_pictures_have_a_limit():
    assert map_writer.PICTURE_PIXELS <= 1 << 24


def points(height, width, lift=0.0):
    return [rasterio.control.GroundControlPoint(row, column, 10 + column / 100 + row / 300,
                                                50 - row / 100, lift)
            for row, column in ((0, 0), (0, width), (height, 0), (height, width))]


RPCS = rasterio.rpc.RPC(
    height_off=30., height_scale=500., lat_off=47.4, lat_scale=.1, long_off=8.5, long_scale=.1,
    line_off=35., line_scale=35., samp_off=40., samp_scale=40., err_bias=None, err_rand=None,
    line_num_coeff=[0., 0., -1.] + [0.] * 17, line_den_coeff=[1.] + [0.] * 19,
    samp_num_coeff=[0., 1.] + [0.] * 18, samp_den_coeff=[1.] + [0.] * 19)


@pytest.mark.parametrize("cog", [(), ("--cog",)])
@pytest.mark.parametrize("place", [
    {"crs": UTM, "transform": Affine(.5, .3, 325000.25, -.2, -.5, 2785000.75)},  # turned, sheared
    {"crs": UTM, "transform": Affine(.5, 0, 325000, 0, .5, 2785000)},  # south up
    {"crs": UTM, "transform": Affine(-.5, 0, 325000, 0, -.5, 2785000)},
    {"crs": "EPSG:4326", "transform": Affine(1e-5, 0, 8.123456789, 0, -1e-5, 47.987654321)},
    {"transform": Affine(.5, 0, 325000, 0, -.5, 2785000)},  # as from a world file: no CRS
    {"crs": "EPSG:4326", "gcps": points(70, 80, 3.5)},
    {"rpcs": RPCS},
    {"crs": UTM, "transform": Affine(.5, 0, 325000, 0, -.5, 2785000), "rpcs": RPCS},
    {},
], ids=str.split("turned south-up mirrored degrees no-CRS GCPs RPCs RPCs-and-transform nothing"))
def test_the_map_lies_where_rasterio_puts_the_scene(call, tmp_path, place, cog):
    path = write_geotiff(tmp_path / "in" / "a.tif", samples_of(70, 80), **place)
    _, out = call("--image", path, "--confidence", *cog)
    with rasterio.open(path) as scene:
        for name in ("class", "confidence"):
            with rasterio.open(out / f"a_{name}.tif") as result:
                assert (result.shape, result.crs) == (scene.shape, scene.crs)
                assert result.transform == scene.transform
                assert [p.asdict() | {"id": None} for p in result.gcps[0]] == [
                    p.asdict() | {"id": None} for p in scene.gcps[0]]
                assert result.gcps[1] == scene.gcps[1]
                assert result.rpcs == scene.rpcs
