"""Regions of a map, against scipy, rasterio and shapely."""

from types import SimpleNamespace

import numpy as np
import pyogrio
import pytest
import scipy.ndimage
import shapely
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.transform import Affine, from_origin

from predict_stand_in import TABLE
from utils.inference import polygonize
from utils.inference.area_table import pixel_areas
from utils.inference.polygonize import (
    label_regions, merge_small_regions, merged_strips, polygons_of, simplify_borders,
    write_polygons)


def random_map(height, width, blur, seed=0):
    """Three classes in blots, and nodata in a corner."""
    random = np.random.default_rng(seed)
    scores = [scipy.ndimage.gaussian_filter(random.normal(size=(height, width)), blur)
              for _ in range(3)]
    classes = np.argmax(scores, 0).astype(np.uint8)
    classes[:height // 4, :width // 3] = 255
    return classes


def region_sizes(classes):
    """Pixels of each region as scipy counts them."""
    sizes = [np.bincount(scipy.ndimage.label(classes == number)[0].ravel())[1:]
             for number in range(3)]
    return np.sort(np.concatenate(sizes))


@pytest.fixture
def layer(tmp_path):
    """Writes polygons of a map and reads them back: (geometries, fields as dict, layer's meta)."""
    def write(classes, confidence, ending="gpkg", tolerance=None, **place):
        path = str(tmp_path / f"a.{ending}")
        write_polygons(path, classes, confidence, SimpleNamespace(georeference=lambda: place),
                       TABLE, tolerance)
        meta, _, geometries, columns = pyogrio.raw.read(path)
        return shapely.from_wkb(geometries), dict(zip(meta["fields"], columns)), meta
    return write


@pytest.mark.parametrize("blur", [0, 1, 3])
def test_no_small_region_is_left(blur):
    classes = random_map(120, 150, blur)
    for pixels in (1, 2, 7, 30):
        merged = merge_small_regions(classes, pixels)
        np.testing.assert_array_equal(merged == 255, classes == 255)
        assert region_sizes(merged)[0] >= pixels
        if pixels == 1:
            np.testing.assert_array_equal(merged, classes)
    # Strips in, strips out.
    strips = ((top, classes[top:top + 50]) for top in range(0, 120, 50))
    parts = list(merged_strips(strips, 120, 150, 30))
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in parts]), merged)


def test_large_regions_stay_where_nothing_is_small():
    classes = random_map(120, 150, 6)
    smallest = region_sizes(classes)[0]
    np.testing.assert_array_equal(merge_small_regions(classes, int(smallest)), classes)
    assert (merge_small_regions(classes, int(smallest) + 1) != classes).any()


@pytest.mark.parametrize("blur", [0, 2])
def test_polygons_are_the_map(monkeypatch, blur):
    classes = random_map(70, 90, blur)
    labels, ids = label_regions(classes)
    np.testing.assert_array_equal(ids[labels], classes)
    np.testing.assert_array_equal(np.sort(np.bincount(labels.ravel())[1:]), region_sizes(classes))
    numbers, polygons = polygons_of(labels)
    assert shapely.is_valid(polygons).all()
    assert sorted(numbers) == list(range(1, len(ids)))
    np.testing.assert_array_equal(shapely.area(polygons), np.bincount(labels.ravel())[numbers])
    burnt = rasterize(zip(polygons, ids[numbers]), (70, 90), fill=255, dtype=np.uint8)
    np.testing.assert_array_equal(burnt, classes)


@pytest.mark.parametrize("tolerance", [1, 5])
def test_simplified_borders_leave_no_gaps_and_no_overlaps(tolerance):
    classes = random_map(150, 200, 2)
    classes[classes == 255] = 0
    polygons = polygons_of(label_regions(classes)[0])[1]
    assert not shapely.coverage_is_valid(polygons)  # as GDAL gives them, they lack vertices
    simple = simplify_borders(polygons, tolerance)
    assert shapely.coverage_is_valid(simple) and shapely.is_valid(simple).all()
    assert not shapely.is_empty(simple).any()
    assert shapely.area(simple).sum() == pytest.approx(150 * 200)
    assert shapely.coverage_union_all(simple).equals(shapely.box(0, 0, 200, 150))
    assert shapely.get_num_coordinates(simple).sum() < shapely.get_num_coordinates(polygons).sum()


