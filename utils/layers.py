"""Convolution, batch norm and subsampling on tf.nn, with TF-slim's variable names.

`tf.compat.v1.layers` and tf-slim do not work with Keras 3, so these few functions stand in for
them. Variables are float32 always; a layer computes in the dtype of its inputs, so a bfloat16
network is one whose images were cast to bfloat16.
"""

import typing

import tensorflow.compat.v1 as tf

from utils.distributed.replicas import all_reduce_sum, device_number


class BatchNorm(typing.NamedTuple):
    """How batch norm works in every layer of a network.

    training: a Python bool: the batch's own statistics, of which the moving ones take in what
        `decay` leaves each step; else the moving ones.
    sync: on several devices, the statistics of all devices' parts of the batch, not of each one's.
    """

    training: bool = False
    decay: float = 0.99
    epsilon: float = 1e-5
    sync: bool = False


def conv2d(inputs, filters, kernel_size, scope, stride=1, rate=1, use_bias=False,
           initializer=None, by_taps=False):
    """Convolution 'SAME' at stride 1, with the fixed padding of slim's `conv2d_same` above it.

    TensorFlow's own 'SAME' pads an even input less at the top left, which shifts the features;
    the fixed padding keeps output i over input `stride * i` for every size
    (slim/nets/resnet_utils.py, conv2d_same).

    inputs: [batch, height, width, channels]; returns [batch, height / stride, width / stride,
    filters] of the same dtype. Variables: `scope`/weights and, with `use_bias`, `scope`/biases.
    by_taps: compute an atrous convolution at stride 1 as `conv2d_by_taps`, where the size is known.
    """
    with tf.variable_scope(scope):
        channels = inputs.shape[-1]
        weights = tf.get_variable(
            "weights", [kernel_size, kernel_size, channels, filters],
            initializer=initializer or tf.variance_scaling_initializer(2.0))
        height, width = inputs.shape.as_list()[1:3]
        if height and width and stride == 1 and rate >= max(height, width):
            # Only the centre tap falls inside so small an input; the rest would multiply padding.
            centre = kernel_size // 2
            weights, rate = weights[centre:centre + 1, centre:centre + 1], 1
        padding = "SAME"
        by_taps = by_taps and rate > 1 and stride == 1 and height and width
        if stride > 1 and kernel_size > 1:
            added = (kernel_size - 1) * rate
            before, after = added // 2, added - added // 2
            inputs = tf.pad(inputs, [[0, 0], [before, after], [before, after], [0, 0]])
            padding = "VALID"
        weights = tf.cast(weights, inputs.dtype)
        if by_taps:
            net = conv2d_by_taps(inputs, weights, rate)
        else:
            net = tf.nn.conv2d(inputs, weights, [1, stride, stride, 1], padding,
                               dilations=[1, rate, rate, 1])
        if use_bias:
            biases = tf.get_variable("biases", [filters], initializer=tf.zeros_initializer())
            net = tf.nn.bias_add(net, tf.cast(biases, net.dtype))
        return net


def conv2d_by_taps(inputs, weights, rate):
    """An atrous convolution, 'SAME', as the sum of a shifted 1x1 convolution for each of its taps.

    The same up to rounding (the sum is in float32), and several times faster where the processor
    has no kernel for atrous convolutions of that dtype: on one with AMX, bfloat16 of 2048 channels
    took 77 instead of 591 ms (batch 16, 17x17, rate 6); its gradient gains nothing. Taps that fall
    on padding only are left out. inputs: [batch, height, width, channels] of static size; weights:
    [kernel, kernel, channels, filters], an odd kernel.
    """
    height, width = inputs.shape.as_list()[1:3]
    centre = int(weights.shape[0]) // 2
    offsets = [(number - centre) * rate for number in range(2 * centre + 1)]
    taps = []
    for row, down in enumerate(offsets):
        for column, right in enumerate(offsets):
            if abs(down) < height and abs(right) < width:
                part = inputs[:, max(0, down):height + min(0, down),
                              max(0, right):width + min(0, right)]
                tap = tf.nn.conv2d(part, weights[row:row + 1, column:column + 1], 1, "VALID")
                taps.append(tf.pad(tf.cast(tap, tf.float32), [
                    [0, 0], [max(0, -down), max(0, down)], [max(0, -right), max(0, right)],
                    [0, 0]]))
    return tf.cast(tf.add_n(taps), inputs.dtype)


