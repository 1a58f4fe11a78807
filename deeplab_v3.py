"""Deeplab-v3 (Chen et al., arXiv 1706.05587): backbone, atrous spatial pyramid pooling, head.

With the decoder it is Deeplab-v3+ (Chen et al., arXiv 1802.02611).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow.compat.v1 as tf

from resnet_v2 import resnet_v2_50, resnet_v2_101
from utils.layers import BatchNorm, conv2d, conv2d_bn_relu, separable_conv2d
from xception import xception_65

BACKBONES = {"resnet_v2_50": resnet_v2_50, "resnet_v2_101": resnet_v2_101,
             "xception_65": xception_65}
# Factors on the rates of the backbone's last block (paper, 3.2.1), but where others are better:
# with Xception its authors found that none gain (v3+ paper, 4.3).
MULTI_GRID = (1, 2, 4)
OTHER_MULTI_GRIDS = {"xception_65": (1, 1, 1)}
LARGEST_RATE = 1000  # a factor; above, no tap but the middle one meets an image
ASPP_FILTERS = 256
# Rates of the three 3x3 branches at output stride 16; doubled at 8 (paper, 3.3).
ASPP_RATES = (6, 12, 18)
# Of the decoder; few of the low-level features, lest they outweigh the pyramid's (v3+ paper, 3.1).
LOW_LEVEL_FILTERS, DECODER_FILTERS = 48, 256
# Names of ModelConfig's fields in settings.json where they differ.
JSON_KEYS = {"in_channels": "bands"}


@dataclass(frozen=True)
class ModelConfig:
    """Which network; settings.json["model"] of a run.

    width: multiplier of the backbone's filters; pyramid and decoder keep theirs.
    multi_grid: factors on the rates of the backbone's last block; None: the backbone's own default.
    decoder: refine the pyramid's output by the backbone's features at stride 4 (v3+ paper, 3.1).
    separable: the pyramid's atrous convolutions and the decoder's are depthwise ones, each with a
        1x1 after it (v3+ paper, 3.1). After Xception the decoder's always are.
    pool1_padding: see `resnet_v2`; it goes with the weights. None: the backbone's default, or it
        has no pool.
    in_channels: of the images; RGB or as many as the scenes' bands.
    Raises ValueError for values that do not fit.
    """

    num_classes: int
    backbone: str = "resnet_v2_50"
    output_stride: int = 16
    multi_grid: tuple = None
    decoder: bool = False
    separable: bool = False
    width: float = 1
    pool1_padding: str = None
    in_channels: int = 3

    def __post_init__(self):
        grid = self.multi_grid
        if grid is None:
            grid = OTHER_MULTI_GRIDS.get(str(self.backbone), MULTI_GRID)
        if isinstance(grid, list):
            grid = tuple(grid)
        object.__setattr__(self, "multi_grid", grid)
        # A value of a damaged file may have no hash: no dict is asked for it.
        valid = {
            "num_classes": _is_whole(self.num_classes), "backbone": self.backbone in [*BACKBONES],
            "output_stride": self.output_stride in (8, 16),
            "multi_grid": isinstance(grid, tuple) and len(grid) == 3 and all(
                _is_whole(rate) and rate <= LARGEST_RATE for rate in grid),
            "decoder": isinstance(self.decoder, bool),
            "separable": isinstance(self.separable, bool),
            "width": type(self.width) in (int, float) and 0 < self.width <= 10,
            "pool1_padding": self.pool1_padding in (None, "slim", "keras"),
            "in_channels": _is_whole(self.in_channels)}
        wrong = [f"{JSON_KEYS.get(name, name)} {getattr(self, name)!r}"
                 for name, fits in valid.items() if not fits]
        if wrong:
            raise ValueError(f"no model has {', '.join(wrong)}")

    def to_json(self):
        """Plain values; those of no use to this model are left out."""
        values = dataclasses.asdict(self) | {"multi_grid": list(self.multi_grid)}
        # Only where it is not RGB, as in the first versions.
        channels = values.pop("in_channels")
        if channels != 3:
            values[JSON_KEYS["in_channels"]] = channels
        if self.pool1_padding is None:
            del values["pool1_padding"]
        return values

    @staticmethod
    def from_json(values, path):
        """The inverse of `to_json`, for files of earlier versions too, which lack what came later.

        path: the settings.json, for errors. Raises ValueError.
        """
        fields = {JSON_KEYS.get(field.name, field.name): field.name
                  for field in dataclasses.fields(ModelConfig)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise ValueError(f"{path}: its model has settings that this code does not know "
                             f"({', '.join(unknown)}); use the code that trained it, whose commit "
                             "is in its environment.json")
        try:
            if empty := [name for name, value in values.items() if value is None]:
                raise ValueError(f"no model has {', '.join(empty)} None")
            return ModelConfig(**{"num_classes": None} | {
                fields[name]: value for name, value in values.items()})
        except ValueError as error:
            raise ValueError(f"{path}: damaged: {error}; restore it or train again") from None


def _is_whole(value):
    return type(value) is int and value > 0


class Dropout(NamedTuple):
    """Dropout of a training step.

    seed: int [2], constant or tensor; the mask is a function of it alone, so a run that seeds it
        with its step repeats exactly.
    part: (number, count) where the images are one of so many equal parts of a batch: each image is
        then dropped from as it would be in the whole batch.
    """

    seed: Any = (0, 0)
    part: tuple = (0, 1)
    keep_prob: float = 0.9


def deeplab_v3(images, config, norm=BatchNorm(), freeze_batch_norm=False, precision="float32",
               dropout=Dropout(), by_taps=None):
    """Logits of every pixel.

    images: [batch, height, width, channels] in 0..255, uint8 or float, of any height and width.
    config: ModelConfig.
    norm: BatchNorm. With norm.training there are batch statistics and dropout, else moving
        statistics and none.
    freeze_batch_norm: the backbone (all its batch norm, a ResNet's postnorm too) uses its moving
        statistics in training too, and leaves them as they are. (deeplab's fine_tune_batch_norm
        False freezes those of pyramid and head as well, which here have random weights at first.)
    precision: 'float32' or 'bfloat16', the dtype of the convolutions; variables stay float32.
    dropout: Dropout, in training.
    by_taps: compute the pyramid's atrous convolutions as `conv2d_by_taps` does. None: where that
        gains, which is in bfloat16 and in inference only.

    Returns (logits float32 [batch, height, width, num_classes], end_points: the backbone's, with
    'aspp' at the features' resolution and 'logits' at that or, with the decoder, at stride 4, as
    'decoder' is). Raises ValueError for images of other channels.

    The images are padded to 32 k + 1 with the mean pixel: only then does feature i lie exactly over
    pixel output_stride * i, which is where align_corners puts it back (docs/alignment.md).
    """
    if images.shape[-1] != config.in_channels:
        raise ValueError(f"images of {images.shape[-1]} channel(s), but the model takes "
                         f"{config.in_channels}; cut the tiles with the --bands that they are to "
                         "have")
    rows, columns = _size_of(images)
    padded_rows, padded_columns = _odd_size(rows), _odd_size(columns)
    # Scaled to [-1, 1], which is what the weights of all backbones were trained with: slim's and
    # Keras's ResNet-v2, and deeplab's Xception (deeplab/core/feature_extractor.py).
    net = tf.cast(images, tf.float32) * (2 / 255) - 1
    net = tf.pad(net, [[0, 0], [0, padded_rows - rows], [0, padded_columns - columns], [0, 0]])
    pooling = {"pool1_padding": config.pool1_padding} if config.pool1_padding else {}
    net, end_points = BACKBONES[config.backbone](
        tf.cast(net, precision), norm._replace(training=norm.training and not freeze_batch_norm),
        config.output_stride, config.multi_grid, scope=config.backbone, width=config.width,
        **pooling)
    net = end_points["aspp"] = _aspp(net, config.output_stride, config.separable, norm, by_taps)
    if norm.training:
        net = _dropout(net, 1 - dropout.keep_prob, dropout.seed, *dropout.part)
    if config.decoder:
        separable = config.separable or config.backbone.startswith("xception")
        net = end_points["decoder"] = _decoder(net, end_points["low_level"], separable, norm)
    with tf.variable_scope("logits", reuse=tf.AUTO_REUSE) as scope:
        logits = end_points["logits"] = conv2d(
            tf.cast(net, tf.float32), config.num_classes, 1, scope, use_bias=True,
            initializer=tf.truncated_normal_initializer(stddev=0.01))
    # Logits are upsampled to the label, never the label downsampled (paper, 4.1).
    logits = tf.image.resize_bilinear(logits, [padded_rows, padded_columns], align_corners=True)
    # tf.slice, not [:, :rows, :columns]: the gradient of that takes longer than the upsampling.
    return tf.slice(logits, [0, 0, 0, 0], [-1, rows, columns, -1]), end_points


def _dropout(net, rate, seed, number, count):
    """Dropout of part `number` of `count` of a batch, by the mask of the whole one."""
    if count == 1:
        return tf.nn.experimental.stateless_dropout(net, rate=rate, seed=seed)
    part = net.shape.as_list()[0]
    whole = tf.nn.experimental.stateless_dropout(
        tf.ones([part * count, *net.shape[1:]], net.dtype), rate=rate, seed=seed)
    return net * whole[number * part:(number + 1) * part]


def _size_of(images):
    """[height, width] of a batch, each an int if the graph knows it, else a scalar tensor."""
    return [known or tf.shape(images)[axis]
            for axis, known in enumerate(images.shape.as_list()[1:3], start=1)]


def _odd_size(size):
    """The next 32 k + 1 from `size` on; int or scalar tensor."""
    return (size + 30) // 32 * 32 + 1


def _aspp(features, output_stride, separable, norm, by_taps):
    """Atrous spatial pyramid pooling (paper, 3.3): [batch, h, w, any] -> [batch, h, w, 256].

    separable: depthwise and 1x1 convolutions instead of plain 3x3 ones. by_taps: of the plain ones.
    Scopes are those of tensorflow/models, research/deeplab/model.py, whatever the rates are, so a
    checkpoint of ours serves at any output stride. Deeplab puts image_pooling first, so the
    concat_projection of its own checkpoints does not fit here.
    """
    if by_taps is None:
        by_taps = features.dtype == tf.bfloat16 and not norm.training

    def branch(net, kernel_size, scope, rate=1):
        return conv2d_bn_relu(net, ASPP_FILTERS, kernel_size, scope, norm, rate=rate,
                              by_taps=by_taps)

    with tf.variable_scope("", reuse=tf.AUTO_REUSE):
        branches = [branch(features, 1, "aspp0")]
        for number, rate in enumerate(ASPP_RATES, start=1):
            scope, rate = f"aspp{number}", rate * 16 // output_stride
            branches.append(
                separable_conv2d(features, ASPP_FILTERS, 3, scope, norm, rate=rate) if separable
                else branch(features, 3, scope, rate))
        # Averaged in float32: bfloat16 has 8 bits for a sum over hundreds of places.
        pooled = tf.reduce_mean(tf.cast(features, tf.float32), [1, 2], keepdims=True)
        pooled = branch(tf.cast(pooled, features.dtype), 1, "image_pooling")
        # Upsampling a single value is repeating it.
        branches.append(tf.broadcast_to(pooled, tf.shape(branches[0])))
        return branch(tf.concat(branches, axis=-1), 1, "concat_projection")


def _decoder(features, low_level, separable, norm):
    """The decoder of Deeplab-v3+ (arXiv 1802.02611, 3.1): [batch, h, w, 256] -> [batch, H, W, 256].

    low_level: [batch, H, W, any], the backbone's features at stride 4, each over pixel 4 i as those
    of the pyramid are over output_stride * i, so that align_corners puts them together exactly.
    separable: depthwise and 1x1 convolutions instead of plain 3x3 ones, as after Xception.

    Order, sizes and, of the separable form, scopes are those of refine_by_decoder in
    tensorflow/models, research/deeplab/model.py, which too has the dropout before the decoder.
    """
    convolution = separable_conv2d if separable else conv2d_bn_relu
    with tf.variable_scope("decoder", reuse=tf.AUTO_REUSE):
        low_level = conv2d_bn_relu(low_level, LOW_LEVEL_FILTERS, 1, "feature_projection0", norm)
        net = tf.image.resize_bilinear(tf.cast(features, tf.float32), _size_of(low_level),
                                       align_corners=True)
        net = tf.concat([tf.cast(net, low_level.dtype), low_level], axis=-1)
        for scope in ("decoder_conv0", "decoder_conv1"):
            net = convolution(net, DECODER_FILTERS, 3, scope, norm)
        return net
