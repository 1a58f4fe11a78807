"""The loss of a batch of logits, with what helps small and unbalanced data sets."""

import typing

import tensorflow.compat.v1 as tf

from utils.classes import IGNORE

LOSSES = ("cross_entropy", "focal", "dice_cross_entropy")
# Below it a pixel's doubt (1 - p) has no gradient; powers below 1 are infinitely steep at 0.
SMALLEST_DOUBT = 1e-7
NO_CLASS = "a label that is no class"


class LossOptions(typing.NamedTuple):
    """Which loss, and what helps small and unbalanced data sets.

    loss: 'cross_entropy'; 'focal' (each pixel's cross-entropy times (1 - p) ** focal_gamma, p the
        probability of its class; Lin et al., arXiv 1708.02002, 3.2, without alpha, whose part
        class_weights plays); 'dice_cross_entropy': cross-entropy plus `dice_loss`.
    class_weights: [classes], or None for 1; a pixel has its class's weight in the cross-entropy or
        focal loss, and one of weight 0 is not valid there. Dice takes all classes alike.
    hard_pixels: share in (0, 1] of each image's valid pixels, the hardest (OHEM), that alone enter
        the cross-entropy or focal loss; see `hardest_pixels`.
    label_smoothing: in [0, 1), the share of a pixel's label that goes to all classes alike
        (arXiv 1512.00567, 7).
    """

    loss: str = "cross_entropy"
    class_weights: typing.Any = None
    hard_pixels: float = 1.0
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0


def segmentation_loss(logits, labels, options=LossOptions(), all_reduce_sum=tf.identity):
    """The loss of a batch over its valid pixels; 0 where all are ignored.

    logits: float32 [batch, height, width, classes]. labels: integer [batch, height, width], 255 is
    ignored. options: LossOptions.
    all_reduce_sum: function from a tensor to its sum over all devices that share the batch,
        differentiable; with it the loss is that of the whole batch on each of them.

    Cross-entropy and focal loss are divided by the sum of the weights of the pixels that enter, as
    in scikit-learn's log_loss(sample_weight), not by the number of all pixels. Raises ValueError;
    the op, InvalidArgumentError where a label is no class.
    """
    if options.loss not in LOSSES:
        raise ValueError(f"loss {options.loss!r} is none of {', '.join(LOSSES)}")
    valid = tf.not_equal(labels, IGNORE)
    ids = tf.where(valid, tf.cast(labels, tf.int32), tf.zeros_like(labels, tf.int32))
    weights = tf.cast(valid, tf.float32)
    if options.class_weights is not None:
        weights *= tf.gather(tf.constant(options.class_weights, tf.float32), ids)
    log_probabilities = tf.nn.log_softmax(logits)
    classes = logits.shape[-1]
    with tf.control_dependencies([tf.debugging.assert_less(ids, classes, message=NO_CLASS)]):
        truth = tf.one_hot(ids, classes)
    losses = pixel_losses(log_probabilities, truth, options.label_smoothing,
                          options.focal_gamma if options.loss == "focal" else 0)
    if options.hard_pixels < 1:
        weights *= hardest_pixels(losses, weights > 0, options.hard_pixels)
    mean = tf.math.divide_no_nan(all_reduce_sum(tf.reduce_sum(losses * weights)),
                                 all_reduce_sum(tf.reduce_sum(weights)))
    if options.loss == "dice_cross_entropy":
        mean += dice_loss(tf.exp(log_probabilities), truth, valid, all_reduce_sum)
    return mean


def pixel_losses(log_probabilities, truth, label_smoothing=0.0, focal_gamma=0.0):
    """Cross-entropy of each pixel, float32 [batch, height, width]; terms of `segmentation_loss`.

    log_probabilities, truth: float32 [batch, height, width, classes], truth 1 at the label, else 0.
    """
    # Not sparse_softmax_cross_entropy_with_logits: on a CPU it takes twice as long.
    hard = -tf.reduce_sum(truth * log_probabilities, axis=-1)
    losses = hard
    if label_smoothing:
        uniform = -tf.reduce_mean(log_probabilities, axis=-1)
        losses = (1 - label_smoothing) * hard + label_smoothing * uniform
    if focal_gamma:
        # expm1: 1 - p of a sure pixel would be rounded away.
        losses *= tf.maximum(-tf.math.expm1(-hard), SMALLEST_DOUBT) ** focal_gamma
    return losses


def hardest_pixels(losses, valid, share):
    """1. for the `share` of each image's valid pixels with the highest losses, else 0.

    Online hard example mining (Shrivastava et al., arXiv 1604.03540) by pixel. losses: float32,
    valid: bool, both [batch, height, width]. The number is rounded up; pixels as hard as the last
    of them belong to them too. By image, not by batch: so it does not matter how a batch is spread
    over devices.
    """
    flat = tf.reshape(tf.where(valid, tf.stop_gradient(losses), -tf.ones_like(losses)),
                      [tf.shape(losses)[0], -1])

    def number(pixels):
        return tf.cast(tf.ceil(share * tf.cast(pixels, tf.float64)), tf.int32)

    sorted_losses = tf.math.top_k(flat, number(tf.shape(flat)[1])).values
    last = tf.maximum(number(tf.count_nonzero(valid, axis=[1, 2])) - 1, 0)
    threshold = tf.gather(sorted_losses, last, batch_dims=1)[:, None, None]
    # Not 'losses >= threshold': a NaN must stay in, to be found.
    return tf.cast(valid & ~(losses < threshold), tf.float32)


def dice_loss(probabilities, truth, valid, all_reduce_sum=tf.identity):
    """1 - soft Dice, the mean over the classes that the batch's valid labels hold; 0 without any.

    Dice of a class: 2 sum(p g) / (sum(p^2) + sum(g^2)) over all valid pixels of the batch, p its
    probability, g 1 where it is the label (Milletari et al., arXiv 1606.04797, 3).
    probabilities, truth: float32 [batch, height, width, classes], truth 1 at the label, else 0;
    valid: bool [batch, height, width].
    """
    weights = tf.reshape(tf.cast(valid, tf.float32), [1, -1])

    def sum_by_class(values):
        # A product of matrices: sums over pixels of so few classes take much longer on a CPU.
        by_pixel = tf.reshape(values, [-1, values.shape[-1]])
        return all_reduce_sum(tf.squeeze(weights @ by_pixel, axis=0))

    pixels = sum_by_class(truth)
    dice = tf.math.divide_no_nan(2 * sum_by_class(probabilities * truth),
                                 sum_by_class(tf.square(probabilities)) + pixels)
    present = tf.cast(pixels > 0, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum((1 - dice) * present), tf.reduce_sum(present))
