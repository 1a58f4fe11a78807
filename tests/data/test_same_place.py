"""A label or a map that lies elsewhere than its scene is refused, by how much it does."""

import types

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.transform import Affine

from utils import metrics
from utils.classes import DEFAULT_TABLE, read_classes
from utils.data.polygons import LabelOptions
from utils.data.scenes import Scene, read_scene

GRID = Affine(10, 0, 300000, 0, -10, 5000000)
UTM = "EPSG:32640"


@pytest.fixture
def table(repository):
    return read_classes(str(repository / DEFAULT_TABLE))


def write(path, bands, transform=GRID, crs=UTM, driver="GTiff", **more):
    values = np.random.default_rng(0).integers(0, 5, (bands, 40, 50), np.uint8)
    with rasterio.open(path, "w", driver=driver, count=bands, height=40, width=50, dtype="uint8",
                       transform=transform, crs=crs, **more) as file:
        file.write(values)
    return str(path)


MOVED = [
    (GRID, UTM, None),
    (GRID * Affine.translation(.05, -.05), UTM, None),
    (GRID, None, None),  # nothing is known of it
    (GRID, "EPSG:32641", "its CRS is EPSG:32641, but .*EPSG:32640; reproject"),
    (GRID * Affine.translation(150, 0), UTM, r"it lies \+150 columns and \+0 rows off"),
    (GRID * Affine.translation(0, -.2), UTM, r"\+0 columns and -0.2 rows off"),
    (GRID, "+proj=utm +zone=40 +datum=WGS84 +units=m", None),  # the same CRS in other words
    (GRID * Affine.scale(1.01), UTM, "another size or direction"),
    (GRID * Affine.translation(150, 0), None, r"it lies \+150 columns and \+0 rows off"),
    (Affine.identity(), "EPSG:32641", None),  # of which the place is not known
    (Affine(10, 0, 300000, 0, 10, 5000000 - 400), UTM, "another size or direction"),  # south-up
]


@pytest.mark.parametrize("transform, crs, complaint", MOVED)
def test_a_label_that_lies_elsewhere_than_its_scene_is_refused(tmp_path, table, transform, crs,
                                                               complaint):
    scene = Scene("a", write(tmp_path / "a.tif", 3), write(tmp_path / "l.tif", 1, transform, crs))
    if complaint is None:
        assert read_scene(scene, table)[1].shape == (40, 50)
    else:
        with pytest.raises(ValueError, match="l.tif: .*" + complaint):
            read_scene(scene, table)


def test_scores_are_of_maps_that_lie_on_each_other(tmp_path, table):
    label = write(tmp_path / "l.tif", 1)
    assert metrics.accuracy(metrics.confusion_of_files(
        label, write(tmp_path / "m.tif", 1), table)) == 1
    moved = write(tmp_path / "moved.tif", 1, GRID * Affine.translation(150, 0))
    with pytest.raises(ValueError, match=r"moved.tif: it lies \+150 columns"):
        metrics.confusion_of_files(label, moved, table)


def points_of(transform):
    """Ground control points along the edges of a raster that lies by this transform."""
    return [GroundControlPoint(row, column, *(transform * (column, row)))
            for row, column in ((0, 0), (0, 50), (40, 0), (40, 50), (20, 25))]


def rpcs_of(column):
    """RPCs of a plane view, whose middle is at this column."""
    one = [1] + [0] * 19
    return RPC(height_off=0, height_scale=100, lat_off=10, lat_scale=.1, long_off=20, long_scale=.1,
               line_off=20, line_scale=20, line_num_coeff=[0, 0, -1] + [0] * 17,
               line_den_coeff=one, samp_off=column, samp_scale=25,
               samp_num_coeff=[0, 1] + [0] * 18, samp_den_coeff=one)


@pytest.mark.parametrize("scene, label, complaint", [
    ({"gcps": points_of(GRID)}, {"gcps": points_of(GRID)}, None),
    ({"gcps": points_of(GRID)}, {"transform": GRID}, None),
    ({"gcps": points_of(GRID)}, {"transform": None, "crs": None}, None),
    ({"gcps": points_of(GRID)}, {"gcps": points_of(GRID * Affine.translation(0, 7))},
     r"\+0 columns and \+7 rows"),
    ({"gcps": points_of(GRID * Affine.translation(3, 0))}, {"transform": GRID}, "-3 columns"),
    ({"gcps": points_of(GRID)}, {"gcps": points_of(GRID), "crs": "EPSG:32641"}, "its CRS is"),
    ({"gcps": points_of(GRID)[:2]}, {"transform": GRID}, None),  # too few to say where
    ({"rpcs": rpcs_of(25)}, {"rpcs": rpcs_of(25)}, None),
    ({"rpcs": rpcs_of(25)}, {"rpcs": rpcs_of(22)}, r"\+3 columns and (\+0|-0) rows"),
])
def test_control_points_and_rpcs_are_compared_too(tmp_path, table, scene, label, complaint):
    settings = [{"transform": None, "crs": None if "rpcs" in one else UTM} | one
                for one in (scene, label)]
    scene = Scene("a", write(tmp_path / "a.tif", 3, **settings[0]),
                  write(tmp_path / "l.tif", 1, **settings[1]))
    if complaint is None:
        read_scene(scene, table)
    else:
        with pytest.raises(ValueError, match="l.tif: .*" + complaint):
            read_scene(scene, table)


def test_a_map_and_a_mask_with_a_world_file_are_compared(tmp_path, table):
    label = write(tmp_path / "l.png", 1, driver="PNG", WORLDFILE="YES")
    assert metrics.accuracy(metrics.confusion_of_files(
        label, write(tmp_path / "m.tif", 1), table)) == 1
    with pytest.raises(ValueError, match=r"n.tif: it lies \+0 columns and \+150 rows off"):
        metrics.confusion_of_files(
            label, write(tmp_path / "n.tif", 1, GRID * Affine.translation(0, 150)), table)


def test_windows_that_training_watches_are_compared(tmp_path, table):
    from utils.training.evaluation import _watched  # not all tests wait for TensorFlow
    scene = Scene("a", write(tmp_path / "a.tif", 3), write(
        tmp_path / "l.tif", 1, GRID * Affine.translation(0, 150)))
    tiles = types.SimpleNamespace(noted_bands={}, table=table, label_options=LabelOptions())
    for cost in ((1, 1), (9, 9)):  # some windows; the whole scene
        with pytest.raises(ValueError, match=r"l.tif: it lies \+0 columns and \+150 rows off"):
            _watched([scene], tiles, 16, cost, 0)