@pytest.mark.parametrize("transform", [
    from_origin(325000, 2785000, .5, .5), Affine(.5, .1, 325000, .1, -.5, 2785000),
    Affine(.5, 0, 325000, 0, .5, 2785000)])
def test_geopackage_says_where_what_and_how_sure(layer, monkeypatch, transform):
    monkeypatch.setattr(polygonize, "PIXELS_AT_ONCE", 700)
    classes = random_map(70, 90, 3)
    confidence = np.random.default_rng(1).integers(80, 255, classes.shape).astype(np.uint8)
    confidence[classes == 255] = 255
    geometries, fields, meta = layer(classes, confidence, crs=CRS.from_epsg(32640),
                                     transform=transform)
    assert meta["crs"] == "EPSG:32640" and meta["geometry_type"] == "Polygon"
    assert [*fields] == ["class_id", "class", "pixels", "area_m2", "hectares", "probability"]
    assert [TABLE.names[number] for number in fields["class_id"]] == fields["class"].tolist()
    np.testing.assert_allclose(fields["area_m2"], shapely.area(geometries))
    np.testing.assert_allclose(fields["hectares"] * 1e4, fields["area_m2"])
    # Where rasterio puts them they cover their pixels.
    burnt = rasterize(zip(geometries, range(1, len(geometries) + 1)), classes.shape,
                      transform=transform, dtype=np.int32)
    np.testing.assert_array_equal(np.append(255, fields["class_id"])[burnt], classes)
    means = scipy.ndimage.mean(confidence, burnt, range(1, len(geometries) + 1)) / 254
    np.testing.assert_allclose(fields["probability"], means)
    np.testing.assert_array_equal(fields["pixels"], np.bincount(burnt.ravel())[1:])


def test_geojson_is_in_degrees_and_areas_are_on_the_ellipsoid(layer):
    place = {"crs": CRS.from_epsg(4326), "transform": from_origin(8.5, 47.4, 1e-4, 1e-4)}
    classes = np.zeros((40, 50), np.uint8)
    classes[10:20, 10:30] = 1
    geometries, fields, meta = layer(classes, classes, "geojson", **place)
    assert meta["crs"] == "EPSG:4326"
    assert sorted(len(shapely.get_coordinates(g)) for g in geometries) == [5, 10]
    rows = pixel_areas(place, range(40), 50)[:, 0]
    assert sorted(fields["area_m2"]) == pytest.approx(
        [rows[10:20].sum() * 20, rows.sum() * 50 - rows[10:20].sum() * 20])
    # From UTM it is degrees too (RFC 7946).
    geometries, _, meta = layer(classes, classes, "geojson", crs=CRS.from_epsg(32640),
                                transform=from_origin(325000, 2785000, .5, .5))
    assert meta["crs"] == "EPSG:4326"
    assert shapely.bounds(geometries[0])[0] == pytest.approx(55.27, abs=.1)


@pytest.mark.parametrize("shape", [(30, 20), (1, 1), (1, 7)])
def test_more_pixels_than_there_are_leave_one_region(shape):
    classes = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)
    assert len(np.unique(merge_small_regions(classes, 10 ** 6))) == 1


def test_without_crs_polygons_lie_where_the_transform_says(layer):
    """As of a picture with a world file and nothing else: its map lies there too."""
    transform = from_origin(500000, 4000000, .5, .5)
    geometries, fields, meta = layer(np.ones((30, 40), np.uint8), np.ones((30, 40), np.uint8),
                                     crs=None, transform=transform)
    assert meta["crs"] is None and "area_m2" not in fields
    assert shapely.bounds(geometries[0]).tolist() == [500000, 3999985, 500020, 4000000]


def test_without_place_polygons_lie_on_the_picture(layer):
    classes = np.ones((6, 4), np.uint8)
    geometries, fields, meta = layer(classes, classes)
    assert meta["crs"] is None and "area_m2" not in fields and fields["pixels"].tolist() == [24]
    assert shapely.bounds(geometries[0]).tolist() == [0, -6, 4, 0]
    assert len(layer(np.full((6, 4), 255, np.uint8), classes)[0]) == 0
