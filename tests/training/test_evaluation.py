"""utils/training/evaluation.py with a predictor whose answer is known."""

import threading
import types

import cv2
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely

from conftest import class_table, write_tile_set

from utils.training import evaluation
from utils.training.tensorboard import scalar_summary
from utils.classes import colour_map, read_classes
from utils.metrics import confusion_matrix
from utils.inference.visualise import confusion_picture
from utils.data.pixel_size import Resample
from utils.data.polygons import LabelOptions
from utils.data.scenes import Scene, read_scene, write_png
from utils.data.tiles import TileSet

SIZE = 32


@pytest.fixture
def table(repository):
    return read_classes(str(repository / "dataset" / "classes.csv"))


def predict_red(images):
    """Probabilities of the class whose id is the red band."""
    assert images.dtype == np.uint8
    return np.eye(5, dtype=np.float32)[np.minimum(images[..., 0], 4)]


def write_tiles(folder, count, draw_scene):
    """(TileSet, labels, predictions): predict_red is wrong on a tenth of the pixels."""
    random, tiles = np.random.default_rng(0), []
    for number in range(count):
        image, label = draw_scene(SIZE, SIZE, seed=number)
        image[..., 0] = np.where((label == 255) | (random.random(label.shape) < .1), 3, label)
        tiles.append((image, label))
    write_tile_set(folder, tiles)
    images, labels = map(np.stack, zip(*tiles))
    return TileSet(str(folder), class_table(5)), labels, images[..., 0]


@pytest.mark.parametrize("count", [1, 4, 6])
def test_all_tiles_count_once_and_batches_keep_one_shape(tmp_path, draw_scene, count):
    tile_set, labels, predictions = write_tiles(tmp_path, count, draw_scene)
    shapes = set()

    def predict(images):
        shapes.add(images.shape)
        return predict_red(images)

    matrix = evaluation.evaluate_tiles(predict, tile_set, 4)
    np.testing.assert_array_equal(matrix, confusion_matrix(labels, predictions, 5))
    assert shapes == {(4, SIZE, SIZE, 3)}


def test_no_tiles_give_no_counts_and_no_scores(table):
    empty = types.SimpleNamespace(table=table, validation=pd.DataFrame())
    matrix = evaluation.evaluate_tiles(None, empty, 4)
    assert matrix.shape == (5, 5) and not matrix.any()
    assert evaluation.score_values("validation", matrix, table) == {}


def test_a_tile_of_another_size_is_named(tmp_path, draw_scene):
    tile_set, _, _ = write_tiles(tmp_path, 4, draw_scene)
    write_png(str(tmp_path / "images/3.png"), np.zeros((8, 8, 3), np.uint8))
    write_png(str(tmp_path / "labels/3.png"), np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"3\.png: 8 x 8 pixels of 3 band"):
        evaluation.evaluate_tiles(predict_red, tile_set, 2)


@pytest.mark.parametrize("height, width", [(96, 64), (100, 70), (20, 50)])
def test_map_scene_puts_every_pixel_in_its_place(height, width):
    image = np.random.default_rng(0).integers(0, 5, (height, width, 3), np.uint8)
    np.testing.assert_array_equal(evaluation.map_scene(predict_red, image, SIZE, 4),
                                  image[..., 0])


def test_scores_are_tagged_by_class_and_absent_classes_left_out(table):
    matrix = np.zeros((5, 5), np.int64)
    matrix[0, 0], matrix[0, 1], matrix[1, 1] = 6, 2, 4
    values = evaluation.score_values("held_out", matrix, table)
    assert values == {
        "held_out/mean_iou": pytest.approx((6 / 8 + 4 / 6) / 2),
        "held_out/accuracy": pytest.approx(10 / 12),
        f"held_out_iou/{table.names[0]}": pytest.approx(6 / 8),
        f"held_out_iou/{table.names[1]}": pytest.approx(4 / 6)}
    summary = scalar_summary(values)
    assert {v.tag: v.simple_value for v in summary.value} == pytest.approx(values)


