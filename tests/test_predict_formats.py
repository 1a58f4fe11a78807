"""predict.py on other rasters than plain TIFF: what its map keeps, and warnings of other units."""

import os
import re

import cv2
import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.transform import Affine

from predict_stand_in import (  # noqa: F401  (fixtures)
    TABLE, call, logs, samples_of, write_geotiff, write_run)
from conftest import read_settings
from utils.data.image import Image
from utils.data.scenes import read_label

GRID = Affine(10, 0, 300000, 0, -10, 5000000)
ONE = [1] + [0] * 19
RPCS = RPC(height_off=0, height_scale=100, lat_off=10, lat_scale=.1, long_off=20, long_scale=.1,
           line_off=35, line_scale=35, line_num_coeff=[0, 0, 1] + [0] * 17, line_den_coeff=ONE,
           samp_off=40, samp_scale=40, samp_num_coeff=[0, 1] + [0] * 18, samp_den_coeff=ONE)


def write(path, driver, samples, **more):
    bands, height, width = samples.shape
    with rasterio.open(path, "w", driver=driver, count=bands, height=height, width=width,
                       dtype=samples.dtype, **more) as dataset:
        dataset.write(samples)
    return str(path)


@pytest.mark.parametrize("name, driver, more", [
    ("a.jp2", "JP2OpenJPEG", {"REVERSIBLE": "YES", "QUALITY": 100}), ("a.img", "HFA", {}),
    ("a.png", "GTiff", {}), ("a.png", "PNG", {}), ("a.jpg", "JPEG", {}), ("a.vrt", "VRT", {})])
def test_the_map_lies_where_its_scene_lies(call, tmp_path, name, driver, more):
    place = {"crs": "EPSG:32640", "transform": GRID}
    if driver == "VRT":
        write(tmp_path / "source.tif", "GTiff", samples_of(70, 80), **place)
        with rasterio.open(tmp_path / "source.tif") as source:
            rasterio.shutil.copy(source, str(tmp_path / name), driver="VRT")
    else:
        write(tmp_path / name, driver, samples_of(70, 80), **place, **more)
    status, out = call("--image", tmp_path / name, "--probabilities")
    assert status == 0
    for file in ("a_class.tif", "a_probabilities.tif"):
        with rasterio.open(out / file) as result:
            assert (result.crs, result.transform) == (rasterio.CRS.from_epsg(32640), GRID)
    with Image(str(tmp_path / name)) as image:
        expected = image.read(0, 0, 70, 80).argmax(-1)
    np.testing.assert_array_equal(read_label(str(out / "a_class.tif"), TABLE), expected)
    before = os.stat(out / "a_class.tif").st_mtime_ns
    assert call("--image", tmp_path / name, "--probabilities")[0] == 0  # found again, by that name
    assert os.stat(out / "a_class.tif").st_mtime_ns == before


def test_a_plain_picture_has_a_plain_map(call, tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), np.moveaxis(samples_of(70, 80), 0, -1))
    _, out = call("--image", tmp_path / "a.jpg")
    assert sorted(os.listdir(out)) == [
        "a_area.csv", "a_class.png", "a_colour.png", "a_overlay.png"]


def test_rpcs_are_kept(call, tmp_path):
    path = write_geotiff(tmp_path / "in" / "a.tif", samples_of(70, 80), rpcs=RPCS)
    _, out = call("--image", path)
    with rasterio.open(path) as scene, rasterio.open(out / "a_class.tif") as result:
        assert result.rpcs == scene.rpcs and result.rpcs.line_off == 35


def test_control_points_without_a_crs_are_kept(call, tmp_path):
    points = [GroundControlPoint(row, column, 10 + column, 50 - row)
              for row, column in ((0, 0), (0, 80), (70, 0), (70, 80))]
    path = write_geotiff(tmp_path / "in" / "a.tif", samples_of(70, 80), gcps=points,
                         crs=rasterio.CRS())
    _, out = call("--image", path)
    with rasterio.open(out / "a_class.tif") as result:
        assert [(p.row, p.col, p.x, p.y) for p in result.gcps[0]] == [
            (p.row, p.col, p.x, p.y) for p in points]


LIMITS = [[944, 2612], [900, 2500], [800, 2700]]
FITTING = np.random.default_rng(2).normal(1700, 400, (3, 70, 80)).clip(0)


@pytest.mark.parametrize("samples, told", [
    (FITTING.astype(np.uint16), None),
    ((FITTING / 2 + 600).astype(np.uint16), None),  # of less contrast
    ((FITTING + 300).astype(np.float32), None),
    ((FITTING / 10000).astype(np.float32), r"0\.\d+ to 0\.\d+"),
    (FITTING.astype(np.uint16) * 4, r"\d{4}\S* to \d{5}"),
    ((FITTING * 4 - 5100).clip(0).astype(np.uint16), r"0 to \d{4}"),  # round their middle
    ((FITTING / 10000 + 1700).astype(np.float32), "170"),
    (samples_of(70, 80), r"\d to 2\d\d.* of 8 bits are taken as they are"),
])
def test_a_scene_of_another_range_than_the_runs_is_told(call, logs, tmp_path, capsys, samples,
                                                        told):
    if not (logs / "limits").exists():
        write_run(logs / "limits", read_settings(str(logs / "stand-in")) | {
            "bands": [1, 2, 3], "stretch": LIMITS})
    path = write_geotiff(tmp_path / "in" / "a.tif", samples)
    assert call("--run", "limits", "--image", path)[0] == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(lines) == (told is not None)
    if told:
        assert "944 to 2612, 900 to 2500, 800 to 2700" in lines[0] and path in lines[0]
        low, high = np.percentile(samples[0], (2, 98))
        assert f"{low:g} to {high:g}" in lines[0] or abs(low) > 1
        assert re.search(told, lines[0])
    # Without limits of the run's, or with other bands, the scene's own are taken.
    call("--run", "limits", "--image", path, "--bands", 3, 2, 1, "--overwrite")
    call("--image", path, "--overwrite")
    assert "warning" not in capsys.readouterr().out
