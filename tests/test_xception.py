"""The backbone against its authors' naming rule, its known size, and itself at other strides."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import xception
from deeplab_v3 import ModelConfig
from random_networks import random_images, random_weights, relative_error
from utils.layers import BatchNorm
from utils.training.optimizer import variable_groups
from utils.training.pretrained import assign_backbone, origin_of, read_pretrained
from xception import xception_65

# Units and depths as in the paper's figure 4 (arXiv 1802.02611), middle flow apart.
ENTRY = {"block1": (64, 128), "block2": (128, 256), "block3": (256, 728)}
EXIT = {"block1": (728, 728, 1024, 1024), "block2": (1024, 1536, 1536, 2048)}
CONFIG = ModelConfig(5, "xception_65")
EXITS = [f"exit_flow/block2/unit_1/separable_conv{number}" for number in (1, 2, 3)]


def authors_variables(middle_units=16):
    """Name -> shape of every variable of deeplab's xception_65 without its classifier, by rule."""
    shapes = {}

    def convolution(scope, kernel, before, after, kind="weights"):
        shapes[f"xception_65/{scope}/{kind}"] = [kernel, kernel, before, after]
        for name in ("beta", "gamma", "moving_mean", "moving_variance"):
            depth = before if kind == "depthwise_weights" else after
            shapes[f"xception_65/{scope}/BatchNorm/{name}"] = [depth]

    def module(unit, before, *depths, shortcut):
        scope = f"{unit}/xception_module"
        if shortcut:
            convolution(f"{scope}/shortcut", 1, before, depths[-1])
        for number, depth in enumerate(depths, start=1):
            part = f"{scope}/separable_conv{number}"
            convolution(f"{part}_depthwise", 3, before, 1, "depthwise_weights")
            convolution(f"{part}_pointwise", 1, before, depth)
            before = depth

    convolution("entry_flow/conv1_1", 3, 3, 32)
    convolution("entry_flow/conv1_2", 3, 32, 64)
    for block, (before, depth) in ENTRY.items():
        module(f"entry_flow/{block}/unit_1", before, *[depth] * 3, shortcut=True)
    for unit in range(1, middle_units + 1):
        module(f"middle_flow/block1/unit_{unit}", *[728] * 4, shortcut=False)
    module("exit_flow/block1/unit_1", *EXIT["block1"], shortcut=True)
    module("exit_flow/block2/unit_1", *EXIT["block2"], shortcut=False)
    return shapes


class Network:
    """One graph with random weights in which the backbone, of one middle unit, is called."""

    def __init__(self):
        self.graph, self.calls = tf.Graph(), {}
        self.weights = random_weights(authors_variables(middle_units=1))
        with self.graph.as_default():
            self.images = tf.placeholder(tf.float32, [None, None, None, 3])
            self.session = tf.Session()
        self.call()
        self.load(self.weights)

    def load(self, weights):
        with self.graph.as_default():
            return assign_backbone(self.session, weights, "xception_65", "test")

    def call(self, output_stride=16):
        """(features, end_points) at this stride and multi-grid (1, 2, 4), built once."""
        if output_stride not in self.calls:
            with self.graph.as_default():
                self.calls[output_stride] = xception_65(self.images, BatchNorm(), output_stride,
                                                        multi_grid=(1, 2, 4))
        return self.calls[output_stride]

    def run(self, images, *names, output_stride=16):
        """The features of `images`, or the end points `names`, as numpy arrays."""
        features, end_points = self.call(output_stride)
        return self.session.run([end_points[name] for name in names] if names else features,
                                {self.images: images})


