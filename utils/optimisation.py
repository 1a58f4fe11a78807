"""Loss, weight decay, learning-rate schedules and the train op."""

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from utils.classes import IGNORE
from utils.replicas import device_number, total

OPTIMIZERS = ("adam", "momentum")
SCHEDULES = ("step", "poly", "constant")
NOT_FINITE = "loss or gradient is not finite"
STEP_BOUNDARIES, STEP_FACTOR = (0.6, 0.8), 0.1


def repeatable_config():
    """A tf.ConfigProto under which the same seed gives the same run, bit for bit, on one machine.

    TensorFlow's arithmetic optimiser would join sums made in pairs (`train_op`) to one AddN again.
    """
    config = tf.ConfigProto()
    config.graph_options.rewrite_options.arithmetic_optimization = RewriterConfig.OFF
    return config


def cross_entropy(logits, labels, total=tf.identity):
    """Mean cross-entropy over the pixels that count; 0 where all are ignored.

    logits: float32 [batch, height, width, classes]. labels: integer [batch, height, width], 255
    is ignored. Divided by the number of counted pixels, not of all (deeplab/utils/train_utils.py).
    total: function from a tensor to its sum over all devices that share the batch, differentiable.
    """
    counted = tf.not_equal(labels, IGNORE)
    ids = tf.where(counted, tf.cast(labels, tf.int32), tf.zeros_like(labels, tf.int32))
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=ids, logits=logits)
    counted = tf.cast(counted, tf.float32)
    return tf.math.divide_no_nan(total(tf.reduce_sum(losses * counted)),
                                 total(tf.reduce_sum(counted)))


def weight_decay_loss(factor):
    """`factor` times half the squared sum of all convolution weights, not of biases or batch norm.

    As slim's l2_regularizer on conv2d (slim/nets/resnet_utils.py, resnet_arg_scope).
    """
    weights = [v for v in tf.trainable_variables() if v.name.endswith("/weights:0")]
    return factor * tf.add_n([tf.nn.l2_loss(v) for v in weights])


def learning_rate(step, base, steps, schedule, power=0.9):
    """float32 scalar for `step` (int64 tensor) of `steps`.

    'step': divided by 10 at 60% and at 80% of the run. 'poly': base * (1 - step / steps) ** power
    (arXiv 1706.05587, 4.1). 'constant': base.
    """
    if schedule == "constant":
        return tf.constant(base, tf.float32)
    if schedule == "poly":
        return tf.train.polynomial_decay(base, step, steps, 0.0, power)
    if schedule == "step":
        boundaries = [round(steps * share) for share in STEP_BOUNDARIES]
        values = [base * STEP_FACTOR ** i for i in range(len(boundaries) + 1)]
        # TensorFlow keeps a boundary's own step on the left; ours begins the next rate.
        return tf.train.piecewise_constant(step + 1, [tf.cast(b, step.dtype) for b in boundaries],
                                           values)
    raise ValueError(f"schedule {schedule!r} is none of {', '.join(SCHEDULES)}")


def train_op(loss, optimizer, rate, momentum, step):
    """One update of all trainable variables and of batch norm's moving statistics; adds 1 to step.

    Where the loss or a gradient is not finite the op raises InvalidArgumentError and the trainable
    variables, the optimizer's own and `step` stay those of the last good step. The moving
    statistics may have taken in the bad batch, so nothing should be saved after that.

    On several devices `loss` is the same on each, that of the whole batch; see utils/devices.py.
    """
    if optimizer == "adam":
        method = tf.train.AdamOptimizer(rate)
    elif optimizer == "momentum":
        method = tf.train.MomentumOptimizer(rate, momentum)
    else:
        raise ValueError(f"optimizer {optimizer!r} is none of {', '.join(OPTIMIZERS)}")
    # Summed in pairs: AddN of three or more starts with whichever buffer is free by then, so that a
    # run repeated with the same seed would differ in the last bits, and soon in the first.
    count = device_number()[1]
    # A device's gradient of a loss that was summed over all is `count` times its own part of it,
    # since every device's copy of the loss flows back into it; apply_gradients adds them up.
    gradients, variables = zip(*method.compute_gradients(
        loss / count if count > 1 else loss, tf.trainable_variables(),
        aggregation_method=tf.AggregationMethod.EXPERIMENTAL_TREE))
    # Over all devices, so that all stop at the same step.
    norm = total(tf.linalg.global_norm(gradients))
    finite = tf.Assert(tf.math.is_finite(loss) & tf.math.is_finite(norm),
                       [NOT_FINITE, loss, norm])
    with tf.control_dependencies([finite] + tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
        gradients = [tf.identity(gradient) for gradient in gradients]
    return method.apply_gradients(zip(gradients, variables), global_step=step)
