"""Polygons burnt window by window, against rasterio's burning of the whole; and what is refused."""

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio import Affine
from rasterio.features import rasterize
from rasterio.warp import transform_geom

from utils.classes import decode_attribute, read_classes
from utils.data.polygons import Area, LabelOptions, PolygonLabel, open_label
from utils.data.image import MEAN_PIXEL, Image
from utils.data.rasters import Raster
from utils.data.scenes import Scene, find_scenes

UTM, DEGREES = "EPSG:32640", "EPSG:4326"
NORTH_UP = Affine(10, 0, 300000, 0, -10, 2800000)
PLACES = {
    "north-up": NORTH_UP,
    "south-up": Affine(10, 0, 300000, 0, 10, 2800000),
    "rotated": NORTH_UP * Affine.rotation(31) * Affine.scale(1, 1.3),
}
SIZE = 240, 310
ONE = LabelOptions("id")


@pytest.fixture
def table(repository):
    return read_classes(str(repository / "dataset" / "classes.csv"))


def write_scene(path, transform=NORTH_UP, crs=UTM, size=SIZE, **settings):
    with rasterio.open(path, "w", driver="GTiff", count=3, height=size[0], width=size[1],
                       dtype="uint8", crs=crs, transform=transform, **settings) as scene:
        samples = np.random.default_rng(0).integers(8, 255, (3, *size)).astype(np.uint8)
        samples[:, 50:80] = 7
        scene.write(samples)
    return str(path)


def write_polygons(path, geometries, crs=UTM, kind="Unknown", layer=None, **attributes):
    """attributes: their values, one for each geometry."""
    pyogrio.raw.write(str(path), shapely.to_wkb(np.array(geometries, object)),
                      [np.array(values) for values in attributes.values()], [*attributes],
                      geometry_type=kind, crs=crs, layer=layer, append=path.exists())
    return str(path)


def draw_polygons(transform=NORTH_UP, count=60, seed=0, half_pixels=False):
    """Polygons with holes and multipolygons over and beyond a scene, laid over each other."""
    random = np.random.default_rng(seed)
    geometries = []
    for number in range(count):
        points = random.uniform(-40, [SIZE[1] + 40, SIZE[0] + 40]) + random.normal(0, 40, (8, 2))
        if half_pixels:  # edges through the pixels' centres
            points = np.round(points * 2) / 2
        drawn = shapely.convex_hull(shapely.multipoints(points))
        if number % 3 == 0:
            drawn = drawn.difference(drawn.centroid.buffer(9))
        if number % 4 == 0:
            drawn = shapely.MultiPolygon([drawn, shapely.box(*points[0] + 500, *points[0] + 530)])
        geometries.append(shapely.transform(
            drawn, lambda points: np.stack(transform * (points[:, 0], points[:, 1]), axis=-1)))
    return geometries


def read_in_windows(label, rows, columns):
    height, width = label.height, label.width
    return np.concatenate([np.concatenate([
        label.read(top, left, min(rows, height - top), min(columns, width - left))
        for left in range(0, width, columns)], axis=1) for top in range(0, height, rows)])


@pytest.mark.parametrize("place, half_pixels", [
    ("north-up", False), ("north-up", True), ("south-up", False), ("south-up", True),
    ("rotated", False)])
def test_windows_joined_are_the_whole_burnt_by_rasterio(place, half_pixels, tmp_path, table):
    transform = PLACES[place]
    geometries = draw_polygons(transform, half_pixels=half_pixels)
    ids = np.arange(len(geometries)) % 5
    path = write_polygons(tmp_path / "a.gpkg", geometries, id=ids)
    whole = rasterize(zip(geometries, ids.tolist()), SIZE, 255, transform=transform, dtype="uint8")
    assert set(np.unique(whole)) == {0, 1, 2, 3, 4, 255}
    with Raster(write_scene(tmp_path / "a.tif", transform)) as scene:
        label = PolygonLabel(path, scene, table, ONE)
        for window in ((240, 310), (37, 310), (64, 50)):
            np.testing.assert_array_equal(read_in_windows(label, *window), whole)


@pytest.mark.parametrize("ending", ["gpkg", "geojson", "shp"])
def test_polygons_in_degrees_are_brought_to_the_scene(ending, tmp_path, table):
    ids = np.arange(60) % 5
    geometries = [shapely.geometry.shape(transform_geom(UTM, DEGREES, geometry))
                  for geometry in draw_polygons()]
    path = write_polygons(tmp_path / f"a.{ending}", geometries, DEGREES,
                          "Polygon" if ending == "shp" else "Unknown", id=ids)
    read = shapely.from_wkb(pyogrio.raw.read(path)[2])  # a GeoJSON keeps seven digits only
    back = transform_geom(DEGREES, UTM, read.tolist())
    whole = rasterize(zip(back, ids.tolist()), SIZE, 255, transform=NORTH_UP, dtype="uint8")
    with Raster(write_scene(tmp_path / "a.tif")) as scene:
        label = PolygonLabel(path, scene, table, ONE)
        np.testing.assert_array_equal(read_in_windows(label, 50, 310), whole)


