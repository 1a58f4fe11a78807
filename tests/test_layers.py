"""Layers against plain numpy, slim's formulas, and the full atrous convolution."""

import numpy as np
import pytest
import tensorflow as tf2
import tensorflow.compat.v1 as tf

from utils.layers import (BatchNorm, batch_norm, conv2d, conv2d_bn_relu, conv2d_by_taps,
                          depthwise_conv2d, separable_conv2d, subsample)
from utils.training.optimizer import weight_decay_loss


@pytest.fixture
def session():
    """A session on a graph of its own."""
    with tf.Graph().as_default(), tf.Session() as session:
        yield session


def numpy_convolution(inputs, weights, stride, rate):
    """Zero-padded convolution with output i centred on input stride * i, tap by tap."""
    kernel, reach = weights.shape[0], weights.shape[0] // 2 * rate
    height, width = inputs.shape[1:3]
    padded = np.pad(inputs, [(0, 0), (reach, reach), (reach, reach), (0, 0)])
    return sum(padded[:, row * rate:row * rate + height:stride,
                      column * rate:column * rate + width:stride] @ weights[row, column]
               for row in range(kernel) for column in range(kernel))


@pytest.mark.parametrize("kernel_size, stride, rate", [
    (7, 2, 1), (3, 2, 1), (3, 2, 2), (1, 2, 1), (3, 1, 1), (3, 1, 2), (3, 1, 4)])
@pytest.mark.parametrize("size", [(12, 9), (13, 16)])
def test_conv2d_is_centred_whatever_the_stride_and_the_parity(session, kernel_size, stride, rate,
                                                              size):
    inputs = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    outputs = conv2d(tf.constant(inputs), 4, kernel_size, "conv", stride, rate, use_bias=True)
    weights, biases = tf.trainable_variables()
    session.run(tf.global_variables_initializer())
    biases.load([1, 2, 3, 4], session)
    expected = numpy_convolution(inputs, session.run(weights), stride, rate) + [1, 2, 3, 4]
    result = session.run(outputs)
    assert result.shape == (2, -(-size[0] // stride), -(-size[1] // stride), 4)
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("rate", [2, 4, 5, 6, 9])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (5, 3), (5, 6)])
def test_few_features_at_a_great_rate_get_the_full_atrous_convolution(session, size, rate):
    """Of so small an input conv2d multiplies the centre tap alone; values and gradients stay."""
    random = np.random.default_rng(1)
    values = random.normal(size=(2, *size, 3)).astype(np.float32)
    known = tf.constant(values)
    unknown = tf.placeholder_with_default(values, [None, None, None, 3])
    with tf.variable_scope("", reuse=tf.AUTO_REUSE):
        short = conv2d(known, 4, 3, "conv", rate=rate)
        full = conv2d(unknown, 4, 3, "conv", rate=rate)
    weights, = tf.trainable_variables()
    upstream = tf.constant(random.normal(size=(2, *size, 4)), tf.float32)
    pairs = [(short, full)]
    for of_short, of_full in ((known, unknown), (weights, weights)):
        pairs.append((tf.gradients(short, of_short, upstream)[0],
                      tf.gradients(full, of_full, upstream)[0]))
    session.run(tf.global_variables_initializer())
    for ours, expected in session.run(pairs):
        np.testing.assert_allclose(ours, expected, atol=1e-5)
    np.testing.assert_allclose(session.run(short),
                               numpy_convolution(values, session.run(weights), 1, rate), atol=1e-5)


@pytest.mark.parametrize("kernel_size, rate", [(3, 2), (3, 6), (3, 12)])
@pytest.mark.parametrize("size", [(17, 17), (5, 13)])
def test_the_sum_of_taps_is_the_atrous_convolution(session, kernel_size, rate, size):
    random = np.random.default_rng(2)
    inputs = random.normal(size=(2, *size, 8)).astype(np.float32)
    weights = random.normal(size=(kernel_size, kernel_size, 8, 5)).astype(np.float32)
    expected = numpy_convolution(inputs.astype(np.float64), weights, 1, rate)
    taps = conv2d_by_taps(tf.constant(inputs), tf.constant(weights), rate)
    np.testing.assert_allclose(session.run(taps), expected, atol=1e-4)
    # In bfloat16 only the inputs, the products and the result are rounded, not the sum.
    low = conv2d_by_taps(tf.cast(inputs, tf.bfloat16), tf.cast(weights, tf.bfloat16), rate)
    assert low.dtype == tf.bfloat16
    np.testing.assert_allclose(session.run(tf.cast(low, tf.float32)), expected,
                               atol=.02 * np.abs(expected).max())


