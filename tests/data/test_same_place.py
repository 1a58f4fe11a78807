"""A label or a map that lies elsewhere than its scene is refused, by how much it does."""

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from utils import metrics
from utils.classes import DEFAULT_TABLE, read_classes
from utils.data.scenes import Scene, read_scene

GRID = Affine(10, 0, 300000, 0, -10, 5000000)
UTM = "EPSG:32640"


@pytest.fixture
def table(repository):
    return read_classes(str(repository / DEFAULT_TABLE))


def write(path, bands, transform=GRID, crs=UTM, **more):
    values = np.random.default_rng(0).integers(0, 5, (bands, 40, 50), np.uint8)
    with rasterio.open(path, "w", driver="GTiff", count=bands, height=40, width=50, dtype="uint8",
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
    (GRID * Affine.scale(1.01), UTM, "another size or direction"),
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