def test_a_scene_without_crs_takes_polygons_in_pixels(tmp_path, table):
    path = write_polygons(tmp_path / "a.gpkg", [shapely.box(3, 5, 7, 6)], None, id=[2])
    with Raster(write_scene(tmp_path / "a.tif", None, None)) as scene:
        ids = PolygonLabel(path, scene, table, ONE).read(0, 0, *SIZE)
    assert (ids[5, 3:7] == 2).all() and (ids != 255).sum() == 4


def test_later_features_lie_over_earlier_ones_and_the_background_is_named(tmp_path, table):
    squares = [shapely.transform(shapely.box(0, 0, side, side), lambda p: np.stack(
        NORTH_UP * (p[:, 0], p[:, 1]), axis=-1)) for side in (30, 20, 10)]
    path = write_polygons(tmp_path / "a.gpkg", squares, class_name=["water", "road", "1"])
    with Raster(write_scene(tmp_path / "a.tif")) as scene:
        ids = PolygonLabel(path, scene, table, LabelOptions("class_name", "building")).read(
            0, 0, 40, 40)
    assert [ids[side, side] for side in (5, 15, 25, 35)] == [1, 2, 4, 3]


def test_values_are_ids_names_and_the_values_of_the_table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,name,colour,value\n0,land,#c8b48c,10 11\n1,sea,#0050c8,20\n"
                    "255,cloud,#ffffff,0\n")
    table = read_classes(str(path))
    values = np.array(["land", "sea", "cloud", "11", "20.0", " sea "], object)
    assert decode_attribute(values, table, "x").tolist() == [0, 1, 255, 0, 1, 1]
    assert decode_attribute(np.array([10., 20, 0, 255]), table, "x").tolist() == [0, 1, 255, 255]
    with pytest.raises(ValueError, match=r"^x is 7 \(3 polygons\), 1 \(1 polygon\), not in the "):
        decode_attribute(np.array([7, 10, 7, 7, 1]), table, "x")
    with pytest.raises(ValueError, match=r"'x' \(1 polygon\), none \(1 polygon\), not"):
        decode_attribute(np.array(["x", None, "sea"], object), table, "x")
    path.write_text(path.read_text() + "255,rest,*,*\n")
    assert decode_attribute(np.array([7, 20, None], object), read_classes(str(path)), "x").tolist() == [
        255, 1, 255]


def test_a_scene_finds_its_polygons_and_nothing_else_of_theirs(tmp_path):
    for name in ("a", "b"):
        write_scene(tmp_path / f"{name}.tif")
    write_polygons(tmp_path / "a_class.shp", draw_polygons(), kind="Polygon", id=[0] * 60)
    write_polygons(tmp_path / "b_class.geojson", draw_polygons(), id=[0] * 60)
    write_polygons(tmp_path / "b.gpkg", draw_polygons(), id=[0] * 60)
    scenes = find_scenes(str(tmp_path))
    assert [(name, scene.label_path.rsplit("/")[-1]) for name, scene in scenes.items()] == [
        ("a", "a_class.shp"), ("b", "b_class.geojson")]


def test_an_area_of_interest_limits_labels_and_data(tmp_path, table):
    areas = draw_polygons(count=5, seed=3)
    options = LabelOptions("id", "road", write_polygons(tmp_path / "aoi.geojson", areas, UTM))
    scene = Scene("a", write_scene(tmp_path / "a.tif", nodata=7),
                  write_polygons(tmp_path / "a_class.gpkg", draw_polygons(), id=[1] * 60))
    inside = rasterize(areas, SIZE, transform=NORTH_UP) > 0
    with Image(scene.image_path) as image:
        data, pixels = image.has_data(0, 0, *SIZE), image.read(0, 0, *SIZE)
        with open_label(scene, image, table, options) as label:
            ids = label.read(0, 0, *SIZE)
        image.area = Area(options.aoi, image)
        np.testing.assert_array_equal(image.has_data(30, 20, 99, 70),
                                      (data & inside)[30:129, 20:90])
        # Around the area lies ground, which the model sees.
        np.testing.assert_array_equal(image.read(0, 0, *SIZE), pixels)
        assert ((pixels == MEAN_PIXEL).all(-1) == ~data).all()
        assert not data.all()
    np.testing.assert_array_equal(ids != 255, inside & data)
    assert set(ids[inside & data]) == {1, 2}


def refused(tmp_path, table, path, options=ONE, scene=None):
    """The line with which a label is refused."""
    with Raster(scene or write_scene(tmp_path / "scene.tif")) as raster:
        with pytest.raises((ValueError, OSError)) as error:
            PolygonLabel(str(path), raster, table, options)
    assert "\n" not in str(error.value)
    return str(error.value).replace(f"{tmp_path}/", "")


