"""ResNet-v2 (He et al., arXiv 1603.05027) with TF-slim's variable names and numbers.

Source: tensorflow/models, research/slim/nets/resnet_v2.py and resnet_utils.py. Settings are plain
arguments instead of slim's arg_scope.
"""

import functools

import tensorflow.compat.v1 as tf

from utils.layers import batch_norm, conv2d, conv2d_bn_relu, scaled_filters, subsample

# scope, depth of the 3x3 convolution, units, stride (taken by the block's last unit)
RESNET_50_BLOCKS = (
    ("block1", 64, 3, 2),
    ("block2", 128, 4, 2),
    ("block3", 256, 6, 2),
    ("block4", 512, 3, 1),
)
RESNET_101_BLOCKS = (
    ("block1", 64, 3, 2),
    ("block2", 128, 4, 2),
    ("block3", 256, 23, 2),
    ("block4", 512, 3, 1),
)
EXPANSION = 4


def resnet_v2(inputs, norm, output_stride=16, multi_grid=(1, 1, 1), *, blocks, scope,
              pool1_padding="slim", width=1):
    """The ResNet-v2 of these `blocks`, without its classifier; its variables are in `scope`.

    inputs: float [batch, height, width, channels] in [-1, 1]; its dtype is the one computed in.
    norm: a BatchNorm.
    output_stride: 8, 16 or 32; strides beyond it become atrous rates (arXiv 1706.05587, 3.1).
    multi_grid: factors on the atrous rate of block4's three units (same paper, 3.2.1).
    pool1_padding: 'slim' pads pool1 with -inf and 'keras' with zeros, as the origin of the weights
        did. The stem has no ReLU before the pool, so the two differ at the border.
    width: factor on every layer's filters, rounded to multiples of 8.

    Returns (features [batch, ceil(height / output_stride), ceil(width / output_stride), 2048 at
    width 1] after postnorm and ReLU, end_points: dict of 'conv1', 'pool1', each unit as
    'block1/unit_1', each block as 'block1', 'postnorm', and 'low_level', what a decoder takes, at
    stride 4). Raises ValueError for settings that do not fit.

    'low_level' is what the last unit of block1, which has the stride, begins with. A sum of units
    has no scale of its own in a pre-activation network, so it is taken after that unit's batch norm
    and ReLU, as the unit itself takes it.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output stride {output_stride} is not 8, 16 or 32")
    if len(multi_grid) != blocks[-1][2]:
        raise ValueError(f"multi-grid {tuple(multi_grid)} needs {blocks[-1][2]} rates, "
                         "one a unit of the last block")
    end_points = {}
    with tf.variable_scope(scope, reuse=tf.AUTO_REUSE):
        net = end_points["conv1"] = conv2d(inputs, scaled_filters(64, width), 7, "conv1", stride=2,
                                           use_bias=True)
        net = end_points["pool1"] = _pool1(net, pool1_padding)
        current_stride, rate = 4, 1
        for block, depth, units, block_stride in blocks:
            grid = multi_grid if block == blocks[-1][0] else (1,) * units
            for unit in range(1, units + 1):
                unit_stride = block_stride if unit == units else 1
                # Once the features are dense enough, a stride is spent on the rate of what follows.
                stride = unit_stride if current_stride < output_stride else 1
                name = f"{block}/unit_{unit}"
                with tf.variable_scope(f"{name}/bottleneck_v2"):
                    preact = tf.nn.relu(batch_norm(net, norm, "preact"))
                    net = end_points[name] = _bottleneck(
                        net, preact, scaled_filters(depth, width), stride, rate * grid[unit - 1],
                        norm)
                current_stride *= stride
                rate *= unit_stride // stride
            end_points[block] = net
            end_points.setdefault("low_level", preact)  # the first block's, of its last unit
        net = tf.nn.relu(batch_norm(net, norm, "postnorm"))
        end_points["postnorm"] = net
    return net, end_points


resnet_v2_50 = functools.partial(resnet_v2, blocks=RESNET_50_BLOCKS, scope="resnet_v2_50")
resnet_v2_101 = functools.partial(resnet_v2, blocks=RESNET_101_BLOCKS, scope="resnet_v2_101")


def _pool1(net, padding):
    """3x3 max-pool at stride 2; [batch, height, width, 64] -> half of that, rounded up."""
    if padding == "slim":
        return tf.nn.max_pool2d(net, 3, 2, "SAME")
    if padding == "keras":
        net = tf.pad(net, [[0, 0], [1, 1], [1, 1], [0, 0]])
        return tf.nn.max_pool2d(net, 3, 2, "VALID")
    raise ValueError(f"pool1 padding {padding!r} is neither 'slim' nor 'keras'")


def _bottleneck(inputs, preact, depth, stride, rate, norm):
    """The pre-activation unit (arXiv 1603.05027, figure 4e); returns `depth` * 4 channels.

    preact: `inputs` after batch norm and ReLU. norm: a BatchNorm.
    """
    if int(inputs.shape[-1]) == depth * EXPANSION:
        shortcut = subsample(inputs, stride)
    else:
        shortcut = conv2d(preact, depth * EXPANSION, 1, "shortcut", stride, use_bias=True)
    residual = conv2d_bn_relu(preact, depth, 1, "conv1", norm)
    residual = conv2d_bn_relu(residual, depth, 3, "conv2", norm, stride, rate)
    residual = conv2d(residual, depth * EXPANSION, 1, "conv3", use_bias=True)
    return shortcut + residual
