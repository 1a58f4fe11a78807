"""Polygon labels and areas of interest through the scripts."""

import json

import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio
import shapely
from rasterio import Affine
from rasterio.features import rasterize, shapes
from rasterio.warp import transform_geom

import preprocess
from conftest import draw_scene, read_settings
from predict_stand_in import (brightest, call, logs, samples_of, write_geotiff)  # noqa: F401
from preprocess_runs import files_below, read_list
from utils import metrics
from utils.data.scenes import read_label
from utils.classes import read_classes
from test_end_to_end import RECIPE, call as call_script

UTM, DEGREES = "EPSG:32640", "EPSG:4326"
GRID = Affine(.5, 0, 300000, 0, -.5, 2800000)
NAMES = np.array(["soil", "reed", "sea"])


def place(geometry):
    """A geometry of pixels (column, row) in degrees."""
    return shapely.geometry.shape(transform_geom(UTM, DEGREES, shapely.transform(
        geometry, lambda points: np.stack(GRID * points.T, axis=-1))))


def write_vector(path, geometries, **attributes):
    pyogrio.raw.write(str(path), shapely.to_wkb(np.array(geometries)),
                      [np.array(values, object) for values in attributes.values()],
                      [*attributes], geometry_type="Unknown", crs=DEGREES)
    return str(path)