def test_conv2d_by_taps_is_conv2d(session):
    random = np.random.default_rng(3)
    for shape in ([2, 15, 17, 6], [2, None, None, 6]):
        images = tf.placeholder(tf.float32, shape)
        with tf.variable_scope("", reuse=tf.AUTO_REUSE):
            one, other = (conv2d(images, 4, 3, "atrous", rate=6, use_bias=True, by_taps=by_taps)
                          for by_taps in (False, True))
        session.run(tf.global_variables_initializer())
        session.run(tf.global_variables()[1].assign([1, 2, 3, 4]))
        one, other = session.run([one, other], {images: random.normal(size=(2, 15, 17, 6))})
        np.testing.assert_allclose(one, other, atol=1e-5)
        assert np.abs(one).max() > 1


def test_first_weights_are_he_normal(session):
    conv2d(tf.zeros([1, 8, 8, 64]), 256, 3, "conv", use_bias=True)
    weights, biases = tf.trainable_variables()
    session.run(tf.global_variables_initializer())
    values = session.run(weights)
    assert values.std() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert abs(values.mean()) < 1e-3
    assert not session.run(biases).any()


def test_batch_norm_in_training_normalises_and_moves_the_statistics(session):
    decay, inputs = 0.9, np.random.default_rng(2).normal(3, 5, (2, 3, 2, 4)).astype(np.float32)
    outputs = batch_norm(tf.constant(inputs), BatchNorm(True, decay))
    variables = {v.op.name.split("/")[-1]: v for v in tf.global_variables()}
    session.run(tf.global_variables_initializer())
    start = {"gamma": [1, 2, 3, 4], "beta": [0, 1, 2, 3],
             "moving_mean": [5, 6, 7, 8], "moving_variance": [1, 2, 3, 4]}
    for name, value in start.items():
        variables[name].load(value, session)
    updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
    assert len(updates) == 2
    result = session.run([outputs, updates])[0]

    axes = (0, 1, 2)
    mean, variance = inputs.mean(axes), inputs.var(axes)
    np.testing.assert_allclose(
        result, (inputs - mean) / np.sqrt(variance + 1e-5) * [1, 2, 3, 4] + [0, 1, 2, 3],
        atol=1e-4)
    moved = session.run(variables)
    np.testing.assert_allclose(
        moved["moving_mean"], decay * np.array([5, 6, 7, 8]) + (1 - decay) * mean, rtol=1e-5)
    np.testing.assert_allclose(  # the unbiased variance, n / (n - 1), as slim's fused batch norm
        moved["moving_variance"],
        decay * np.array([1, 2, 3, 4]) + (1 - decay) * inputs.var(axes, ddof=1), rtol=1e-5)


def test_batch_norm_of_a_trained_network_uses_the_moving_statistics(session):
    inputs = np.random.default_rng(3).normal(size=(2, 3, 3, 2)).astype(np.float32)
    outputs = batch_norm(tf.constant(inputs), BatchNorm())
    variables = {v.op.name.split("/")[-1]: v for v in tf.global_variables()}
    session.run(tf.global_variables_initializer())
    # A variance of 1e-5 makes epsilon count.
    for name, value in (("gamma", [2, 3]), ("beta", [1, -1]), ("moving_mean", [.5, -.5]),
                        ("moving_variance", [4, 1e-5])):
        variables[name].load(value, session)
    np.testing.assert_allclose(
        session.run(outputs),
        (inputs - [.5, -.5]) / np.sqrt([4 + 1e-5, 2e-5]) * [2, 3] + [1, -1], rtol=1e-4)
    assert not tf.get_collection(tf.GraphKeys.UPDATE_OPS)


