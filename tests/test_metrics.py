"""Scores against scikit-learn, and against the published figures of the original's maps."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from utils import metrics
from utils.classes import ClassTable, colour_map, read_classes
from utils.data.scenes import write_png

CLASSES = 6


@pytest.fixture
def maps():
    """A label with ignored pixels and a prediction that is right about half the time."""
    random = np.random.default_rng(0)
    label = random.choice(CLASSES, (83, 117), p=[.4, .3, .1, .1, .07, .03]).astype(np.uint8)
    prediction = np.where(random.random(label.shape) < .5, label,
                          random.integers(0, CLASSES, label.shape)).astype(np.uint8)
    label[random.random(label.shape) < .1] = 255
    prediction[random.random(label.shape) < .05] = 255
    return label, prediction


def _counted(label, prediction):
    counted = (label != 255) & (prediction != 255)
    return label[counted], prediction[counted]


def test_agrees_with_scikit_learn(maps):
    matrix = metrics.confusion_matrix(*maps, CLASSES)
    label, prediction = _counted(*maps)
    labels = np.arange(CLASSES)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(
        matrix, reference.confusion_matrix(label, prediction, labels=labels))
    for ours, theirs in ((metrics.intersection_over_union, reference.jaccard_score),
                         (metrics.precision, reference.precision_score),
                         (metrics.recall, reference.recall_score)):
        np.testing.assert_allclose(
            ours(matrix), theirs(label, prediction, labels=labels, average=None), rtol=1e-12)
    assert metrics.mean_iou(matrix) == pytest.approx(
        reference.jaccard_score(label, prediction, average="macro"), rel=1e-12)
    assert metrics.accuracy(matrix) == pytest.approx(
        reference.accuracy_score(label, prediction), rel=1e-12)


def test_matrices_of_parts_add_up_to_the_scene(maps, monkeypatch):
    label, prediction = maps
    whole = metrics.confusion_matrix(label, prediction, CLASSES)
    parts = sum(metrics.confusion_matrix(label[rows], prediction[rows], CLASSES)
                for rows in (slice(0, 20), slice(20, 21), slice(21, 83)))
    np.testing.assert_array_equal(parts, whole)
    monkeypatch.setattr(metrics, "PIXELS_AT_ONCE", 1000)
    np.testing.assert_array_equal(metrics.confusion_matrix(label, prediction, CLASSES), whole)


def test_class_absent_from_both_maps_stays_out_of_the_mean():
    label = np.array([[0, 0, 1, 1, 3]], np.uint8)
    prediction = np.array([[0, 1, 1, 1, 0]], np.uint8)
    matrix = metrics.confusion_matrix(label, prediction, 5)
    iou = metrics.intersection_over_union(matrix)
    np.testing.assert_allclose(iou, [1 / 3, 2 / 3, np.nan, 0, np.nan])
    assert metrics.mean_iou(matrix) == pytest.approx(1 / 3)
    # Class 3 is labelled but never predicted: its recall is 0, its precision undefined.
    np.testing.assert_allclose(metrics.precision(matrix), [.5, 2 / 3, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(metrics.recall(matrix), [.5, 1, np.nan, 0, np.nan])

    table = ClassTable(tuple("abcde"), np.zeros((5, 3), np.uint8))
    scores = metrics.score_table(matrix, table)
    assert scores.index.tolist() == ["a", "b", "c", "d", "e", "all"]
    assert scores["IoU"].iloc[-1] == pytest.approx(1 / 3)
    assert scores["accuracy"].iloc[-1] == pytest.approx(3 / 5)
    lines = metrics.format_scores(scores).splitlines()
    assert "absent" in lines[4] and "absent" not in lines[5]
    assert lines[-1] == "mean-IoU 0.3333, accuracy 0.6000 (5 pixels)"


def test_nothing_to_count_is_not_a_number_and_not_an_error():
    ignored = np.full((4, 5), 255, np.uint8)
    matrix = metrics.confusion_matrix(ignored, np.zeros((4, 5), np.uint8), 3)
    assert matrix.sum() == 0
    assert np.isnan([metrics.mean_iou(matrix), metrics.accuracy(matrix)]).all()


@pytest.mark.parametrize("label, prediction, message", [
    (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), "2 x 3.*3 x 2"),
    (np.full((2, 2), 3, np.uint8), np.zeros((2, 2), np.uint8), "value 3 in the label"),
    (np.zeros((2, 2), np.uint8), np.full((2, 2), 254, np.uint8), "value 254 in the prediction"),
    # An unknown class is an error even where the other map is ignored.
    (np.full((2, 2), 255, np.uint8), np.full((2, 2), 3, np.uint8), "value 3 in the prediction"),
    (np.zeros((2, 2), np.int64), np.zeros((2, 2), np.uint8), "uint8"),
])
def test_maps_that_cannot_be_scored(label, prediction, message):
    with pytest.raises(ValueError, match=message):
        metrics.confusion_matrix(label, prediction, 3)


@pytest.fixture
def score(repository):
    """Runs `python -m utils.metrics` with these arguments."""
    def run(*arguments):
        return subprocess.run([sys.executable, "-m", "utils.metrics", *map(str, arguments)],
                              cwd=repository, capture_output=True, text=True)
    return run


def test_command_line_takes_ids_and_colours(score, repository, tmp_path):
    table = read_classes(repository / "dataset/classes.csv")
    random = np.random.default_rng(1)
    label, prediction = random.integers(0, len(table), (2, 40, 30)).astype(np.uint8)
    label[:5] = 255
    write_png(tmp_path / "label.png", label)
    write_png(tmp_path / "colour.png", colour_map(prediction, table))
    result = score("--label", tmp_path / "label.png", "--prediction", tmp_path / "colour.png",
                   "--csv", tmp_path / "scores.csv")
    assert result.returncode == 0, result.stderr
    iou = reference.jaccard_score(*_counted(label, prediction), average=None)
    assert f"mean-IoU {iou.mean():.4f}" in result.stdout
    scores = pd.read_csv(tmp_path / "scores.csv", index_col="class")
    np.testing.assert_allclose(scores["IoU"], [*iou, iou.mean()])

    write_png(tmp_path / "small.png", prediction[:-1])
    result = score("--label", tmp_path / "label.png", "--prediction", tmp_path / "small.png")
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert "small.png: 39 x 30" in result.stderr


def test_command_line_pools_patterns(score, repository, tmp_path):
    table = read_classes(repository / "dataset/classes.csv")
    random, pairs = np.random.default_rng(2), []
    for number in range(12):
        # Scenes of different size and quality: a mean of their scores is not the pooled score.
        size = 2, 10 + 3 * number, 17
        label, prediction = random.integers(0, len(table), size).astype(np.uint8)
        right = random.random(label.shape) < number / 12
        prediction[right] = label[right]
        label[:2] = 255
        write_png(str(tmp_path / f"in/{number}_mask.png"), label)
        write_png(str(tmp_path / f"maps/{number}_sat_class.png"), prediction)
        pairs.append((label, prediction))
    flags = ("--label", f"{tmp_path}/in/*_mask.png", "--prediction",
             f"{tmp_path}/maps/*_sat_class.png", "--csv", tmp_path / "pooled.csv")
    result = score(*flags)
    assert (result.returncode, result.stderr) == (0, "")
    label, prediction = _counted(*(np.concatenate([maps.ravel() for maps in side])
                                   for side in zip(*pairs)))
    iou = reference.jaccard_score(label, prediction, average=None)
    scores = pd.read_csv(tmp_path / "pooled.csv", index_col="class")
    np.testing.assert_allclose(scores["IoU"], [*iou, iou.mean()])
    assert f"mean-IoU {iou.mean():.4f}" in result.stdout
    assert f"({label.size:,} pixels)" in result.stdout
    by_scene = pd.read_csv(tmp_path / "pooled_by_scene.csv", index_col="scene")
    assert by_scene["pixels"].sum() == label.size
    assert by_scene.loc[f"{tmp_path}/in/11_mask.png", "accuracy"] == pytest.approx(
        reference.accuracy_score(*_counted(*pairs[11])))
    # The screen shows the ten worst only.
    assert "the 10 worst of 12" in result.stdout
    assert "/0_mask.png" in result.stdout and "/11_mask.png" not in result.stdout

    (tmp_path / "maps/7_sat_class.png").unlink()
    result = score(*flags)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert "maps/7_sat_class.png: could not be read" in result.stderr
    assert f"11 of 12 scenes; failed and left out: {tmp_path}/in/7_mask.png:" in result.stdout
    others = _counted(*(np.concatenate([maps.ravel() for number, maps in enumerate(side)
                                        if number != 7]) for side in zip(*pairs)))
    assert f"accuracy {reference.accuracy_score(*others):.4f}" in result.stdout


@pytest.mark.parametrize("step, expected_iou, expected_accuracy",
                         [(10000, "0.4057", "0.7020"), (50000, "0.7732", "0.8548")])
def test_original_maps_get_their_published_scores(score, shared_data, step, expected_iou,
                                                  expected_accuracy):
    result = score("--label", shared_data / "ccf" / "5_color.png",
                   "--prediction", shared_data / "ccf" / f"step_{step}.png")
    assert f"mean-IoU {expected_iou}, accuracy {expected_accuracy} " in result.stdout, result.stderr