@pytest.fixture(scope="module")
def network():
    """A Network of the whole width, with 1 of the 16 alike units in the middle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xception, "XCEPTION_65_BLOCKS", tuple(
            (scope, depths, 1 if scope.startswith("middle") else units, *rest)
            for scope, depths, units, *rest in xception.XCEPTION_65_BLOCKS))
        network = Network()
        yield network
        network.session.close()


def test_variables_are_named_and_shaped_as_the_authors():
    with tf.Graph().as_default() as graph:
        xception_65(tf.zeros([1, 33, 33, 3]), BatchNorm())
        shapes = {v.op.name: v.shape.as_list() for v in tf.global_variables()}
        trainable = tf.trainable_variables()
        (trained, factor), = variable_groups("xception_65", freeze_batch_norm=True)
        epsilons = {round(op.get_attr("epsilon"), 7) for op in graph.get_operations()
                    if op.type.startswith("FusedBatchNorm")}
    assert shapes == authors_variables()
    assert len(shapes) == 660
    # With a classifier of 1,000 classes it has the 39.9 million that timm lists for its port of
    # these weights, xception65.tf_in1k.
    number = sum(np.prod(v.shape.as_list()) for v in trainable) + 2048 * 1000 + 1000
    assert round(number / 1e6, 1) == 39.9
    assert epsilons == {0.001}
    assert {v.op.name.split("/")[-1] for v in trained} == {"weights", "depthwise_weights"}
    # A few of the published checkpoint's names, written out.
    unit = "xception_65/{}/xception_module/"
    assert shapes["xception_65/entry_flow/conv1_1/weights"] == [3, 3, 3, 32]
    assert shapes[unit.format("entry_flow/block1/unit_1")
                  + "separable_conv1_depthwise/depthwise_weights"] == [3, 3, 64, 1]
    assert shapes[unit.format("middle_flow/block1/unit_16")
                  + "separable_conv3_pointwise/BatchNorm/moving_variance"] == [728]
    assert shapes[unit.format("exit_flow/block1/unit_1") + "shortcut/weights"] == [1, 1, 728, 1024]
    assert shapes[unit.format("exit_flow/block2/unit_1")
                  + "separable_conv3_pointwise/weights"] == [1, 1, 1536, 2048]


def test_a_width_scales_every_layer_by_itself(network):
    """`network` is asked for, for its short middle flow."""
    with tf.Graph().as_default():
        xception_65(tf.zeros([1, 33, 33, 3]), BatchNorm(), width=.25)
        shapes = {v.op.name: v.shape.as_list() for v in tf.global_variables()}
    scaled = {32: 8, 64: 16, 128: 32, 256: 64, 728: 184, 1024: 256, 1536: 384, 2048: 512}
    assert shapes == {name: [scaled.get(number, number) for number in shape]
                      for name, shape in authors_variables(middle_units=1).items()}


@pytest.mark.parametrize("size", [(97, 65), (70, 64)])
def test_denser_features_hold_the_sparse_ones(network, size):
    """As in test_resnet_v2.py: a stride that became rates reads the same places."""
    images = random_images(1, *size, 3)
    sparse = network.run(images, output_stride=32)
    assert sparse.std() > 0.1 and sparse.min() == 0
    for output_stride in (16, 8):
        dense, low = network.run(images, EXITS[-1], "low_level", output_stride=output_stride)
        assert dense.shape == (1, *(-(-side // output_stride) for side in size), 2048)
        assert low.shape == (1, *(-(-side // 4) for side in size), 256)
        step = 32 // output_stride
        assert relative_error(dense[:, ::step, ::step], sparse) < 1e-4


def test_features_lie_over_their_pixels(network):
    """Image and kernels mirrored give the features mirrored: of 32 k + 1 none is shifted."""
    images = random_images(1, 65, 33, 3)
    features = network.run(images)
    network.load({name: value[::-1, ::-1] if value.ndim == 4 else value
                  for name, value in network.weights.items()})
    try:
        mirrored = network.run(images[:, ::-1, ::-1])
    finally:
        network.load(network.weights)
    assert relative_error(mirrored[:, ::-1, ::-1], features) < 1e-4


@pytest.mark.parametrize("output_stride, rates", [
    (16, (2, 4, 8)), (8, (4, 8, 16))])
def test_the_exit_flow_reads_at_the_multi_grid_s_rates(network, output_stride, rates):
    """The gradient of one place of a convolution's output lies on its nine taps."""
    _, end_points = network.call(output_stride)
    names = ["exit_flow/block1", *EXITS]
    for before, after, rate in zip(names, names[1:], rates):
        middle = rate + 1
        with network.graph.as_default():
            gradient, = tf.gradients(end_points[after][0, middle, middle, ::64], end_points[before])
        values = random_images(1, 2 * middle + 1, 2 * middle + 1, int(gradient.shape[-1]))
        found = network.session.run(gradient, {end_points[before]: values})
        places = np.argwhere(np.abs(found[0]).max(axis=-1) > 0) - middle
        assert places.tolist() == [[row, column] for row in (-rate, 0, rate)
                                   for column in (-rate, 0, rate)]


def test_relu_stands_where_the_authors_put_it(network):
    before, third, after, low, second, exit_1, exit_2 = network.run(
        random_images(1, 65, 65, 3), "entry_flow/block3",
        "middle_flow/block1/unit_1/separable_conv3", "middle_flow/block1/unit_1", "low_level",
        "entry_flow/block2/unit_1/separable_conv2", "exit_flow/block1", EXITS[0])
    assert before.min() < 0 and third.min() < 0 and exit_1.min() < 0 and low.min() < 0
    np.testing.assert_allclose(after, before + third, atol=1e-5)  # the shortcut has no ReLU
    np.testing.assert_array_equal(low, second)
    assert exit_2.min() == 0


