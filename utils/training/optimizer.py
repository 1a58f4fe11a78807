"""Weight decay, learning-rate schedules and the train op."""

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from utils.distributed.replicas import all_reduce_sum, device_number
from utils.training.muon import Muon

OPTIMIZERS = ("adam", "momentum", "muon")
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


def weight_decay_loss(factor):
    """`factor` times half the squared sum of all convolution weights, not of biases or batch norm.

    As slim's l2_regularizer on conv2d (slim/nets/resnet_utils.py, resnet_arg_scope). Depthwise
    weights are left out too (deeplab's regularize_depthwise=False).
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


def variable_groups(backbone, backbone_lr_factor=1.0, freeze_batch_norm=False):
    """What is trained, as [(variables, factor on the learning rate), ...] for `train_op`.

    One group of all trainable variables; with a factor other than 1, head and `backbone` (its
    scope). freeze_batch_norm: gamma and beta of the backbone stay as they are.
    """
    def inside(variable):
        # Not op.name, which on a second device is that of its copy.
        return variable.name.startswith(backbone + "/")

    trained = [v for v in tf.trainable_variables() if not (
        freeze_batch_norm and inside(v) and v.name.endswith(("/gamma:0", "/beta:0")))]
    if backbone_lr_factor == 1:
        return [(trained, 1.0)]
    return [([v for v in trained if not inside(v)], 1.0),
            ([v for v in trained if inside(v)], backbone_lr_factor)]


def train_op(loss, optimizer, rate, momentum, step, groups=None, histograms=False,
             precision="float32"):
    """One update of the variables and of batch norm's moving statistics; adds 1 to step.

    groups: of `variable_groups`; None trains all trainable variables at `rate`. Each group has an
    optimizer of its own, since a factor on a gradient (deeplab's gradient_multipliers) does
    nothing under Adam, which divides by the gradient's own size.

    Where the loss or a gradient is not finite the op raises InvalidArgumentError and the trainable
    variables, the optimizer's own and `step` stay those of the last good step. The moving
    statistics may have taken in the bad batch, so nothing should be saved after that.

    histograms: adds to the graph's summaries (tf.summary.merge_all) histograms of the gradients and
    of the weights after the update.
    precision: 'float32' or 'bfloat16', in which Muon multiplies matrices.

    On several devices `loss` is the same on each, that of the whole batch; see
    utils/distributed/devices.py.
    """
    groups = groups or [(tf.trainable_variables(), 1.0)]
    methods = [_new_optimizer(optimizer, rate * factor, momentum, precision)
               for _, factor in groups]
    # Summed in pairs: AddN of three or more starts with whichever buffer is free by then, so that a
    # run repeated with the same seed would differ in the last bits, and soon in the first.
    number, count = device_number()
    # A device's gradient of a loss that was summed over all is `count` times its own part of it,
    # since every device's copy of the loss flows back into it; apply_gradients adds them up.
    gradients, variables = zip(*methods[0].compute_gradients(
        loss / count if count > 1 else loss, [v for part, _ in groups for v in part],
        aggregation_method=tf.AggregationMethod.EXPERIMENTAL_TREE))
    # Over all devices, so that all stop at the same step.
    norm = all_reduce_sum(tf.linalg.global_norm(gradients))
    finite = tf.Assert(tf.math.is_finite(loss) & tf.math.is_finite(norm),
                       [NOT_FINITE, loss, norm])
    with tf.control_dependencies([finite] + tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
        gradients = {v.name: tf.identity(g) for v, g in zip(variables, gradients)}
    updates = []
    for method, (part, _) in zip(methods, groups):
        is_last = method is methods[-1]
        with tf.control_dependencies(updates):
            updates.append(method.apply_gradients([(gradients[v.name], v) for v in part],
                                                  global_step=step if is_last else None))
    if histograms and number == 0:
        with tf.control_dependencies(updates):
            for variable in variables:
                name = variable.name.split(":")[0]
                tf.summary.histogram(f"gradients/{name}", gradients[variable.name])
                tf.summary.histogram(f"weights/{name}", variable.read_value())
    return updates[-1]


def _new_optimizer(name, rate, momentum, precision):
    if name == "adam":
        return tf.train.AdamOptimizer(rate)
    if name == "momentum":
        return tf.train.MomentumOptimizer(rate, momentum)
    if name == "muon":
        return Muon(rate, precision)
    raise ValueError(f"optimizer {name!r} is none of {', '.join(OPTIMIZERS)}")
