"""Initial weights from Keras's files, slim's checkpoints and Keras's download."""

import os
import shutil

import h5py
import numpy as np
import pytest
import tensorflow as tf2
import tensorflow.compat.v1 as tf
from keras.src.applications import resnet as keras_resnet
from keras.src.legacy.saving import legacy_h5_format

from conftest import one_line_error
from resnet_v2 import resnet_v2_50
from utils.layers import BatchNorm
from utils.training.pretrained import (adapt_kernel, assign_backbone, origin_of,
                              read_pretrained)
from utils.training.checkpoints import (model_variables)

BACKBONE = "resnet_v2_50"
# A name of each kind, and Keras's for it.
KERAS_NAMES = {
    "conv1/weights": ("conv1_conv", "kernel"), "conv1/biases": ("conv1_conv", "bias"),
    "block1/unit_1/bottleneck_v2/preact/gamma": ("conv2_block1_preact_bn", "gamma"),
    "block1/unit_1/bottleneck_v2/shortcut/biases": ("conv2_block1_0_conv", "bias"),
    "block2/unit_4/bottleneck_v2/conv1/weights": ("conv3_block4_1_conv", "kernel"),
    "block3/unit_6/bottleneck_v2/conv2/weights": ("conv4_block6_2_conv", "kernel"),
    "block3/unit_2/bottleneck_v2/conv1/BatchNorm/beta": ("conv4_block2_1_bn", "beta"),
    "block4/unit_3/bottleneck_v2/conv2/BatchNorm/moving_variance":
        ("conv5_block3_2_bn", "moving_variance"),
    "block4/unit_3/bottleneck_v2/conv3/biases": ("conv5_block3_3_conv", "bias"),
    "postnorm/moving_mean": ("post_bn", "moving_mean")}


@pytest.fixture(scope="module")
def keras_model():
    """Keras's ResNet50V2 with its classifier, of random weights, statistics included."""
    model = tf2.keras.applications.ResNet50V2(weights=None, include_top=True)
    random = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(random.uniform(0.5, 1.5, variable.shape).astype(np.float32))
    return model


def without_top(model):
    """The same network and weights without the classifier, as Keras builds include_top=False."""
    bare = tf2.keras.applications.ResNet50V2(weights=None, include_top=False)
    bare.set_weights(model.get_weights()[:-2])
    return bare


@pytest.fixture(scope="module")
def keras_files(keras_model, tmp_path_factory):
    """Kind -> path of a file of these weights in each of Keras's formats."""
    folder = tmp_path_factory.mktemp("keras")
    bare = without_top(keras_model)
    paths = {kind: str(folder / kind) for kind in (
        "top.weights.h5", "bare.weights.h5", "top.h5", "bare.h5", "bare.keras", "notop_old.h5")}
    keras_model.save_weights(paths["top.weights.h5"])
    keras_model.save(paths["top.h5"])
    bare.save_weights(paths["bare.weights.h5"])
    bare.save(paths["bare.h5"])
    bare.save(paths["bare.keras"])
    with h5py.File(paths["notop_old.h5"], "w") as file:  # as the file that Keras downloads
        legacy_h5_format.save_weights_to_hdf5_group(file, bare)
    return paths


def check_weights(weights, keras_model):
    """All 270 variables of the backbone are there and hold Keras's values."""
    assert len(weights) == 270
    for name, (layer, kind) in KERAS_NAMES.items():
        layer = keras_model.get_layer(layer)
        expected, = (v for v in layer.weights if v.name == kind)
        np.testing.assert_array_equal(weights[f"{BACKBONE}/{name}"], expected.numpy())
        assert weights[f"{BACKBONE}/{name}"].dtype == np.float32
    total = sum(value.sum(dtype=np.float64) for value in weights.values())
    assert total == pytest.approx(
        sum(value.sum(dtype=np.float64) for value in keras_model.get_weights()[:-2]), rel=1e-9)


@pytest.mark.parametrize("kind", ["top.weights.h5", "bare.weights.h5", "top.h5", "bare.h5",
                                  "bare.keras", "notop_old.h5"])
def test_every_format_of_keras_s_files_is_read(keras_files, keras_model, kind):
    assert origin_of(keras_files[kind]) == "keras"
    check_weights(read_pretrained(keras_files[kind]), keras_model)