@pytest.mark.parametrize("extra", ["Momentum", "averages alone"])
def test_the_authors_checkpoint_is_read_with_all_that_it_has_besides(tmp_path, network, extra):
    path = str(tmp_path / "model.ckpt")
    weights = random_weights(authors_variables(middle_units=1), seed=5)
    suffix = "/ExponentialMovingAverage" if extra == "averages alone" else ""
    first = "xception_65/entry_flow/conv1_1/weights"
    with tf.Graph().as_default(), tf.Session() as session:
        stored = {name + suffix: value for name, value in weights.items()}
        stored |= {"global_step": np.int64(7), f"{first}/Momentum": weights[first],
                   "xception_65/logits/weights": np.zeros([1, 1, 2048, 3], np.float32)}
        feeds = {tf.placeholder(value.dtype, value.shape): value for value in stored.values()}
        tensors = dict(zip(stored, feeds))
        save = tf.raw_ops.SaveV2(
            prefix=path, tensor_names=list(tensors), shape_and_slices=[""] * len(tensors),
            tensors=list(tensors.values()))
        session.run(save, feeds)
    assert origin_of(path, "xception_65") == "slim"
    try:
        left_out = network.load(read_pretrained(path, CONFIG))
        assert left_out == ["global_step", "xception_65/logits/weights"]
        with network.graph.as_default():
            restored = network.session.run({v.op.name: v for v in tf.global_variables()})
        assert set(restored) == set(weights)
        for name, value in weights.items():
            np.testing.assert_array_equal(restored[name], value)
        lacking = read_pretrained(path, CONFIG)
        del lacking["xception_65/exit_flow/block2/unit_1/xception_module/"
                    "separable_conv1_depthwise/depthwise_weights"]
        with pytest.raises(ValueError, match="1 of 210 variables are missing .*separable_conv1_de"):
            network.load(lacking)
    finally:
        network.load(network.weights)


def test_the_first_layer_takes_other_bands():
    name = "xception_65/entry_flow/conv1_1/weights"
    kernel = random_weights({name: [3, 3, 3, 32]})
    with tf.Graph().as_default(), tf.Session() as session:
        variable = tf.get_variable(name, [3, 3, 4, 32])
        assign_backbone(session, kernel, "xception_65", "test")
        adapted = session.run(variable)
    np.testing.assert_allclose(adapted, kernel[name][:, :, [0, 1, 2, 0]] * .75)


def test_gradients_of_each_kind_of_unit_are_finite_in_bfloat16(monkeypatch):
    """One narrow unit of each kind of shortcut; the last one's rates lie within its 9x9 places."""
    monkeypatch.setattr(xception, "XCEPTION_65_BLOCKS", (
        ("entry_flow/block2", (32, 32, 32), 1, 2, "convolution"),
        ("middle_flow/block1", (32, 32, 32), 1, 1, "identity"),
        ("exit_flow/block2", (48, 48, 64), 1, 1, None)))
    norms = 2 + 7 + 6 + 6
    with tf.Graph().as_default(), tf.Session() as session:
        images = tf.cast(random_images(2, 33, 33, 3), tf.bfloat16)
        features, _ = xception_65(images, BatchNorm(True), multi_grid=(1, 2, 4))
        assert features.dtype == tf.bfloat16 and features.shape == [2, 9, 9, 64]
        loss = tf.reduce_mean(tf.square(tf.cast(features, tf.float32)))
        gradients = tf.gradients(loss, tf.trainable_variables())
        sizes = [tf.reduce_max(tf.abs(gradient)) for gradient in gradients]
        assert len(tf.get_collection(tf.GraphKeys.UPDATE_OPS)) == 2 * norms
        session.run(tf.global_variables_initializer())
        sizes = session.run(sizes)
    assert np.isfinite(sizes).all()
    assert len(sizes) == norms * 3 and np.median(sizes) > 0


@pytest.mark.parametrize("settings, message", [
    ({"output_stride": 4}, "output stride 4"), ({"multi_grid": (1, 2)}, "multi-grid")])
def test_settings_that_do_not_fit_are_named(settings, message):
    with tf.Graph().as_default(), pytest.raises(ValueError, match=message):
        xception_65(tf.zeros([1, 33, 33, 3]), BatchNorm(), **settings)