def write_pair(folder, name, seed):
    """A uint16 GeoTIFF of four bands in UTM, and its label as polygons in degrees."""
    image, label = draw_scene(150, 170, num_classes=3, seed=seed)
    samples = np.concatenate([image, image[..., :1] // 2], axis=-1).astype(np.uint16) * 9
    folder.mkdir(exist_ok=True)
    write_geotiff(folder / f"{name}.tif", np.moveaxis(samples, -1, 0), crs=UTM, transform=GRID)
    found = [(shapely.geometry.shape(shape), int(value))
             for shape, value in shapes(label, label != 255)]
    write_vector(folder / f"{name}_class.gpkg", [place(shape) for shape, _ in found],
                 cover=[NAMES[value] for _, value in found])
    return label


@pytest.fixture
def classes(tmp_path):
    (tmp_path / "three.csv").write_text("id,name,colour\n" + "".join(
        f"{number},{name},#0000{number}0\n" for number, name in enumerate(NAMES)))
    return str(tmp_path / "three.csv")


def test_from_polygons_in_degrees_to_map_and_score_with_three_commands(tmp_path, classes):
    labels = {name: write_pair(tmp_path / "origin", name, int(name)) for name in ("1", "5")}
    call_script("preprocess.py", "--dataset", tmp_path, "--classes", classes, "--tiles", 4,
                "--tile_size", 64, "--bands", 3, 2, 1, 4, "--label_attribute", "cover",
                "--no_augment")
    rows = read_list(tmp_path)
    for row in rows.itertuples():
        top, left = int(row.row), int(row.column)
        np.testing.assert_array_equal(read_label(str(tmp_path / row.label), read_classes(classes)),
                                      labels["1"][top:top + 64, left:left + 64])
    logs = ("--logs", tmp_path / "logs")
    output, errors = call_script(
        "train.py", "--dataset", tmp_path, *logs, "--run", "p", "--classes", classes, "--steps", 2,
        *RECIPE)
    assert errors == "" and "held_out/mean_iou" in output
    assert read_settings(tmp_path / "logs" / "p")["bands"] == [3, 2, 1, 4]
    call_script("predict.py", "--dataset", tmp_path, *logs, "--run", "p", "--out", tmp_path / "out",
                "--rotations", 1, "--overlap", 0, "--precision", "float32")
    with rasterio.open(tmp_path / "out" / "5_class.tif") as written:
        assert written.crs == UTM and written.transform == GRID
        ids = written.read(1)
    valid = labels["5"] != 255
    scores = pd.read_csv(tmp_path / "out" / "5_scores.csv", index_col="class")
    assert scores.loc["all", "label_pixels"] == valid.sum()
    assert scores.loc["all", "accuracy"] == pytest.approx((ids == labels["5"])[valid].mean())


def test_one_layer_labels_many_scenes(tmp_path, classes):
    labels = {"west": write_pair(tmp_path / "origin", "west", seed=1)}
    labels["east"] = labels["west"][:, 40:]
    with rasterio.open(tmp_path / "origin" / "west.tif") as whole:
        write_geotiff(tmp_path / "origin" / "east.tif", whole.read()[:, :, 40:], crs=UTM,
                      transform=GRID @ rasterio.Affine.translation(40, 0))
    call_script("preprocess.py", "--dataset", tmp_path, "--classes", classes, "--tiles", 8,
                "--tile_size", 64, "--images", tmp_path / "origin" / "*.tif", "--labels",
                tmp_path / "origin" / "west_class.gpkg", "--bands", 1, "--label_attribute",
                "cover", "--no_augment")
    rows = read_list(tmp_path)
    assert set(rows["scene"]) == {"west", "east"}
    for row in rows.itertuples():
        top, left = int(row.row), int(row.column)
        np.testing.assert_array_equal(read_label(str(tmp_path / row.label), read_classes(classes)),
                                      labels[row.scene][top:top + 64, left:left + 64])


def areas(*boxes):
    return [place(shapely.box(*box)) for box in boxes]


def test_an_area_of_interest_limits_tiles_and_is_noted(tmp_path, classes, monkeypatch):
    labels = {name: write_pair(tmp_path / "origin", name, int(name)) for name in ("1", "5")}
    aoi = write_vector(tmp_path / "aoi.geojson", areas((90, 10, 165, 80)), a=["x"])
    inside = np.zeros((150, 170), bool)
    inside[10:80, 90:165] = True
    monkeypatch.setattr("sys.argv", ["preprocess.py", "--dataset", str(tmp_path), "--classes",
                                     classes, "--tiles", "60", "--tile_size", "16", "--bands", "1",
                                     "--label_attribute", "cover", "--no_augment", "--aoi", aoi])
    preprocess.main()
    for name in ("path_list.csv", "validation_list.csv"):
        rows = read_list(tmp_path, name)
        assert len(rows) > 0
        for row in rows.itertuples():
            window = np.s_[int(row.row):int(row.row) + 16, int(row.column):int(row.column) + 16]
            tile = read_label(str(tmp_path / row.label), read_classes(classes))
            np.testing.assert_array_equal(
                tile, np.where(inside[window], labels["1"][window], 255))
            assert (tile != 255).any()
    assert json.loads((tmp_path / "labels.json").read_text()) == {
        "attribute": "cover", "background": None, "aoi": "aoi.geojson", "keep_nodata": False}


def test_a_map_is_255_outside_and_windows_there_are_not_computed(call, tmp_path):  # noqa: F811
    scene = write_geotiff(tmp_path / "in" / "s.tif", samples_of(500, 700), crs=UTM, transform=GRID)
    label = write_vector(tmp_path / "in" / "s_class.geojson", areas((0, 0, 700, 500)), c=["green"])
    aoi = write_vector(tmp_path / "aoi.gpkg", areas((100, 90, 190, 160), (0, 470, 20, 500)),
                       a=["x"] * 2)
    computed = []

    def counted(windows):
        computed.append(len(windows))
        return brightest(windows)

    flags = ("--image", scene, "--label", label, "--label_attribute", "c", "--overlap", 0,
             "--batch_size", 1)
    status, out = call(*flags, predictor=counted)
    assert status == 0
    every = len(computed)
    maps = [rasterio.open(out / "s_class.tif").read(1)]
    computed.clear()
    status, out = call(*flags, "--aoi", aoi, "--overwrite", "--probabilities", predictor=counted)
    assert status == 0 and len(computed) < every / 8
    maps.append(rasterio.open(out / "s_class.tif").read(1))
    inside = rasterize([shapely.box(100, 90, 190, 160), shapely.box(0, 470, 20, 500)],
                       (500, 700)) > 0
    np.testing.assert_array_equal(maps[1], np.where(inside, maps[0], 255))
    assert (rasterio.open(out / "s_probabilities.tif").read(1)[~inside] == 255).all()
    scores = pd.read_csv(out / "s_scores.csv", index_col="class")
    assert scores.loc["all", "label_pixels"] == inside.sum()
    assert scores.loc["all", "accuracy"] == pytest.approx((maps[0] == 1)[inside].mean())


def test_metrics_takes_polygons_and_an_area(tmp_path, classes):
    table = read_classes(classes)
    ids = np.random.default_rng(0).integers(0, 3, (1, 60, 80)).astype(np.uint8)
    written = write_geotiff(tmp_path / "p.tif", ids, crs=UTM, transform=GRID)
    label = write_vector(tmp_path / "l.gpkg", areas((0, 0, 40, 60)), c=["sea"])
    aoi = write_vector(tmp_path / "a.gpkg", areas((20, 0, 60, 30)), c=["x"])
    matrix = metrics.confusion_of_files(label, written, table,
                                        metrics.LabelOptions("c", "reed", aoi))
    part = ids[0, :30]
    expected = np.zeros((3, 3), int)
    expected[1] = np.bincount(part[:, 40:60].ravel(), minlength=3)
    expected[2] = np.bincount(part[:, 20:40].ravel(), minlength=3)
    np.testing.assert_array_equal(matrix, expected)


def test_a_mistake_in_polygons_is_one_line(tmp_path, classes, refusal):
    write_pair(tmp_path / "origin", "1", 1)
    write_pair(tmp_path / "origin", "5", 5)
    flags = ("--dataset", tmp_path, "--classes", classes, "--tiles", 4, "--tile_size", 64,
             "--bands", 1)
    assert "1_class.gpkg: which attribute holds the class is not said; choose with " in refusal(
        preprocess, *flags)
    aoi = write_vector(tmp_path / "aoi.gpkg", areas((900, 900, 990, 990)), a=["x"])
    assert f"{aoi}: none of its polygons lies on " in refusal(
        preprocess, *flags, "--label_attribute", "cover", "--aoi", aoi)
    assert not [name for name in files_below(tmp_path) if name.endswith("path_list.csv")]
