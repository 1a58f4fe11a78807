"""The backbone against Keras's ResNet50V2, slim's naming rule, and itself at other strides.

benchmarks/slim_parity.py compares it with the real TF-slim network, which needs an environment of
its own.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf2
import tensorflow.compat.v1 as tf

from random_networks import random_images, random_weights, relative_error
from resnet_v2 import resnet_v2_50, resnet_v2_101
from utils.layers import BatchNorm, scaled_filters
from utils.training.pretrained import assign_backbone, read_pretrained

UNITS = {"block1": (64, 3), "block2": (128, 4), "block3": (256, 6), "block4": (512, 3)}


def slim_variables(scope="resnet_v2_50", units_of_block3=6, width=1):
    """Name -> shape of every variable of slim's network without its classifier, by rule."""
    def norm(scope, depth):
        return {f"{scope}/{kind}": [depth]
                for kind in ("beta", "gamma", "moving_mean", "moving_variance")}

    network, channels = scope, int(64 * width)
    shapes = {"conv1/weights": [7, 7, 3, channels], "conv1/biases": [channels],
              **norm("postnorm", int(2048 * width))}
    for block, (depth, units) in UNITS.items():
        depth, units = int(depth * width), units_of_block3 if block == "block3" else units
        for unit in range(1, units + 1):
            scope = f"{block}/unit_{unit}/bottleneck_v2"
            shapes |= norm(f"{scope}/preact", channels)
            if unit == 1:
                shapes[f"{scope}/shortcut/weights"] = [1, 1, channels, 4 * depth]
                shapes[f"{scope}/shortcut/biases"] = [4 * depth]
            shapes[f"{scope}/conv1/weights"] = [1, 1, channels, depth]
            shapes[f"{scope}/conv2/weights"] = [3, 3, depth, depth]
            shapes[f"{scope}/conv3/weights"] = [1, 1, depth, 4 * depth]
            shapes[f"{scope}/conv3/biases"] = [4 * depth]
            shapes |= norm(f"{scope}/conv1/BatchNorm", depth)
            shapes |= norm(f"{scope}/conv2/BatchNorm", depth)
            channels = 4 * depth
    return {f"{network}/{name}": shape for name, shape in shapes.items()}


class Network:
    """One graph with random weights in which the backbone is called with any settings."""

    def __init__(self, weights):
        self.graph, self.calls = tf.Graph(), {}
        with self.graph.as_default():
            self.images = tf.placeholder(tf.float32, [None, None, None, 3])
            self.session = tf.Session()
        self.call()
        self.load(weights)

    def load(self, weights):
        """Puts `weights`, name -> value, in place of all that the network has."""
        with self.graph.as_default():
            assign_backbone(self.session, weights, "resnet_v2_50", "test")

    def call(self, output_stride=16, multi_grid=(1, 1, 1), padding="slim"):
        """(features, end_points) of these settings, built once."""
        settings = output_stride, multi_grid, padding
        if settings not in self.calls:
            with self.graph.as_default():
                self.calls[settings] = resnet_v2_50(
                    self.images, BatchNorm(), output_stride, multi_grid, pool1_padding=padding)
        return self.calls[settings]

    def run(self, images, **settings):
        """The features of `images` as numpy array."""
        return self.session.run(self.call(**settings)[0], {self.images: images})

    def places_read(self, outputs, inputs, middle):
        """[row, column], counted from `middle`, of the inputs that outputs[middle, middle] reads.

        inputs: an end point, fed with random values of 2 `middle` + 1 rows and columns.
        """
        with self.graph.as_default():
            gradient, = tf.gradients(outputs[0, middle, middle, ::64], inputs)
        values = random_images(1, 2 * middle + 1, 2 * middle + 1, int(inputs.shape[-1]))
        found = self.session.run(gradient, {inputs: values})
        return np.argwhere(np.abs(found[0]).max(axis=-1) > 0) - middle


@pytest.fixture(scope="module")
def network():
    """A Network with random weights."""
    network = Network(random_weights(slim_variables()))
    yield network
    network.session.close()