def test_imagenet_is_keras_s_download_without_classifier(keras_files, keras_model, monkeypatch):
    """The downloader is handed Keras's own address and check sum; here it finds a local file."""
    asked = []

    def get_file(name, origin, cache_subdir, file_hash):
        asked.append((name, origin, cache_subdir, file_hash))
        return keras_files["notop_old.h5"]

    monkeypatch.setattr(keras_resnet.file_utils, "get_file", get_file)
    assert origin_of("imagenet") == "keras"
    check_weights(read_pretrained("imagenet"), keras_model)
    (name, origin, cache, file_hash), = asked
    assert name == "resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert origin.startswith("https://storage.googleapis.com/") and origin.endswith(name)
    assert cache == "models" and file_hash


def test_imagenet_without_a_network_is_one_clear_error(monkeypatch):
    def get_file(*_, **__):
        raise Exception("URL fetch failure on https://x.invalid: None -- no name")

    monkeypatch.setattr(keras_resnet.file_utils, "get_file", get_file)
    with pytest.raises(OSError, match="imagenet: .*could not fetch.*URL fetch failure"
                                      ".*--pretrained none"):
        read_pretrained("imagenet")


class Network:
    """Our backbone in a graph of its own."""

    def __init__(self, seed=0, bands=3):
        self.graph = tf.Graph()
        with self.graph.as_default():
            tf.set_random_seed(seed)
            self.images = tf.constant(
                np.random.default_rng(0).uniform(-1, 1, (1, 65, 65, bands)).astype(np.float32))
            self.features = resnet_v2_50(self.images, BatchNorm())[0]
            self.variables = model_variables()
            self.session = tf.Session()
            self.session.run(tf.global_variables_initializer())

    def assign(self, weights, source="the test's file"):
        with self.graph.as_default():
            return assign_backbone(self.session, weights, BACKBONE, source)

    def values(self):
        return self.session.run({v.op.name: v for v in self.variables})


@pytest.fixture(scope="module")
def network():
    """A Network that tests may assign to."""
    return Network()


@pytest.fixture(scope="module")
def slim_checkpoints(tmp_path_factory):
    """(format -> path, features, values) of a network saved with a classifier, a step and a slot.

    V1 is one file, as slim's published checkpoints are; V2 is an index and data.
    """
    source = Network(seed=1)
    with source.graph.as_default():
        random = np.random.default_rng(2)
        statistics = {v: random.uniform(0.5, 1.5, v.shape).astype(np.float32)
                      for v in source.variables if not v.op.name.endswith("weights")}
        others = [tf.train.create_global_step(),
                  tf.get_variable(f"{BACKBONE}/logits/weights", [1, 1, 2048, 11]),
                  tf.get_variable(f"{BACKBONE}/conv1/weights/Momentum", [7, 7, 3, 64])]
        source.session.run(tf.variables_initializer(others))
        source.session.run([v.initializer for v in statistics],
                           {v.initializer.inputs[1]: value for v, value in statistics.items()})
        paths = {}
        for name in ("V1", "V2"):
            saver = tf.train.Saver(write_version=getattr(tf.train.SaverDef, name))
            paths[name] = str(tmp_path_factory.mktemp(name) / "resnet_v2_50.ckpt")
            saver.save(source.session, paths[name], write_meta_graph=False)
    return paths, source.session.run(source.features), source.values()


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_a_slim_checkpoint_gives_the_same_features(slim_checkpoints, network, version):
    paths, features, values = slim_checkpoints
    assert origin_of(paths[version]) == "slim"
    network.assign({name: value / 2 for name, value in values.items()})
    assert np.abs(network.session.run(network.features) - features).max() > 0.1
    left_out = network.assign(read_pretrained(paths[version]))
    assert left_out == ["global_step", f"{BACKBONE}/logits/weights"]
    restored = network.values()
    assert len(restored) == 270
    for name, value in values.items():
        np.testing.assert_array_equal(restored[name], value)
    np.testing.assert_allclose(network.session.run(network.features), features, rtol=1e-5,
                               atol=1e-5)


def test_one_set_of_weights_lands_in_the_same_variables_from_either_origin(
        keras_files, keras_model, slim_checkpoints, tmp_path):
    """Keras's weights, saved under the names and shapes of slim's checkpoint, are read as equal."""
    stored = {name for name in tf.train.load_checkpoint(
        slim_checkpoints[0]["V2"]).get_variable_to_shape_map() if "Momentum" not in name}
    assert {"global_step", f"{BACKBONE}/logits/weights"} < stored
    weights = read_pretrained(keras_files["bare.h5"])
    path = str(tmp_path / "resnet_v2_50.ckpt")
    tf2.raw_ops.SaveV2(prefix=path, tensor_names=list(stored), shape_and_slices=[""] * len(stored),
                       tensors=[weights.get(name, np.float32(0)) for name in stored])
    read = read_pretrained(path)
    assert set(read) - set(weights) == {"global_step", f"{BACKBONE}/logits/weights"}
    for name, value in weights.items():
        np.testing.assert_array_equal(read[name], value)


