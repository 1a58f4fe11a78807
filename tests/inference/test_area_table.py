"""Areas of pixels, against PROJ's equal-area projection and the ellipsoid's known surface."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import shapely
from rasterio.crs import CRS
from rasterio.transform import Affine, from_origin
from rasterio.warp import transform_geom

from predict_stand_in import TABLE
from utils.classes import ClassTable
from utils.inference.area_table import ClassAreas, mean_pixel_area, pixel_areas

EQUAL_AREA = "EPSG:6933"  # cylindrical, on the ellipsoid WGS 84


def area_by_proj(crs, transform, height, width):
    """Square metres of a raster, from PROJ's equal-area projection of its densified outline."""
    outline = shapely.segmentize(shapely.Polygon(
        [transform * corner for corner in ((0, 0), (width, 0), (width, height), (0, height))]),
        abs(transform.a) * width / 200)
    return shapely.geometry.shape(
        transform_geom(crs, EQUAL_AREA, shapely.geometry.mapping(outline))).area


@pytest.mark.parametrize("crs, transform", [
    ("EPSG:4326", from_origin(8.5, 47.4, 1e-4, 1e-4)),
    ("EPSG:4326", from_origin(25, -70, 2e-3, 1e-3)),
    ("EPSG:4326", Affine(1e-4, 5e-5, 8.5, -5e-5, -1e-4, 47.4)),  # turned
    ("EPSG:4326", Affine(1e-4, 0, 8.5, 0, 1e-4, 47.4)),  # south up
    ("EPSG:3857", from_origin(950000, 6000000, 10, 10)),
    ("EPSG:3857", Affine(10, 4, 950000, 4, -10, 8000000)),
    # Web Mercator by other names, and the one of the ellipsoid.
    ("EPSG:900913", from_origin(950000, 8400000, 10, 10)),
    ("ESRI:102113", from_origin(950000, -8400000, 10, 10)),
    ("EPSG:3857+5773", from_origin(-19950000, 8400000, 10, 10)),
    ("EPSG:3395", from_origin(950000, 8400000, 10, 10)),
    ("EPSG:3832", Affine(10, 4, 950000, 4, -10, 8000000)),
])
def test_pixels_are_measured_on_the_ellipsoid(crs, transform):
    place = {"crs": CRS.from_user_input(crs), "transform": transform}
    areas = np.broadcast_to(pixel_areas(place, range(300), 200), (300, 200))
    assert areas.sum() == pytest.approx(area_by_proj(crs, transform, 300, 200), rel=2e-6)
    assert mean_pixel_area(place, 300, 200) == pytest.approx(areas.mean(), rel=1e-3)


def test_the_whole_earth_has_its_surface():
    place = {"crs": CRS.from_epsg(4326), "transform": from_origin(-180, 90, .25, .25)}
    total = pixel_areas(place, range(720), 1440).sum() * 1440
    assert total == pytest.approx(510065621.724e6, rel=1e-5)  # of WGS 84 (NGA.STND.0036)


@pytest.mark.parametrize("crs, unit", [("EPSG:32640", 1), ("EPSG:2263", 1200 / 3937)])
def test_a_plane_is_measured_in_its_own_unit(crs, unit):
    place = {"crs": CRS.from_user_input(crs), "transform": Affine(2, .5, 3e5, .5, -3, 2e6)}
    assert pixel_areas(place, range(4), 9) == pytest.approx(
        np.full((4, 1), 6.25 * unit ** 2), rel=1e-9)


def test_grads_and_another_ellipsoid():
    crs = CRS.from_epsg(4807)  # Clarke 1880, from Paris
    place = {"crs": crs, "transform": from_origin(2, 54, 1e-3, 1e-3)}
    # The datum shift moves all points alike, so that it changes next to nothing in an area.
    assert pixel_areas(place, range(100), 100).sum() * 100 == pytest.approx(
        area_by_proj(crs, place["transform"], 100, 100), rel=1e-4)


def test_the_table_counts_every_pixel_once(tmp_path):
    classes = np.random.default_rng(0).choice([0, 1, 255], (90, 70)).astype(np.uint8)
    place = {"crs": CRS.from_epsg(4326), "transform": from_origin(8, 60, .01, .01)}
    areas = ClassAreas(SimpleNamespace(georeference=lambda: place), TABLE)
    for top in range(0, 90, 40):
        areas.add(top, classes[top:top + 40])
    areas.write(str(tmp_path / "a.csv"))
    table = pd.read_csv(tmp_path / "a.csv", index_col="class")
    assert table.index.tolist() == [*TABLE.names, "all"]
    valid = (classes != 255).sum()
    assert table["pixels"].tolist() == [(classes == 0).sum(), (classes == 1).sum(), 0, valid]
    np.testing.assert_allclose(table["share"], table["pixels"] / valid, atol=1e-6)
    by_row = pixel_areas(place, range(90), 70)[:, 0]
    np.testing.assert_allclose(table["area_m2"][:2], [
        ((classes == number) * by_row[:, None]).sum() for number in (0, 1)], atol=.01)
    np.testing.assert_allclose(table["hectares"], table["area_m2"] / 1e4, atol=1e-6)
    assert areas.format().count("\n") == len(TABLE) + 2 - 1 + 1


def test_a_class_may_be_called_all():
    table = ClassTable(("all", "sea"), np.array([[0, 0, 0], [0, 0, 255]], np.uint8))
    areas = ClassAreas(SimpleNamespace(georeference=dict), table)
    areas.add(0, np.array([[0, 0, 0, 1]], np.uint8))
    frame = areas.frame()
    assert frame.index.tolist() == ["all", "sea", "all"] and frame.index.name == "class"
    assert frame["pixels"].tolist() == [3, 1, 4] and frame["share"].tolist() == [.75, .25, 1]


def test_without_place_there_are_pixels_only(tmp_path):
    areas = ClassAreas(SimpleNamespace(georeference=dict), TABLE)
    areas.add(0, np.zeros((5, 7), np.uint8))
    frame = areas.frame()
    assert frame["pixels"].tolist() == [35, 0, 0, 35] and frame["area_m2"].isna().all()
    assert mean_pixel_area({"crs": CRS.from_epsg(4326)}, 5, 7) is None
