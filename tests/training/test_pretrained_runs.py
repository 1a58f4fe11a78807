"""Initial weights from runs of our own and the model zoo; and what is none of them."""

import os

import numpy as np
import pytest
import tensorflow as tf2
import tensorflow.compat.v1 as tf

from conftest import one_line_error, write_settings
from deeplab_v3 import ModelConfig
from utils.training.checkpoints import (BEST, LATEST, best_checkpoints, latest_checkpoints,
                                        model_variables)
from utils.training.ema import average_name
from utils.training.pretrained import assign_weights, origin_of, read_pretrained

BACKBONE = "resnet_v2_50"


def test_a_checkpoint_of_the_zoo_s_whole_model_gives_its_backbone(tmp_path):
    """Its pyramid is named as ours; its last layer is not."""
    path, names = str(tmp_path / "model.ckpt"), (
        "aspp0/weights", "logits/semantic/weights", "xception_65/entry_flow/conv1_1/weights")
    with tf.Graph().as_default(), tf.Session() as session:
        for name in names:
            tf.get_variable(name, [3, 3, 3, 2])
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, path, write_meta_graph=False)
        values = session.run({v.op.name: v for v in tf.global_variables()})
    with tf.Graph().as_default(), tf.Session() as session:
        ours = tf.get_variable(names[-1], [3, 3, 3, 2], initializer=tf.zeros_initializer())
        line = assign_weights(session, read_pretrained(path, ModelConfig(5, "xception_65")),
                              "xception_65", path)
        np.testing.assert_array_equal(session.run(ours), values[names[-1]])
    assert line.endswith("not used: aspp0/weights, logits/semantic/weights")


class SmallModel:
    """Variables named as the model's, few and small, with a classifier and a slot."""

    def __init__(self, classes, filters=4, seed=0):
        self.graph = tf.Graph()
        with self.graph.as_default():
            tf.set_random_seed(seed)
            for name, shape in {f"{BACKBONE}/conv1/weights": [7, 7, 3, filters],
                                f"{BACKBONE}/postnorm/gamma": [8], "aspp0/weights": [1, 1, 8, 4],
                                "logits/weights": [1, 1, 4, classes],
                                "logits/biases": [classes]}.items():
                tf.get_variable(name, shape, initializer=tf.random_normal_initializer())
            for name in (f"{BACKBONE}/postnorm/moving_mean", "logits/weights/Adam"):
                tf.get_variable(name, [8], trainable=False)
            self.session = tf.Session()
            self.session.run(tf.global_variables_initializer())

    def save_run(self, run, which=(BEST, LATEST), **model):
        classes = [{"id": i, "name": f"c{i}", "colour": f"#00000{i}"} for i in range(5)]
        write_settings(str(run), {
            "model": {"num_classes": 5, "backbone": BACKBONE, "pool1_padding": "keras"} | model,
            "classes": classes, "tile_size": 64})
        with self.graph.as_default():
            for step, kind in enumerate(which, start=1):
                kept = {BEST: best_checkpoints, LATEST: latest_checkpoints}[kind](str(run))
                kept.save(self.session, step)
        return str(run)

    def assign(self, run, **model):
        with self.graph.as_default():
            weights = read_pretrained(run, ModelConfig(5, **{"backbone": BACKBONE} | model))
            return assign_weights(self.session, weights, BACKBONE, run)

    def values(self):
        with self.graph.as_default():
            return self.session.run({v.op.name: v for v in model_variables()})


@pytest.mark.parametrize("which", [(BEST, LATEST), (LATEST,)])
def test_a_run_of_our_own_fills_the_whole_model(tmp_path, which):
    source, ours = SmallModel(5), SmallModel(5, seed=1)
    run = source.save_run(tmp_path / "mine", which)
    assert origin_of(run) == "keras"  # pool1 pads as that run's did
    line = ours.assign(run)
    assert line == f"initial weights from {run}/{which[0]}/step-1"
    for name, value in source.values().items():
        np.testing.assert_array_equal(ours.values()[name], value)


def test_a_run_with_averages_that_was_never_evaluated_gives_these(tmp_path):
    source, ours = SmallModel(5), SmallModel(5, seed=1)
    name = "aspp0/weights"
    with source.graph.as_default():
        average = tf.get_variable(average_name(name), [1, 1, 8, 4], trainable=False,
                                  initializer=tf.ones_initializer())
        source.session.run(average.initializer)
    run = source.save_run(tmp_path / "mine", (LATEST,))
    assert ours.assign(run) == f"initial weights from {run}/{LATEST}/step-1"
    values = ours.values()
    np.testing.assert_array_equal(values[name], np.ones([1, 1, 8, 4]))
    np.testing.assert_array_equal(values["logits/biases"], source.values()["logits/biases"])