@pytest.mark.parametrize("bands", [1, 3, 6])
def test_an_input_whose_bands_repeat_gives_what_rgb_gave(bands):
    """tf.nn's convolution is the reference; one band is red, green and blue at once."""
    random = np.random.default_rng(0)
    kernel = random.normal(size=(7, 7, 3, 8)).astype(np.float32)
    rgb = random.normal(size=(1, 20, 20, 1 if bands == 1 else 3)).astype(np.float32)
    ours = np.tile(rgb, bands // rgb.shape[3])
    expected = tf2.nn.conv2d(np.broadcast_to(rgb, (1, 20, 20, 3)), kernel, 2, "SAME")
    adapted = adapt_kernel(kernel, bands)
    assert adapted.shape == (7, 7, bands, 8) and adapted.dtype == np.float32
    np.testing.assert_allclose(tf2.nn.conv2d(ours, adapted, 2, "SAME"), expected, atol=1e-4)


def test_four_bands_begin_with_red_green_blue_and_red_again(slim_checkpoints):
    """timm's adapt_input_conv, written out: R G B R, times 3/4."""
    paths, _, values = slim_checkpoints
    network = Network(bands=4)
    network.assign(read_pretrained(paths["V2"]))
    after = network.values()
    kernel = values[f"{BACKBONE}/conv1/weights"]
    np.testing.assert_allclose(after[f"{BACKBONE}/conv1/weights"],
                               kernel[:, :, [0, 1, 2, 0]] * .75, rtol=1e-6)
    for name, value in values.items():
        if name != f"{BACKBONE}/conv1/weights":
            np.testing.assert_array_equal(after[name], value)


def test_what_is_missing_or_of_another_shape_is_named_and_nothing_is_changed(network):
    before = network.values()
    weights = {name: value + 1 for name, value in before.items()}
    missing = f"{BACKBONE}/block3/unit_6/bottleneck_v2/conv2/BatchNorm/moving_mean"
    other = f"{BACKBONE}/conv1/weights"
    del weights[missing]
    weights[other] = weights[other][:3]
    with pytest.raises(ValueError) as error:
        network.assign(weights, "wrong.ckpt")
    assert str(error.value).startswith("wrong.ckpt: ") and "2 of 270" in str(error.value)
    assert missing in str(error.value) and other in str(error.value)
    after = network.values()
    assert all((after[name] == value).all() for name, value in before.items())


def test_the_checkpoint_of_another_network_names_what_it_lacks(tmp_path, network):
    path = str(tmp_path / "other.ckpt")
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("resnet_v1_50/conv1/weights", [7, 7, 3, 64])
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, path)
    with pytest.raises(ValueError, match="other.ckpt: .*270 of 270.*resnet_v2_50/conv1/weights.*"
                                         "and 267 more; the file has resnet_v1_50$"):
        network.assign(read_pretrained(path), path)


@pytest.mark.parametrize("kind, kept", [
    ("notop_old.h5", 0), ("notop_old.h5", 0.5), ("notop_old.h5", 0.999),
    ("bare.weights.h5", 0.9), ("bare.keras", 10), ("bare.keras", 0.999)])
def test_a_truncated_keras_file_is_one_error(keras_files, tmp_path, kind, kept):
    path = str(tmp_path / kind)
    shutil.copy(keras_files[kind], path)
    size = os.path.getsize(path)
    os.truncate(path, kept if kept >= 1 else int(size * kept))
    assert "not the weights of Keras's ResNet50V2" in one_line_error(path)


@pytest.mark.parametrize("version", ["V1", "V2"])
@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.999])
def test_a_truncated_checkpoint_is_one_error(slim_checkpoints, tmp_path, version, kept):
    folder = os.path.dirname(slim_checkpoints[0][version])
    whole = [name for name in os.listdir(folder) if name != "checkpoint"]
    for name in whole:
        shutil.copy(os.path.join(folder, name), tmp_path)
    for name in whole:
        path = str(tmp_path / name)
        size = os.path.getsize(path)
        os.truncate(path, kept if kept >= 1 else int(size * kept))
        assert "not a checkpoint" in one_line_error(str(tmp_path / "resnet_v2_50.ckpt"))
        shutil.copy(os.path.join(folder, name), path)