def depthwise_conv2d(inputs, kernel_size, stride=1, rate=1):
    """A kernel of its own for each channel, padded as conv2d; one of `stride` and `rate` is 1.

    inputs: [batch, height, width, channels]; returns [batch, height / stride, width / stride,
    channels] of the same dtype. Variable: depthwise_weights [kernel, kernel, channels, 1], which
    weight decay leaves alone, as in deeplab (core/utils.py, split_separable_conv2d;
    core/xception.py, regularize_depthwise=False).
    Raises ValueError where both stride and rate are above 1.
    """
    if stride > 1 and rate > 1:
        raise ValueError(f"a depthwise convolution of stride {stride} and rate {rate}; one is 1")
    # A fan-in of all channels, as the usual initialisers take it, would be far too great here.
    weights = tf.get_variable("depthwise_weights", [kernel_size, kernel_size, inputs.shape[-1], 1],
                              initializer=tf.truncated_normal_initializer(stddev=0.33))
    weights = tf.cast(weights, inputs.dtype)
    height, width = inputs.shape.as_list()[1:3]
    if height and width and stride == 1 and rate >= max(height, width):
        # Only the centre tap falls inside so small an input, see conv2d.
        return inputs * weights[kernel_size // 2, kernel_size // 2, :, 0]
    padding = "SAME"
    if stride > 1:
        before, after = (kernel_size - 1) // 2, kernel_size // 2
        inputs = tf.pad(inputs, [[0, 0], [before, after], [before, after], [0, 0]])
        padding = "VALID"
    return tf.nn.depthwise_conv2d(inputs, weights, [1, stride, stride, 1], padding,
                                  dilations=[rate, rate])


def batch_norm(inputs, norm, scope="BatchNorm"):
    """Batch normalisation over all but the channels; statistics are float32 in any precision.

    norm: a BatchNorm. In training the updates of moving_mean and moving_variance join
    tf.GraphKeys.UPDATE_OPS; on several devices they are the devices' mean, with `sync` or without.
    Returns the shape and dtype of `inputs`.
    """
    with tf.variable_scope(scope):
        shape = [inputs.shape[-1]]
        beta = tf.get_variable("beta", shape, initializer=tf.zeros_initializer())
        gamma = tf.get_variable("gamma", shape, initializer=tf.ones_initializer())
        moving_mean = tf.get_variable(
            "moving_mean", shape, initializer=tf.zeros_initializer(), trainable=False,
            aggregation=tf.VariableAggregation.MEAN)
        moving_variance = tf.get_variable(
            "moving_variance", shape, initializer=tf.ones_initializer(), trainable=False,
            aggregation=tf.VariableAggregation.MEAN)
        if not norm.training:
            return tf.nn.fused_batch_norm(inputs, gamma, beta, moving_mean, moving_variance,
                                          epsilon=norm.epsilon, is_training=False)[0]
        if norm.sync and device_number()[1] > 1:
            outputs, mean, variance = _synchronised(inputs, gamma, beta, norm.epsilon)
        else:
            outputs, mean, variance = tf.nn.fused_batch_norm(
                inputs, gamma, beta, epsilon=norm.epsilon, is_training=True)
        for moving, value in ((moving_mean, mean), (moving_variance, variance)):
            tf.add_to_collection(tf.GraphKeys.UPDATE_OPS,
                                 tf.assign_sub(moving, (1 - norm.decay) * (moving - value)))
        return outputs


def _synchronised(inputs, gamma, beta, epsilon):
    """fused_batch_norm(is_training=True) with the statistics of all devices' parts of the batch.

    One all-reduce of each channel's mean and mean of squares, as Keras's SyncBatchNormalization.
    """
    count = device_number()[1]
    net = tf.cast(inputs, tf.float32)
    axes = list(range(net.shape.rank - 1))
    sums = tf.stack([tf.reduce_mean(net, axes), tf.reduce_mean(tf.square(net), axes)])
    mean, square = tf.unstack(all_reduce_sum(sums) / count)
    variance = tf.maximum(square - tf.square(mean), 0.)
    outputs = tf.nn.batch_normalization(net, mean, variance, beta, gamma, epsilon)
    # The moving variance is of the unbiased one, as the fused kernel's.
    number = tf.cast(tf.size(net) // net.shape[-1] * count, tf.float32)
    return tf.cast(outputs, inputs.dtype), mean, variance * number / tf.maximum(number - 1, 1)


def conv2d_bn_relu(inputs, filters, kernel_size, scope, norm, stride=1, rate=1, by_taps=False):
    """conv2d without bias, batch norm and ReLU under one scope, as slim's normalizer_fn does.

    norm: a BatchNorm; the rest as for conv2d.
    """
    with tf.variable_scope(scope) as variable_scope:
        net = conv2d(inputs, filters, kernel_size, variable_scope, stride, rate, by_taps=by_taps)
        return tf.nn.relu(batch_norm(net, norm))


def separable_conv2d(inputs, filters, kernel_size, scope, norm, stride=1, rate=1, relu=True):
    """A depthwise convolution, then a 1x1 of all channels; batch norm and ReLU after each.

    norm: a BatchNorm. relu: False leaves out both ReLUs (a unit of Xception has one before
    instead). Scopes, as in tensorflow/models, research/deeplab: `scope`_depthwise and
    `scope`_pointwise.
    inputs: [batch, height, width, channels]; returns [batch, height / stride, width / stride,
    filters] of the same dtype. One of `stride` and `rate` is 1.
    """
    def normalise(net):
        net = batch_norm(net, norm)
        return tf.nn.relu(net) if relu else net

    with tf.variable_scope(f"{scope}_depthwise"):
        net = normalise(depthwise_conv2d(inputs, kernel_size, stride, rate))
    with tf.variable_scope(f"{scope}_pointwise") as pointwise:
        return normalise(conv2d(net, filters, 1, pointwise))


def scaled_filters(filters, width):
    """`filters` times `width`, as the nearest multiple of 8, at least 8."""
    return filters if width == 1 else max(8, round(filters * width / 8) * 8)


def subsample(inputs, stride):
    """Every `stride`-th row and column, as slim's identity shortcut has it (resnet_utils.py).

    By a max-pool over single pixels as in slim: strided slicing is several times slower on a CPU.
    """
    return inputs if stride == 1 else tf.nn.max_pool2d(inputs, 1, stride, "VALID")