def test_with_another_number_of_classes_the_last_layer_alone_is_re_initialised(tmp_path):
    source, ours = SmallModel(5), SmallModel(3, seed=1)
    first = ours.values()
    line = ours.assign(source.save_run(tmp_path / "mine"))
    assert line.endswith("re-initialised for another number of classes: logits/weights, "
                         "logits/biases")
    for name, value in source.values().items():
        expected = first[name] if name.startswith("logits/") else value
        np.testing.assert_array_equal(ours.values()[name], expected)


def test_what_else_differs_from_a_run_is_named_and_nothing_is_changed(tmp_path):
    source = SmallModel(5)
    ours = SmallModel(3, filters=6, seed=1)
    first = ours.values()
    run = source.save_run(tmp_path / "mine")
    with pytest.raises(ValueError, match="mine: not this model: 1 of 4 .*: resnet_v2_50/conv1/we"):
        ours.assign(run)
    with pytest.raises(ValueError, match="mine: .*backbone was resnet_v2_50, is xception_65"):
        ours.assign(run, backbone="xception_65")
    with pytest.raises(ValueError, match="mine: .*in_channels was 3, is 4; only the number"):
        ours.assign(run, in_channels=4)
    with pytest.raises(ValueError, match="mine: .*decoder was False, is True; width was 1, is 0.5"):
        ours.assign(run, decoder=True, width=.5)
    with pytest.raises(ValueError, match="mine: .*separable was False, is True; only the number"):
        ours.assign(run, separable=True)
    assert all((ours.values()[name] == value).all() for name, value in first.items())


def test_weights_of_width_1_are_not_fetched_for_another():
    with pytest.raises(ValueError, match="--width 0.5: imagenet has weights of width 1 only; use"):
        read_pretrained("imagenet", ModelConfig(5, BACKBONE, width=.5))


def test_a_run_that_cannot_be_started_from_is_named(tmp_path):
    run = SmallModel(5).save_run(tmp_path / "empty", which=())
    with pytest.raises(FileNotFoundError, match="empty: a run without a complete checkpoint"):
        read_pretrained(run)
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match="folder: a folder, but no run .*settings.json"):
        origin_of(str(tmp_path / "folder"))
    run = SmallModel(5).save_run(tmp_path / "mine", which=(LATEST,))
    prefix = os.path.join(run, LATEST, "step-1")
    with pytest.raises(ValueError, match="step-1: a checkpoint of train.py's own; give its run's"):
        read_pretrained(prefix)
    for ending in (".index", ".data-00000-of-00001"):
        with pytest.raises(ValueError, match=f"{ending}: one file of a .*prefix of all: {prefix}$"):
            origin_of(prefix + ending)
    data = prefix + ".data-00000-of-00001"
    os.truncate(data, os.path.getsize(data) // 2)
    with pytest.raises(ValueError, match="step-1: not a checkpoint that TensorFlow reads"):
        read_pretrained(run)


@pytest.mark.filterwarnings("error::UserWarning")  # Keras's, of layers it found no weights for
@pytest.mark.parametrize("name, suffix", [
    ("ResNet101V2", ".weights.h5"), ("ResNet50", ".h5"), ("MobileNetV2", ".weights.h5")])
def test_a_file_of_another_of_keras_s_applications_is_one_error(tmp_path, name, suffix):
    model = getattr(tf2.keras.applications, name)(weights=None, include_top=False)
    path = str(tmp_path / f"other{suffix}")
    model.save_weights(path) if suffix == ".weights.h5" else model.save(path)
    assert "not the weights of Keras's ResNet50V2" in one_line_error(path)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".keras"])
def test_a_keras_file_of_another_network_is_one_error(tmp_path, suffix):
    layers = tf2.keras.layers
    model = tf2.keras.Sequential([layers.Input((8, 8, 3)), layers.Conv2D(64, 7),
                                  layers.BatchNormalization()])
    path = str(tmp_path / f"other{suffix}")
    model.save_weights(path) if suffix == ".weights.h5" else model.save(path)
    assert "not the weights of Keras's ResNet50V2" in one_line_error(path)


def test_text_in_place_of_weights_is_one_error(tmp_path):
    for name in ("weights.ckpt", "weights.h5"):
        (tmp_path / name).write_text("<html>404 not found</html>\n" * 50)
        one_line_error(str(tmp_path / name))


def test_an_archive_is_not_taken_for_a_checkpoint(tmp_path):
    for name in ("model.tar.gz", "model.tgz"):
        (tmp_path / name).touch()
        assert "unpack it first" in one_line_error(str(tmp_path / name))


def test_a_path_that_leads_nowhere_says_what_is_expected(tmp_path):
    assert origin_of("none") is None
    for name in ("absent.h5", "absent.ckpt", "absent", ""):
        with pytest.raises(FileNotFoundError, match="--pretrained is none, imagenet, "):
            read_pretrained(str(tmp_path / name))
