"""predict.py on scenes that a server has: range_server.py's, over HTTP."""

import os
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from predict_stand_in import (  # noqa: F401  (fixtures)
    TABLE, brightest, call, logs, samples_of, write_geotiff)
from utils.data.scenes import read_label

PLACE = {"crs": "EPSG:32640", "transform": from_origin(325000, 2785000, .5, .5)}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a server of the folder `tmp_path`."""
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    process = subprocess.Popen(
        [sys.executable, os.path.join(os.path.dirname(__file__), "range_server.py"), str(tmp_path)],
        stdout=subprocess.PIPE, text=True)
    yield f"127.0.0.1:{int(process.stdout.readline())}"
    process.kill()
    process.communicate()


@pytest.mark.parametrize("form", ["http://{}/in/a.tif", "http://{}/in/a.tif?key=b.c/d",
                                  "/vsicurl/http://{}/in/a.tif", "s3://in/a.tif"])
def test_a_scene_on_a_server_is_mapped_as_a_file_is(call, tmp_path, server, monkeypatch, form):
    for name, value in {"AWS_S3_ENDPOINT": server, "AWS_HTTPS": "NO",
                        "AWS_VIRTUAL_HOSTING": "FALSE", "AWS_NO_SIGN_REQUEST": "YES"}.items():
        monkeypatch.setenv(name, value)
    samples = samples_of(150, 200)
    path = write_geotiff(tmp_path / "in" / "a.tif", samples, **PLACE)
    label = write_geotiff(tmp_path / "in" / "a_class.tif", samples.argmax(0)[None].astype(np.uint8))
    _, out = call("--image", form.format(server), "--label",
                  f"http://{server}/in/a_class.tif")
    np.testing.assert_array_equal(read_label(str(out / "a_class.tif"), TABLE),
                                  read_label(label, TABLE))
    with rasterio.open(path) as scene, rasterio.open(out / "a_class.tif") as result:
        assert (scene.crs, scene.transform) == (result.crs, result.transform)
    assert "1.0" in (out / "a_scores.csv").read_text()


def test_a_server_that_stops_half_way_is_one_line_and_no_map(call, tmp_path, server, capfd):
    write_geotiff(tmp_path / "in" / "b.tif", samples_of(1500, 300), tiled=True, blockxsize=64,
                  blockysize=64, **PLACE)
    address = f"http://{server}/in/b.tif"

    def stopping(windows):
        (tmp_path / "stop").touch()
        return brightest(windows)

    with pytest.raises(OSError, match=rf"{address}: could not be read .*; check the") as error:
        call("--image", address, "--precision", "float32", "--probabilities",
             predictor=stopping)
    assert len(str(error.value).splitlines()) == 1
    assert os.listdir(tmp_path / "out") == [] and capfd.readouterr().err == ""


def test_what_a_server_has_not_is_one_line(call, server):
    with pytest.raises(OSError, match=r"none.tif: could not be read .*404.*; check the address"):
        call("--image", f"http://{server}/in/none.tif")
    assert not call.models