def test_boundary_f1_is_of_a_whole_map_and_left_out_where_nothing_borders(table):
    label = np.zeros((20, 30), np.uint8)
    label[:, 15:] = 1
    assert evaluation.boundary_values("held_out", [(label, label)], table) == {
        "held_out/boundary_f1": 1}
    far = np.roll(label, 7, axis=1)  # its boundaries are 7 columns off, and there is a second one
    assert evaluation.boundary_values("held_out", [(label, far)], table) == {
        "held_out/boundary_f1": 0}
    assert evaluation.boundary_values("held_out", [(label * 0, label * 0)], table) == {}
    # Of several maps all boundary pixels count alike: the label's two columns near two of the
    # prediction's in one, near none in the other.
    both = evaluation.boundary_values("held_out", [(label, label), (label, label * 0)], table)
    assert both == {"held_out/boundary_f1": pytest.approx(2 * 1 * .5 / 1.5)}


def test_the_confusion_matrix_is_shown_as_the_picture_of_it(table):
    matrix = np.diag(np.arange(1, 6))
    [value] = evaluation.confusion_summary("held_out", matrix, table).value
    assert value.tag == "confusion_matrix/held_out"
    png = np.frombuffer(value.image.encoded_image_string, np.uint8)
    picture = cv2.cvtColor(cv2.imdecode(png, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(picture, confusion_picture(matrix, table))
    assert picture.shape == (value.image.height, value.image.width, 3)


@pytest.mark.parametrize("height, width", [(100, 70), (20, 50)])
def test_pictures_show_image_label_and_prediction_side_by_side(draw_scene, table, height, width):
    image, label = draw_scene(height, width)
    prediction = np.where(label == 255, 0, label)
    summary = evaluation.picture_summary([(image, label, prediction)], table, SIZE)
    assert len(summary.value) == evaluation.PICTURES
    rows, columns = min(SIZE, height), min(SIZE, width)
    for value in summary.value:
        assert value.tag.startswith("held_out/row_")
        top, left = (int(part) for part in value.tag.split("_")[2::2])
        png = np.frombuffer(value.image.encoded_image_string, np.uint8)
        picture = cv2.cvtColor(cv2.imdecode(png, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        assert picture.shape == (value.image.height, value.image.width, 3)
        assert value.image.height == rows and value.image.width >= 3 * columns
        part = np.s_[top:top + rows, left:left + columns]
        np.testing.assert_array_equal(picture[:, :columns], image[part])
        np.testing.assert_array_equal(picture[:, -columns:], colour_map(prediction[part], table))


def test_pictures_are_of_parts_from_first_to_last(draw_scene, table):
    parts = [(*draw_scene(SIZE, SIZE), np.full((SIZE, SIZE), number % 5, np.uint8))
             for number in range(8)]
    tags = [value.tag for value in evaluation.picture_summary(parts, table, SIZE).value]
    assert tags == [f"held_out/part_{number}_row_0_column_0" for number in (0, 2, 4, 6)]


@pytest.fixture
def held_out_set(tmp_path, table):
    """(args, TileSet stand-in) of three held-out scenes of 2 x 2, 3 x 2 and less than a window."""
    labels = [np.random.default_rng(n).integers(0, 5, size, np.uint8)
              for n, size in enumerate(((64, 64), (96, 64), (20, 64)))]
    for number, label in enumerate(labels):
        thinned = np.where(np.arange(label.size).reshape(label.shape) % 9, label, 0)
        image = np.stack([thinned] * 3, -1)
        write_png(str(tmp_path / f"{number}.png"), image)
        write_png(str(tmp_path / f"{number}_class.png"), label)
    args = types.SimpleNamespace(test_scene=["?"], origin=str(tmp_path), dataset="", seed=3,
                                 test_display=20)
    return args, types.SimpleNamespace(table=table, noted_bands={}, training={}, held_out=[],
                                       label_options=LabelOptions())


def test_few_held_out_scenes_are_watched_whole(held_out_set):
    # Calls of four windows: one for 2 x 2, two for 3 x 2, one for the small one.
    held_out = evaluation.read_held_out(*held_out_set, SIZE, 4)
    assert held_out.names == ["0", "1", "2"] and held_out.whole
    assert [label.shape for _, label in held_out.parts] == [(64, 64), (96, 64), (20, 64)]


@pytest.mark.parametrize("steps, windows", [(1, 4), (10, 8), (19, 12)])
def test_of_more_a_fixed_sample_for_a_call_every_five_steps(held_out_set, capsys, steps, windows):
    args, tile_set = held_out_set
    args.test_display = steps
    one, again = (evaluation.read_held_out(args, tile_set, SIZE, 4) for _ in range(2))
    told = f"watching {windows} of the 12 windows" in capsys.readouterr().out
    assert len(one.parts) == windows and not one.whole and told == (windows < 12)
    for first, second in zip(one.parts, again.parts):
        np.testing.assert_array_equal(first[0], second[0])
    calls = []
    evaluator = evaluation.Evaluator(None, None, tile_set, one, SIZE, 4)
    evaluator._predict = lambda images: calls.append(len(images)) or predict_red(images)
    for (image, label), prediction in zip(one.parts, evaluator._predict_held_out(evaluator._predict)):
        assert prediction.shape == label.shape
        np.testing.assert_array_equal(prediction, image[..., 0])
    assert calls == [4] * max(1, steps // 5)


@pytest.mark.parametrize("steps", [1, 20])
def test_held_out_scenes_are_watched_at_the_runs_pixel_size(held_out_set, steps):
    args, tile_set = held_out_set
    args.test_scene, args.test_display = ["1"], steps
    tile_set.noted_bands["resample"] = resample = Resample(factor=.5)
    held_out = evaluation.read_held_out(args, tile_set, SIZE // 2, 4)
    scene = Scene("1", f"{args.origin}/1.png", f"{args.origin}/1_class.png")
    image, label = read_scene(scene, tile_set.table, resample=resample)
    assert image.shape == (48, 32, 3) and held_out.whole == (steps == 20)
    windows = {part.tobytes() for top in (0, 16, 32) for left in (0, 16)
               for part in [label[top:top + 16, left:left + 16]]}
    for part, its_label in held_out.parts:
        assert part.shape[:2] == its_label.shape
        assert its_label.tobytes() in ({label.tobytes()} if held_out.whole else windows)


def test_of_an_area_of_interest_the_windows_that_it_meets(held_out_set, tmp_path):
    args, tile_set = held_out_set
    args.test_scene, args.test_display = ["1"], 5
    area = shapely.to_wkb(np.array([shapely.box(40, 5, 50, 70)]))  # of columns and rows
    pyogrio.raw.write(str(tmp_path / "a.gpkg"), area, [], [], geometry_type="Polygon", crs=None)
    tile_set.label_options = LabelOptions(aoi=str(tmp_path / "a.gpkg"))
    held_out = evaluation.read_held_out(args, tile_set, SIZE, 4)
    assert [np.argwhere(label != 255).min(0).tolist() for _, label in held_out.parts] == [
        [5, 8], [0, 8], [0, 8]]
    assert [(label != 255).sum() for _, label in held_out.parts] == [270, 320, 60]


def test_the_scenes_that_preprocess_noted_are_watched_without_a_flag(held_out_set, capsys):
    args, tile_set = held_out_set
    folder, args.origin = args.origin, None
    tile_set.held_out = [Scene(f"s{n}", f"{folder}/{n}.png", f"{folder}/{n}_class.png", "test")
                         for n in range(3)]
    for given, names in ((["5"], ["s0", "s1", "s2"]), (["s1"], ["s1"])):
        args.test_scene = given
        held_out = evaluation.read_held_out(args, tile_set, SIZE, 4)
        assert held_out.names == names and len(held_out.parts) == len(names)
    # The names stay where the files are gone, so that a run resumes on another machine.
    args.test_scene = ["5"]
    tile_set.held_out = [Scene(f"s{n}", f"{folder}/gone.png", "x", "test") for n in range(2)]
    held_out = evaluation.read_held_out(args, tile_set, SIZE, 4)
    assert held_out.names == ["s0", "s1"] and not held_out.parts
    assert "no labelled scenes s0, s1; training without watching" in capsys.readouterr().out


@pytest.mark.parametrize("whole", [True, False])
def test_an_evaluation_stops_between_two_windows(tmp_path, draw_scene, whole):
    tile_set, *_ = write_tiles(tmp_path, 6, draw_scene)
    image, label = draw_scene(200, 200)
    parts = [(image, label)] if whole else [(image[:SIZE, :SIZE], label[:SIZE, :SIZE])] * 40
    asked, calls = threading.Event(), []

    def run(_, feed):
        calls.append(1)
        if len(calls) == 5:  # three for the tiles, then the held-out scene
            asked.set()
        return predict_red(feed["images"])

    evaluator = evaluation.Evaluator(
        types.SimpleNamespace(run=run), types.SimpleNamespace(probabilities=None, evaluated="images"),
        tile_set, evaluation.HeldOut(["5"], parts, whole), SIZE, 2)
    with pytest.raises(evaluation.EvaluationStopped):
        evaluator.evaluate(1, types.SimpleNamespace(add_summary=lambda *_: None), asked)
    assert len(calls) == 5