def test_variables_are_named_and_shaped_as_slims():
    with tf.Graph().as_default():
        resnet_v2_50(tf.zeros([1, 33, 33, 3]), BatchNorm())
        shapes = {v.op.name: v.shape.as_list() for v in tf.global_variables()}
        trainable = {v.op.name for v in tf.trainable_variables()}
    assert shapes == slim_variables()
    assert trainable == {name for name in shapes if "/moving_" not in name}
    # A few of the published checkpoint's names, written out.
    scope = "resnet_v2_50/block1/unit_1/bottleneck_v2"
    assert shapes[f"{scope}/conv1/weights"] == [1, 1, 64, 64]
    assert shapes[f"{scope}/conv1/BatchNorm/gamma"] == [64]
    assert shapes[f"{scope}/preact/beta"] == [64]
    assert shapes[f"{scope}/shortcut/biases"] == [256]
    assert shapes["resnet_v2_50/block4/unit_1/bottleneck_v2/shortcut/weights"] == [1, 1, 1024, 2048]
    assert shapes["resnet_v2_50/block3/unit_6/bottleneck_v2/conv2/weights"] == [3, 3, 256, 256]
    assert shapes["resnet_v2_50/postnorm/moving_mean"] == [2048]
    assert len(shapes) == 270


@pytest.mark.parametrize("network, shapes, parameters", [
    # As many as keras.applications.ResNet101V2(include_top=False) has.
    (resnet_v2_101, slim_variables("resnet_v2_101", 23), 42_626_560),
    (functools.partial(resnet_v2_50, width=.5), slim_variables(width=.5), None)])
def test_deeper_and_narrower_networks(network, shapes, parameters):
    with tf.Graph().as_default():
        features, _ = network(tf.zeros([1, 33, 33, 3]), BatchNorm())
        ours = {v.op.name: v.shape.as_list() for v in tf.global_variables()}
    assert ours == shapes
    assert parameters in (None, sum(map(np.prod, ours.values())))
    assert features.shape[-1:] == next(
        shape for name, shape in shapes.items() if name.endswith("postnorm/gamma"))


@pytest.mark.parametrize("width, filters", [(.3, [16, 40, 80, 152]), (.1, [8, 16, 24, 48]),
                                            (1.5, [96, 192, 384, 768])])
def test_a_width_gives_multiples_of_8(width, filters):
    assert [scaled_filters(depth, width) for depth, _ in UNITS.values()] == filters


def test_equals_keras_with_weights_from_its_file(tmp_path, network):
    model = tf2.keras.applications.ResNet50V2(weights=None, include_top=False)
    values = random_weights({v.path: v.shape for v in model.weights}, seed=7)
    for variable in model.weights:
        variable.assign(values[variable.path])
    model.save_weights(str(tmp_path / "random.weights.h5"))
    weights = read_pretrained(str(tmp_path / "random.weights.h5"))
    assert {name: list(value.shape) for name, value in weights.items()} == slim_variables()

    network.load(weights)
    try:
        for size in ((97, 65), (64, 70)):
            images = random_images(2, *size, 3)
            reference = model(images, training=False).numpy()
            assert reference.std() > 0.1
            ours = network.run(images, output_stride=32, padding="keras")
            assert relative_error(ours, reference) < 1e-4
    finally:
        network.load(random_weights(slim_variables()))


