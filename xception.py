"""Modified aligned Xception (Chen et al., arXiv 1802.02611, section 3.2), named as its authors' is.

Source of structure and names: tensorflow/models, research/deeplab/core/xception.py. Every max-pool
of the first Xception is a strided separable convolution here, so that strides can become rates.
"""

import tensorflow.compat.v1 as tf

from utils.layers import batch_norm, conv2d, conv2d_bn_relu, scaled_filters, separable_conv2d

# scope, depths of a unit's separable convolutions, units, stride (of the unit's last convolution),
# shortcut: a 1x1 'convolution', the 'identity', or None
XCEPTION_65_BLOCKS = (
    ("entry_flow/block1", (128, 128, 128), 1, 2, "convolution"),
    ("entry_flow/block2", (256, 256, 256), 1, 2, "convolution"),
    ("entry_flow/block3", (728, 728, 728), 1, 2, "convolution"),
    ("middle_flow/block1", (728, 728, 728), 16, 1, "identity"),
    ("exit_flow/block1", (728, 1024, 1024), 1, 2, "convolution"),
    ("exit_flow/block2", (1536, 1536, 2048), 1, 1, None),
)
# What the decoder takes: the last features of stride 4 (deeplab/core/feature_extractor.py).
LOW_LEVEL = "entry_flow/block2/unit_1/separable_conv2"
EPSILON = 1e-3


def xception_65(inputs, norm, output_stride=16, multi_grid=(1, 1, 1),
                scope="xception_65", width=1):
    """Xception-65 without its classifier.

    inputs: float [batch, height, width, channels] in [-1, 1]; its dtype is the one computed in.
    norm: a BatchNorm, whose epsilon gives way to this network's own.
    output_stride: 8, 16 or 32; strides beyond it become atrous rates (arXiv 1706.05587, 3.1).
    multi_grid: factors on the atrous rate of the last block's three convolutions. Its authors use
        (1, 1, 1): others did not improve their results (arXiv 1802.02611, section 4).
    width: factor on every layer's filters, rounded to multiples of 8.

    Returns (features [batch, ceil(height / output_stride), ceil(width / output_stride), 2048 at
    width 1] after ReLU, end_points: dict of 'entry_flow/conv1_1', 'entry_flow/conv1_2', each
    separable convolution as 'entry_flow/block1/unit_1/separable_conv1', each unit and block by its
    name, and 'low_level': [batch, ceil(height / 4), ceil(width / 4), 256 at width 1] before ReLU).
    Raises ValueError for settings that do not fit.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output stride {output_stride} is not 8, 16 or 32")
    if len(multi_grid) != 3:
        raise ValueError(f"multi-grid {tuple(multi_grid)} needs 3 rates, one a separable "
                         "convolution of the last block")
    norm = norm._replace(epsilon=EPSILON)
    end_points = {}
    with tf.variable_scope(scope, reuse=tf.AUTO_REUSE):
        net = inputs
        for name, depth, stride in (("conv1_1", 32, 2), ("conv1_2", 64, 1)):
            with tf.variable_scope("entry_flow"):
                net = conv2d_bn_relu(net, scaled_filters(depth, width), 3, name, norm,
                                     stride)
            end_points[f"entry_flow/{name}"] = net
        current_stride, rate = 2, 1
        for block, depths, units, block_stride, shortcut in XCEPTION_65_BLOCKS:
            depths = [scaled_filters(depth, width) for depth in depths]
            grid = multi_grid if block == XCEPTION_65_BLOCKS[-1][0] else (1, 1, 1)
            # Once the features are dense enough, a stride is spent on the rate of what follows.
            stride = block_stride if current_stride < output_stride else 1
            for unit in range(1, units + 1):
                net = _unit(net, f"{block}/unit_{unit}", depths, stride,
                            [rate * factor for factor in grid], shortcut, norm, end_points)
            current_stride *= stride
            rate *= block_stride // stride
            end_points[block] = net
    end_points["low_level"] = end_points[LOW_LEVEL]
    return net, end_points


def _unit(inputs, name, depths, stride, rates, shortcut, norm, end_points):
    """Three separable convolutions, the last one strided, beside a shortcut.

    ReLU comes before each, or, in the unit without a shortcut, after each half of each.
    """
    with tf.variable_scope(f"{name}/xception_module"):
        net = inputs
        for number, (depth, rate) in enumerate(zip(depths, rates), start=1):
            part = f"separable_conv{number}"
            net = end_points[f"{name}/{part}"] = separable_conv2d(
                tf.nn.relu(net) if shortcut else net, depth, 3, part, norm,
                stride if number == len(depths) else 1, rate, relu=not shortcut)
        if shortcut == "convolution":
            with tf.variable_scope("shortcut") as shortcut_scope:
                net += batch_norm(conv2d(inputs, depths[-1], 1, shortcut_scope, stride), norm)
        elif shortcut == "identity":
            net += inputs
    end_points[name] = net
    return net