def test_variables_statistics_and_gradients_stay_float32_in_bfloat16(session):
    values = np.random.default_rng(4).normal(1, 2, (2, 6, 6, 3)).astype(np.float32)
    outputs = conv2d_bn_relu(tf.cast(values, tf.bfloat16), 4, 3, "conv1", BatchNorm(True, 0.9))
    assert outputs.dtype == tf.bfloat16
    assert {v.dtype.base_dtype for v in tf.global_variables()} == {tf.float32}
    gradients = tf.gradients(tf.cast(outputs, tf.float32)[0, 0, 0, 0], tf.trainable_variables())
    assert {g.dtype for g in gradients} == {tf.float32}
    session.run(tf.global_variables_initializer())
    weights = session.run(tf.trainable_variables()[0])
    session.run(tf.get_collection(tf.GraphKeys.UPDATE_OPS))
    moved = {v.op.name.split("/")[-1]: session.run(v) for v in tf.global_variables()}
    # A mean rounded to bfloat16's 8 bits would be off by up to 0.4%.
    convolved = tf.nn.conv2d(tf.cast(values, tf.bfloat16), tf.cast(weights, tf.bfloat16), 1,
                             "SAME")
    convolved = session.run(tf.cast(convolved, tf.float32))
    np.testing.assert_allclose(moved["moving_mean"], 0.1 * convolved.mean((0, 1, 2)), rtol=1e-3)
    np.testing.assert_allclose(moved["moving_variance"],
                               0.9 + 0.1 * convolved.var((0, 1, 2), ddof=1), rtol=1e-3)


def test_conv2d_bn_relu_is_named_as_slim_names_it_and_is_not_negative(session):
    inputs = tf.constant(np.random.default_rng(5).normal(size=(1, 4, 4, 2)), tf.float32)
    with tf.variable_scope("unit"):
        outputs = conv2d_bn_relu(inputs, 3, 3, "conv2", BatchNorm())
    assert {v.op.name: v.shape.as_list() for v in tf.global_variables()} == {
        "unit/conv2/weights": [3, 3, 2, 3], "unit/conv2/BatchNorm/beta": [3],
        "unit/conv2/BatchNorm/gamma": [3], "unit/conv2/BatchNorm/moving_mean": [3],
        "unit/conv2/BatchNorm/moving_variance": [3]}
    assert [v.op.name for v in tf.trainable_variables()] == [
        "unit/conv2/weights", "unit/conv2/BatchNorm/beta", "unit/conv2/BatchNorm/gamma"]
    session.run(tf.global_variables_initializer())
    weights = session.run(tf.trainable_variables()[0])
    expected = numpy_convolution(session.run(inputs), weights, 1, 1) / np.sqrt(1 + 1e-5)
    assert (expected < 0).any()
    np.testing.assert_allclose(session.run(outputs), np.maximum(expected, 0), atol=1e-5)


@pytest.mark.parametrize("stride, rate", [(1, 1), (2, 1), (1, 2), (1, 4), (1, 13)])
@pytest.mark.parametrize("size", [(12, 9), (13, 16)])
def test_separable_conv2d_is_keras_s_at_every_stride_th_place(stride, rate, size):
    inputs = np.random.default_rng(7).normal(size=(2, *size, 3)).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        outputs = separable_conv2d(tf.constant(inputs), 4, 3, "conv", BatchNorm(epsilon=1e-3),
                                   stride, rate, relu=False)
        variables = {v.op.name: v for v in tf.global_variables()}
        session.run(tf.global_variables_initializer())
        result, values = session.run([outputs, variables])
    weights = [values["conv_depthwise/depthwise_weights"], values["conv_pointwise/weights"]]
    layer = tf2.keras.layers.SeparableConv2D(4, 3, padding="same", dilation_rate=rate,
                                             use_bias=False)
    layer.build(inputs.shape)
    layer.set_weights(weights)
    # Two batch norms of mean 0 and variance 1.
    expected = layer(inputs).numpy()[:, ::stride, ::stride] / (1 + 1e-3)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_separable_conv2d_normalises_both_halves_and_decays_the_second(session):
    inputs = tf.constant(np.random.default_rng(8).normal(size=(2, 6, 6, 8)), tf.float32)
    with_relu, without = (separable_conv2d(inputs, 16, 3, name, BatchNorm(True), relu=relu)
                          for name, relu in (("one", True), ("two", False)))
    names = {v.op.name.partition("/")[2] for v in tf.global_variables() if "one_" in v.op.name}
    assert names == {"depthwise_weights", "weights"} | {f"BatchNorm/{kind}" for kind in (
        "beta", "gamma", "moving_mean", "moving_variance")}
    assert len(tf.global_variables()) == 2 * 10
    pointwise = [v for v in tf.trainable_variables() if v.op.name.endswith("pointwise/weights")]
    expected_decay = sum(tf.nn.l2_loss(v) for v in pointwise)
    session.run(tf.global_variables_initializer())
    one, two, decay, expected = session.run(
        [with_relu, without, weight_decay_loss(1.), expected_decay])
    assert one.min() == 0 and two.min() < -1
    np.testing.assert_allclose(two.mean((0, 1, 2)), 0, atol=1e-5)
    assert decay == pytest.approx(expected)


