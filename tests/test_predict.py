"""predict.py end to end with a tiny run: maps, scores, comparison, and each wrong input's line."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf2
import tensorflow.compat.v1 as tf

import predict
from deeplab_v3 import ModelConfig, deeplab_v3
from utils.classes import ClassTable, decode_colours
from conftest import read_settings, write_settings
from utils.training.checkpoints import (Checkpoints, best_checkpoints,
                                        latest_checkpoints, restore_model)
from utils.training.environment import code_version
from utils.training.run import RunSettings
from utils.metrics import confusion_matrix, mean_iou
from utils.data.scenes import read_image, read_label, write_png

NAMES = ("ground", "plants", "roofs")  # not five, so that nothing may count on five
TABLE = ClassTable(NAMES, np.array([[200, 180, 120], [0, 160, 0], [160, 0, 40]], np.uint8))
WINDOW = 64
MODEL = {"num_classes": 3, "backbone": "resnet_v2_50", "output_stride": 16,
         "multi_grid": [1, 2, 4], "width": .25}


@pytest.fixture(scope="module")
def logs(tmp_path_factory, draw_scene):
    """A folder of runs with one run, 'tiny': a model that was never trained."""
    image = draw_scene(70, 90, len(NAMES), seed=5)[0]
    folder = tmp_path_factory.mktemp("logs")
    run = str(folder / "tiny")
    write_settings(run, {"model": MODEL, "classes": TABLE.to_settings(), "tile_size": WINDOW})
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(3)
        logits, _ = deeplab_v3(tf.constant(image[None]), ModelConfig(**MODEL))
        session.run(tf.global_variables_initializer())
        # Untrained, one class wins everywhere: centred and spread logits give a map of all classes.
        mean, deviation = session.run(tf.nn.moments(logits, [0, 1, 2]))
        head = {v.op.name: v for v in tf.global_variables() if v.op.name.startswith("logits/")}
        session.run(head["logits/weights"].assign(head["logits/weights"] / deviation ** .5))
        session.run(head["logits/biases"].assign(-mean / deviation ** .5))
        best_checkpoints(run).save(session, 40)
        latest_checkpoints(run).save(session, 70)
    return folder


@pytest.fixture
def scene(tmp_path, draw_scene):
    """(image path, label path) of a scene of 70 x 90 pixels."""
    return _write_scene(tmp_path / "scenes", "5", *draw_scene(70, 90, len(NAMES), seed=5))


def _write_scene(folder, name, image, label):
    paths = str(folder / f"{name}.png"), str(folder / f"{name}_class.png")
    write_png(paths[0], image)
    write_png(paths[1], label)
    return paths


@pytest.fixture
def call(logs, tmp_path):
    """Runs predict.main with these arguments; returns the folder of its results."""
    def run(*arguments):
        out = tmp_path / "out"
        predict.main(["--logs", str(logs), "--out", str(out), *map(str, arguments)])
        return out
    return run


def _probabilities(logs, images):
    """The run's model on a batch of images, without any of predict's code."""
    with tf.Graph().as_default(), tf.Session() as session:
        logits, _ = deeplab_v3(tf.constant(images), ModelConfig(**MODEL))
        restore_model(session, Checkpoints(str(logs / "tiny"), "best").find()[0])
        return session.run(tf.nn.softmax(logits))


def test_one_window_gives_the_models_own_map(call, logs, tmp_path, draw_scene):
    image, label = draw_scene(WINDOW, WINDOW, len(NAMES), seed=1)
    paths = _write_scene(tmp_path / "scenes", "one", image, label)
    turned = np.stack([np.rot90(image, quarters) for quarters in range(4)])
    answers = _probabilities(logs, turned)
    out = call("--image", paths[0], "--rotations", 1)
    classes = read_label(str(out / "one_class.png"), TABLE)
    assert len(np.unique(classes)) > 1
    np.testing.assert_array_equal(classes, answers[0].argmax(-1))

    out = call("--image", paths[0], "--rotations", 4, "--overwrite")
    mean = np.mean([np.rot90(answer, -quarters) for quarters, answer in enumerate(answers)], 0)
    differs = read_label(str(out / "one_class.png"), TABLE) != mean.argmax(-1)
    # Only ties may fall the other way, by rounding.
    first, second = np.sort(mean[differs], axis=-1)[:, :-3:-1].T
    assert (first - second < 1e-4).all()
    assert (mean.argmax(-1) != classes).any()


def test_splicing_is_the_originals(call, logs, tmp_path, draw_scene):
    image, label = draw_scene(WINDOW, 150, len(NAMES), seed=5)
    paths = _write_scene(tmp_path / "scenes", "wide", image, label)
    out = call("--image", paths[0], "--overlap", 0, "--blend", "none", "--rotations", 1)
    windows = np.stack([image[:, left:left + WINDOW] for left in (0, 64, 150 - 64)])
    answers = _probabilities(logs, windows).argmax(-1)
    # The last window is shifted inward, and only what is new in it is used.
    expected = np.concatenate([*answers[:2], answers[2][:, -22:]], axis=1)
    classes = read_label(str(out / "wide_class.png"), TABLE)
    assert (classes != expected).mean() < 1e-3


def test_map_pictures_and_scores(call, scene, capsys):
    out = call("--image", scene[0], "--label", scene[1], "--rotations", 1, "--batch_size", 3)
    assert sorted(os.listdir(out)) == ["5_area.csv", "5_class.png", "5_colour.png", "5_confusion.json",
                                       "5_confusion.png", "5_overlay.png", "5_scores.csv"]
    label, classes = read_label(scene[1], TABLE), read_label(str(out / "5_class.png"), TABLE)
    assert classes.shape == label.shape
    colours = read_image(str(out / "5_colour.png"))
    np.testing.assert_array_equal(decode_colours(colours, TABLE, "map"), classes)
    assert read_image(str(out / "5_overlay.png")).shape == (70, 90, 3)

    scores = pd.read_csv(out / "5_scores.csv", index_col="class")
    expected = mean_iou(confusion_matrix(label, classes, len(NAMES)))
    assert scores.index.tolist() == [*NAMES, "all"]
    assert scores["IoU"].iloc[-1] == pytest.approx(expected)
    labelled = np.bincount(label[label != 255], minlength=len(NAMES))
    assert scores["label_pixels"].tolist() == [*labelled, labelled.sum()]
    printed = capsys.readouterr().out
    assert f"mean-IoU {expected:.4f}" in printed and "megapixels/s" in printed
    assert "run tiny, step 40" in printed


def test_comparison_is_of_the_maps_that_the_flags_give(call, scene):
    shared = ("--image", scene[0], "--label", scene[1])
    label = read_label(scene[1], TABLE)
    turns = ("--rotations", 2, "--scales", .5, 1)
    comparison = pd.read_csv(call(*shared, *turns, "--compare") / "5_compare.csv",
                             index_col="method")
    assert comparison.index.tolist() == ["single pass", "+ blending", "+ woven turns", "+ scales",
                                         "+ rotations", "all"]
    # Another method is another map: none of the settings is lost on the way.
    assert comparison["accuracy"].nunique() == 6
    assert comparison["boundary F1"].nunique() == 6
    assert (comparison[["seconds", "megapixels/s"]] > 0).all(axis=None)
    splicing = ("--overlap", 0, "--blend", "none")
    for method, flags in (("single pass", (*splicing, "--rotations", 1)), ("all", turns)):
        out = call(*shared, *flags, "--overwrite")
        classes = read_label(str(out / "5_class.png"), TABLE)
        expected = mean_iou(confusion_matrix(label, classes, len(NAMES)))
        assert comparison.loc[method, "mean-IoU"] == pytest.approx(expected, abs=1e-3)


def test_an_export_to_no_name_is_not_taken_for_none(call, tmp_path):
    with pytest.raises(ValueError, match="there is something already; export to a new folder"):
        call("--export", "")
    assert not (tmp_path / "out").exists()


def test_the_exported_model_runs_without_this_code(call, logs, tmp_path, draw_scene, capsys):
    folder, scores = tmp_path / "model", {"step": 40, "evaluated": 70, "mean_iou": .5,
                                          "held_out_mean_iou": None}
    with open(logs / "tiny" / "best" / "score.json", "w") as file:
        json.dump(scores, file)
    with open(logs / "tiny" / "environment.json", "w") as file:
        json.dump([{"step": 0, "code": {"commit": "abc", "dirty": False},
                    "training_scenes": ["1", "2"]}], file)
    call("--export", folder)
    with open(folder / "model.json") as file:
        facts = json.load(file)
    assert facts.pop("exported_by") == code_version()
    assert facts == {"run": "tiny", "checkpoint": "best", "step": 40, "pixel_size": None,
                     "training_scenes": ["1", "2"], "held_out_scenes": None, "best_score": scores,
                     "trained_by": {"commit": "abc", "dirty": False}}
    assert (f"written: {folder} (run tiny, step 40); it takes images of bands red, green, blue"
            in capsys.readouterr().out)
    assert read_settings(str(folder))["classes"] == TABLE.to_settings()
    # Eagerly, as TensorFlow 2 does it; two sizes with one model.
    signature = tf2.saved_model.load(str(folder)).signatures["serving_default"]
    for size in ((2, 64, 64), (1, 50, 83)):
        images = np.stack([draw_scene(*size[1:], len(NAMES), seed=i)[0] for i in range(size[0])])
        probabilities = signature(tf2.constant(images))["probabilities"].numpy()
        assert probabilities.dtype == np.float32 and probabilities.shape == (*size, len(NAMES))
        np.testing.assert_allclose(probabilities, _probabilities(logs, images), atol=1e-5)
    with pytest.raises(ValueError, match="model: there is something already"):
        call("--export", folder)
    with pytest.raises(OSError, match="below: could not be written"):
        call("--export", folder / "settings.json" / "below")
    assert sorted(os.listdir(tmp_path)) == ["model"]


def test_held_out_scene_is_found(scene, tmp_path, capsys):
    def found(*arguments, test_scene=None):
        args = predict.parse_arguments([*map(str, arguments)])
        settings = RunSettings(ModelConfig(3), TABLE, WINDOW, test_scene and [test_scene])
        return predict.find_scenes_to_map(args, settings)[0]

    folder = os.path.dirname(scene[0])
    assert found("--origin", folder).image_path == scene[0]
    assert found("--origin", folder).label_path == scene[1]
    with pytest.raises(ValueError, match="no scene 7; there are 5"):
        found("--origin", folder, "--test_scene", 7)
    with pytest.raises(ValueError, match="no scene 7; there are 5"):
        found("--origin", folder, test_scene="7")  # what the run held out
    assert found("--origin", folder, "--test_scene", 5, test_scene="7").image_path == scene[0]
    assert found("--origin", folder, "--test_scene", "[5-9]*").image_path == scene[0]
    dataset = tmp_path / "dataset"
    with pytest.raises(FileNotFoundError, match="dataset/origin: no scenes there.*demo_scenes"):
        found("--dataset", dataset)
    shutil.copytree(folder, dataset / "test")
    assert found("--dataset", dataset).image_path == str(dataset / "test" / "5.png")
    shutil.copytree(folder, dataset / "origin")
    assert found("--dataset", dataset).image_path == str(dataset / "origin" / "5.png")


def test_inputs_that_cannot_be_mapped(call, scene, logs, tmp_path, draw_scene, repository):
    image, label = scene
    with pytest.raises(FileNotFoundError, match="elsewhere: no trained run there"):
        call("--image", image, "--logs", tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="other: no run there.*there are: tiny"):
        call("--image", image, "--run", "other")
    with pytest.raises(ValueError, match=f"{label}: 1 band.* of uint8; a scene needs three"):
        call("--image", label)
    with pytest.raises(ValueError, match="--label goes with --image"):
        call("--label", label)
    with pytest.raises(ValueError, match="--compare needs a label"):
        call("--image", image, "--compare")
    with pytest.raises(ValueError, match="the label could be replaced"):
        call("--image", image, "--out", os.path.dirname(image))
    with pytest.raises(OSError, match="5.png: could not be made"):
        call("--image", image, "--out", tmp_path / "scenes" / "5.png")
    other = _write_scene(tmp_path / "small", "small", *draw_scene(60, 90, len(NAMES)))
    with pytest.raises(ValueError, match="small_class.png: 60 x 90 pixels"):
        call("--image", image, "--label", other[1])
    with pytest.raises(ValueError, match="classes.csv: 5 classes, but the run was trained on 3"):
        call("--image", image, "--classes", repository / "dataset/classes.csv")
    # The map of 5.png would have this very name.
    own = tmp_path / "labels" / "5_class.png"
    own.parent.mkdir()
    shutil.copy(label, own)
    with pytest.raises(ValueError, match="labels: a scene or its label is in that folder"):
        call("--image", image, "--label", own, "--out", own.parent)

    run = tmp_path / "other" / "wider"
    shutil.copytree(logs / "tiny" / "best", run / "best")
    write_settings(str(run), {"model": MODEL | {"num_classes": 4}, "tile_size": WINDOW,
                              "classes": TABLE.to_settings() + [
                                  {"name": "fourth", "colour": "#123456"}]})
    with pytest.raises(ValueError, match="checkpoint of another model: logits/"):
        call("--image", image, "--logs", run.parent, "--run", "wider")
    write_settings(str(run), {"model": MODEL | {"attention": True}, "tile_size": WINDOW,
                              "classes": TABLE.to_settings()})
    with pytest.raises(ValueError, match="wider/settings.json: its model has settings .*not know "
                       r"\(attention\)"):
        call("--image", image, "--logs", run.parent, "--run", "wider")
    assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == []


def test_a_mistake_ends_with_one_line_and_status_2(refusal, tmp_path):
    assert f"error: {tmp_path}: no trained run" in refusal(predict, "--logs", tmp_path)
