"""predict.py with a known model: polygons, merged regions, areas, and what they need of a scene."""

import os
import subprocess

import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.transform import from_origin

from predict_stand_in import (  # noqa: F401  (fixtures)
    TABLE, brightest, call, logs, samples_of, write_geotiff)
from test_predict_failures import _mount
from utils.data.scenes import write_png
from utils.inference.polygonize import merge_small_regions
from utils.metrics import accuracy, confusion_matrix

PLACE = {"crs": "EPSG:32640", "transform": from_origin(325000, 2785000, .5, .5)}


def blotched(height, width):
    """Samples with regions of a few dozen pixels, under noise."""
    blots = np.repeat(np.repeat(samples_of(-(-height // 12), -(-width // 12)), 12, 1), 12, 2)
    return blots[:, :height, :width] // 2 + samples_of(height, width, seed=1) // 3


def read_layer(path):
    meta, _, geometries, columns = pyogrio.raw.read(path)
    return shapely.from_wkb(geometries), dict(zip(meta["fields"], columns)), meta


def test_one_command_from_a_geotiff_to_polygons(call, tmp_path, capsys):
    samples = blotched(150, 200)
    samples[:, :30, :40] = 0
    path = write_geotiff(tmp_path / "in" / "a.tif", samples, nodata=0, **PLACE)
    label = np.random.default_rng(5).integers(0, 3, (150, 200)).astype(np.uint8)
    write_png(str(tmp_path / "in" / "a_class.png"), label)
    _, out = call("--image", path, "--label", tmp_path / "in" / "a_class.png", "--confidence",
                  "--polygons", "gpkg", "--min_area", 5, "--simplify", "0.75")
    windows = np.moveaxis(samples, 0, -1)
    expected = windows.argmax(-1).astype(np.uint8)
    expected[:30, :40] = 255
    expected = merge_small_regions(expected, 20)  # 5 square metres
    with rasterio.open(out / "a_class.tif") as result:
        np.testing.assert_array_equal(result.read(1), expected)
    with rasterio.open(out / "a_confidence.tif") as result:
        assert (result.count, result.nodata, result.descriptions) == (1, 255, ("confidence",))
        confidence = result.read(1)
    best = brightest(windows).max(-1)
    np.testing.assert_allclose(confidence[expected != 255], 254 * best[expected != 255], atol=.51)
    assert (confidence[expected == 255] == 255).all()

    geometries, fields, meta = read_layer(out / "a_polygons.gpkg")
    assert meta["crs"] == "EPSG:32640" and shapely.coverage_is_valid(geometries, .01)
    assert fields["pixels"].min() >= 20
    areas = pd.read_csv(out / "a_area.csv", index_col="class")
    for number, name in enumerate(TABLE.names):
        pixels = (expected == number).sum()
        assert areas["pixels"][name] == pixels == fields["pixels"][fields["class"] == name].sum()
        assert areas["area_m2"][name] == pytest.approx(pixels / 4)
        assert fields["area_m2"][fields["class"] == name].sum() == pytest.approx(pixels / 4)
    mean = np.average(fields["probability"], weights=fields["pixels"])
    assert mean == pytest.approx(confidence[expected != 255].mean() / 254)
    printed = capsys.readouterr().out
    assert "hectares" in printed and f"{(expected != 255).sum():,}" in printed
    # The merged map is what is scored.
    right = accuracy(confusion_matrix(label, expected, 3))
    assert f"accuracy {right:.4f}" in printed


def test_a_rerun_makes_polygons_that_are_missing(call, tmp_path):
    path = write_geotiff(tmp_path / "in" / "a.tif", blotched(70, 80), **PLACE)
    _, out = call("--image", path)
    _, out = call("--image", path, "--polygons", "geojson")
    assert (out / "a_polygons.geojson").exists() and len(call.models) == 2
    call("--image", path, "--polygons", "geojson")
    assert len(call.models) == 2


def test_a_failure_while_polygons_are_made_leaves_no_map(call, tmp_path, monkeypatch):
    path = write_geotiff(tmp_path / "in" / "a.tif", blotched(70, 80), **PLACE)
    _, out = call("--image", path)
    monkeypatch.setattr(pyogrio.raw, "write", lambda path, *_, **__: (
        open(path, "w").close(), 1 / 0))
    with pytest.raises(ValueError, match="a.tif: ZeroDivisionError"):
        call("--image", path, "--polygons", "gpkg")
    # The old map is gone too: what lies beside it is the new one's.
    assert not [name for name in os.listdir(out)
                if name.startswith((".", "a_polygons")) or name == "a_class.tif"]


def test_a_disk_full_of_polygons_is_one_line(call, tmp_path, capfd):
    path = write_geotiff(tmp_path / "in" / "a.tif", samples_of(200, 200), **PLACE)
    _mount(str(tmp_path / "out"), "size=1500k")
    try:
        with pytest.raises(OSError, match="out/a_polygons.*could not be written .*; free some"):
            call("--image", path, "--polygons", "gpkg")
        assert not [name for name in os.listdir(tmp_path / "out")
                    if name.startswith(("a_class", "a_polygons"))]
        assert capfd.readouterr().err == ""
    finally:
        subprocess.run(["umount", str(tmp_path / "out")], check=True)


def test_metres_need_a_place(call, tmp_path):
    path = tmp_path / "in" / "a.png"
    write_png(str(path), np.moveaxis(blotched(70, 80), 0, -1).astype(np.uint8))
    for flags, message in ((("--min_area", 5), "--min_area 20px"),
                           (("--polygons", "gpkg", "--simplify", 1), "--simplify 20px"),
                           (("--polygons", "geojson"), "choose --polygons gpkg")):
        with pytest.raises(ValueError, match=f"a.png: no CRS and transform.*{message}"):
            call("--image", path, *flags)
    with pytest.raises(ValueError, match="--simplify goes with --polygons"):
        call("--image", path, "--simplify", "1px")
    for wrong in ("0", "-3px", "px", "5ha", "nan"):
        with pytest.raises(SystemExit):
            call("--image", path, "--min_area", wrong)
    assert not call.models
    _, out = call("--image", path, "--polygons", "gpkg", "--min_area", "20px", "--simplify", "1px")
    assert "area_m2" not in read_layer(out / "a_polygons.gpkg")[1]
    assert pd.read_csv(out / "a_area.csv")["area_m2"].isna().all()