@pytest.mark.parametrize("rate", [1, 2, 5, 20])
def test_the_gradient_of_a_depthwise_convolution_is_true_in_bfloat16_too(session, rate):
    """Against finite differences: oneDNN's own kernels get those of an atrous one wrong."""
    random = np.random.default_rng(9)
    values = random.normal(size=(1, 9, 9, 2)).astype(np.float32)
    upstream = random.normal(size=values.shape).astype(np.float32)
    inputs = tf.constant(values)
    gradients = []
    for dtype in (tf.float32, tf.bfloat16):
        with tf.variable_scope("", reuse=tf.AUTO_REUSE):
            outputs = tf.cast(depthwise_conv2d(tf.cast(inputs, dtype), 3, rate=rate), tf.float32)
        weights, = tf.trainable_variables()
        gradients.append(tf.gradients(tf.reduce_sum(outputs * upstream), [inputs, weights]))
    session.run(tf.global_variables_initializer())
    kernel = session.run(weights)
    (of_inputs, of_weights), low = session.run(gradients)
    for column in range(2):  # the loss is linear in each: a difference of any size is exact
        for row in range(9):
            step = np.zeros((1, 9, 9, 1), np.float32)
            step[0, row, 4, 0] = 1
            full = np.zeros((3, 3, 1, 1), np.float32) + kernel[:, :, column, None]
            moved = numpy_convolution(step, full, 1, rate)[0, :, :, 0]
            assert of_inputs[0, row, 4, column] == pytest.approx(
                (moved * upstream[0, :, :, column]).sum(), abs=1e-4)
        for tap in np.ndindex(3, 3):
            one = np.zeros((3, 3, 1, 1), np.float32)
            one[tap] = 1
            moved = numpy_convolution(values[..., column:column + 1], one, 1, rate)[0, :, :, 0]
            assert of_weights[(*tap, column, 0)] == pytest.approx(
                (moved * upstream[0, :, :, column]).sum(), abs=1e-4)
    for ours, exact in zip(low, (of_inputs, of_weights)):
        np.testing.assert_allclose(ours, exact, atol=.03 * np.abs(exact).max())


def test_a_depthwise_convolution_of_stride_and_rate_is_refused(session):
    with pytest.raises(ValueError, match="stride 2 and rate 2; one is 1"):
        depthwise_conv2d(tf.zeros([1, 8, 8, 2]), 3, stride=2, rate=2)


@pytest.mark.parametrize("size", [(4, 5), (5, 4), (1, 1)])
def test_subsample_is_a_max_pool_of_one_pixel(session, size):
    values = np.random.default_rng(6).normal(size=(2, *size, 3)).astype(np.float32)
    inputs = tf.constant(values)
    assert subsample(inputs, 1) is inputs
    result, expected = session.run([subsample(inputs, 2),
                                    tf.nn.max_pool2d(inputs, 1, 2, "SAME")])
    np.testing.assert_array_equal(result, expected)