@pytest.mark.parametrize("multi_grid", [(1, 1, 1), (1, 2, 4)])
def test_denser_features_hold_the_sparse_ones(network, multi_grid):
    """Every 2nd (4th) feature at stride 16 (8) is the one at stride 32, borders included.

    A strided convolution with fixed padding is the unstrided one, subsampled. From there on a rate
    times 2 on the grid twice as dense reads, at even places, just what the rate read before; and
    place 2 i + 2 lies outside of it exactly when i + 1 lies outside of the sparse grid, of even and
    odd sizes alike.
    """
    for size in ((97, 65), (70, 64)):
        images = random_images(1, *size, 3)
        sparse = network.run(images, output_stride=32, multi_grid=multi_grid)
        assert sparse.std() > 0.1
        for output_stride in (16, 8):
            dense = network.run(images, output_stride=output_stride, multi_grid=multi_grid)
            assert dense.shape[1:3] == tuple(-(-side // output_stride) for side in size)
            step = 32 // output_stride
            assert relative_error(dense[:, ::step, ::step], sparse) < 1e-4


@pytest.mark.parametrize("output_stride, multi_grid, rates", [
    (32, (1, 1, 1), (1, 1, 1)), (16, (1, 1, 1), (2, 2, 2)), (8, (1, 1, 1), (4, 4, 4)),
    (32, (1, 2, 4), (1, 2, 4)), (16, (1, 2, 4), (2, 4, 8)), (8, (1, 2, 4), (4, 8, 16))])
def test_units_of_block4_read_at_the_paper_s_rates(network, output_stride, multi_grid, rates):
    """The gradient of one place of a unit's output lies on the nine taps of its 3x3."""
    _, end_points = network.call(output_stride=output_stride, multi_grid=multi_grid)
    names = ["block3", "block4/unit_1", "block4/unit_2", "block4/unit_3"]
    for before, after, rate in zip(names, names[1:], rates):
        places = network.places_read(end_points[after], end_points[before], rate + 1)
        assert places.tolist() == [[row, column] for row in (-rate, 0, rate)
                                   for column in (-rate, 0, rate)]


def test_block3_of_stride_8_reads_at_rate_2(network):
    for output_stride, rate in ((8, 2), (16, 1), (32, 1)):
        _, end_points = network.call(output_stride=output_stride)
        places = network.places_read(end_points["block3/unit_2"], end_points["block3/unit_1"], 3)
        assert np.unique(places).tolist() == [-rate, 0, rate]


@pytest.mark.parametrize("size", [(33, 65), (32, 38)])
def test_pool1_pads_as_the_origin_of_the_weights(network, size):
    """Slim's padding never wins the maximum; Keras's zeros do, where the stem is negative."""
    images = random_images(1, *size, 3)
    for padding, value in (("slim", -np.inf), ("keras", 0)):
        _, end_points = network.call(output_stride=32, padding=padding)
        stem, pooled = network.session.run([end_points["conv1"], end_points["pool1"]],
                                           {network.images: images})
        (before_y, after_y), (before_x, after_x) = [
            (1, 1) if padding == "keras" or side % 2 else (0, 1) for side in stem.shape[1:3]]
        padded = np.pad(stem, [(0, 0), (before_y, after_y), (before_x, after_x), (0, 0)],
                        constant_values=value)
        height, width = pooled.shape[1:3]
        assert (height, width) == tuple(-(-side // 4) for side in size)
        expected = np.max([padded[:, y:y + 2 * height - 1:2, x:x + 2 * width - 1:2]
                           for y in range(3) for x in range(3)], axis=0)
        np.testing.assert_array_equal(pooled, expected)
    # Keras's zeros are seen at the border: a maximum is never negative there.
    assert pooled[:, 0].min() == 0 and stem[:, :2].min() < 0


def test_training_uses_the_batch_and_moves_every_statistic_by_the_decay():
    images = random_images(2, 65, 65, 3)
    weights = random_weights(slim_variables())
    with tf.Graph().as_default(), tf.Session() as session:
        features, end_points = resnet_v2_50(tf.constant(images), BatchNorm(True, 0.7))
        updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
        assign_backbone(session, weights, "resnet_v2_50", "test")
        pool1, trained, block4, _ = session.run(
            [end_points["pool1"], features, end_points["block4"], updates])
        moved = session.run({v.op.name: v for v in tf.global_variables()
                             if "/moving_" in v.op.name})
    assert len(updates) == len(moved) == 2 * 49
    for name, value in moved.items():
        assert not np.isclose(value, weights[name], rtol=1e-6).all(), name

    # The first and the last batch norm in numbers.
    for scope, inputs in (("block1/unit_1/bottleneck_v2/preact", pool1), ("postnorm", block4)):
        for kind, value in (("moving_mean", inputs.mean((0, 1, 2))),
                            ("moving_variance", inputs.var((0, 1, 2), ddof=1))):
            name = f"resnet_v2_50/{scope}/{kind}"
            np.testing.assert_allclose(moved[name], 0.7 * weights[name] + 0.3 * value,
                                       rtol=1e-4, atol=1e-5)
    scale, shift = (weights[f"resnet_v2_50/postnorm/{kind}"] for kind in ("gamma", "beta"))
    normal = (block4 - block4.mean((0, 1, 2))) / np.sqrt(block4.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(trained, np.maximum(normal * scale + shift, 0), atol=1e-3)


def test_a_trained_network_has_nothing_to_update_and_depends_on_each_image_alone(network):
    with tf.Graph().as_default():
        resnet_v2_50(tf.zeros([1, 33, 33, 3]), BatchNorm())
        assert not tf.get_collection(tf.GraphKeys.UPDATE_OPS)
    images = random_images(2, 33, 33, 3)
    both = network.run(images)
    assert relative_error(network.run(images[1:]), both[1:]) < 1e-5


@pytest.mark.parametrize("settings, message", [
    ({"output_stride": 4}, "output stride 4"), ({"output_stride": 12}, "output stride 12"),
    ({"multi_grid": (1, 2)}, "multi-grid"), ({"pool1_padding": "same"}, "pool1 padding 'same'")])
def test_settings_that_do_not_fit_are_named(settings, message):
    with tf.Graph().as_default(), pytest.raises(ValueError, match=message):
        resnet_v2_50(tf.zeros([1, 33, 33, 3]), BatchNorm(), **settings)