def test_a_wrong_attribute_lists_those_there_are(tmp_path, table):
    path = write_polygons(tmp_path / "a.gpkg", draw_polygons(), id=[0] * 60, kind_of=["x"] * 60)
    line = refused(tmp_path, table, path, LabelOptions("class"))
    assert line == ("a.gpkg: there is no attribute class; choose with --label_attribute among id, "
                    "kind_of")
    assert "--label_attribute among id, kind_of" in refused(tmp_path, table, path, LabelOptions())


def test_a_value_outside_the_table_is_named_with_its_count(tmp_path, table):
    path = write_polygons(tmp_path / "a.gpkg", [shapely.box(*NORTH_UP * (i, 9), *NORTH_UP * (
        i + 1, 0)) for i in range(6)], id=["road", "farm", "farm", "9", "4", "farm"])
    line = refused(tmp_path, table, path)
    assert line.startswith("a.gpkg: id is 'farm' (3 polygons), '9' (1 polygon), not in the class "
                           "table (0, 1, 2, 3, 4, 255, other, vegetation, ")


def test_a_background_outside_the_table(tmp_path, table):
    path = write_polygons(tmp_path / "a.gpkg", draw_polygons(), id=[0] * 60)
    assert refused(tmp_path, table, path, LabelOptions("id", "7")).startswith(
        "--label_background 7: not in the class table; there are 0, 1, 2, 3, 4, 255, other")


def test_a_crs_on_one_side_only(tmp_path, table):
    placed = write_polygons(tmp_path / "placed.gpkg", draw_polygons(), id=[0] * 60)
    loose = write_polygons(tmp_path / "loose.gpkg", draw_polygons(), None, id=[0] * 60)
    assert refused(tmp_path, table, loose) == (
        "loose.gpkg: it has no CRS, but scene.tif has EPSG:32640; assign the one that its "
        "coordinates are in")
    plain = write_scene(tmp_path / "plain.tif", None, None)
    assert refused(tmp_path, table, placed, scene=plain).startswith(
        "placed.gpkg: its CRS is EPSG:32640, but plain.tif has none; ")


def test_polygons_that_miss_the_scene(tmp_path, table):
    far = [shapely.transform(one, lambda points: points + 50000) for one in draw_polygons()]
    beside = [shapely.box(*NORTH_UP * (-9, 9), *NORTH_UP * (-1, 0))]
    ring = shapely.box(-99, -99, 999, 999) - shapely.box(-1, -1, SIZE[1] + 1, SIZE[0] + 1)
    around = [shapely.transform(ring, lambda points: np.stack(NORTH_UP * points.T, axis=-1))]
    for number, geometries in enumerate((far, beside, around)):
        path = write_polygons(tmp_path / f"{number}.gpkg", geometries, id=[0] * len(geometries))
        assert refused(tmp_path, table, path).startswith(
            f"{number}.gpkg: none of its polygons lies on scene.tif; ")


def test_files_that_cannot_be_read_or_are_empty(tmp_path, table):
    assert "could not be read (No such file" in refused(tmp_path, table, tmp_path / "no.gpkg")
    for name in ("a.gpkg", "a.geojson", "a.shp"):
        for content in (b"", b"nothing of the kind"):
            (tmp_path / name).write_bytes(content)
            assert refused(tmp_path, table, tmp_path / name).startswith(
                f"{name}: no readable polygons (")
    path = write_polygons(tmp_path / "b.gpkg", [], id=np.array([], int))
    assert refused(tmp_path, table, path) == "b.gpkg: it holds no polygon; export it again"


def test_layers_of_other_kinds_and_of_several(tmp_path, table):
    points = [shapely.Point(NORTH_UP * (9, 9))] * 2
    for kind, geometries in (("Point", points), ("Unknown", [*draw_polygons(count=1), points[0]])):
        path = write_polygons(tmp_path / f"{kind}.gpkg", geometries, kind=kind, id=[0, 1])
        assert f"{kind}.gpkg: it holds Point, not polygons alone; " in refused(
            tmp_path, table, path)
    path = write_polygons(tmp_path / "two.gpkg", draw_polygons(), layer="one", id=[0] * 60)
    pyogrio.raw.write(path, None, [np.array(["x"], object)], ["styles"], layer="layer_styles",
                      geometry_type=None, crs=None, append=False)
    with Raster(write_scene(tmp_path / "a.tif")) as raster:
        PolygonLabel(path, raster, table, ONE)
    write_polygons(tmp_path / "two.gpkg", draw_polygons(), layer="two", id=[0] * 60)
    assert "2 layers with geometries (one, two)" in refused(tmp_path, table, path)


def test_a_scene_placed_by_control_points(tmp_path, table):
    points = [rasterio.control.GroundControlPoint(row, column, *NORTH_UP * (column, row))
              for row, column in ((0, 0), (0, 300), (200, 0), (200, 300))]
    scene = str(tmp_path / "gcps.tif")
    with rasterio.open(scene, "w", driver="GTiff", count=1, height=240, width=310, dtype="uint8",
                       gcps=points, crs=UTM):
        pass
    path = write_polygons(tmp_path / "a.gpkg", draw_polygons(), id=[0] * 60)
    assert "gcps.tif: control points place it" in refused(tmp_path, table, path, scene=scene)
