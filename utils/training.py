"""The graph that train.py runs: batches, model, loss and update, and the model in evaluation."""

import tensorflow.compat.v1 as tf

from deeplab_v3 import deeplab_v3
from utils import averages, optimisation, runs, tiles
from utils.class_weights import read_class_weights
from utils.losses import segmentation_loss


def training_graph(args, model, training):
    """The tensors and ops of training and of evaluation, by name; 'histograms' may be None."""
    step = tf.train.get_or_create_global_step()
    images, labels, start_of_data = tiles.training_batches(
        training, args.batch_size, model["num_classes"], args.seed, step)
    logits, _ = deeplab_v3(images, is_training=True, precision=args.precision,
                           batch_norm_decay=args.batch_norm_decay,
                           freeze_batch_norm=args.freeze_batch_norm,
                           dropout_seed=tf.stack([tf.constant(args.seed, tf.int64), step]), **model)
    loss = segmentation_loss(
        logits, labels, args.loss,
        read_class_weights(args.class_weights, args.dataset, model["num_classes"]),
        args.hard_pixels, args.label_smoothing, args.focal_gamma)
    total = loss + optimisation.weight_decay_loss(args.weight_decay)
    rate = optimisation.learning_rate(step, args.learning_rate, args.steps, args.schedule,
                                      args.power)
    groups = optimisation.variable_groups(model["backbone"], args.backbone_lr_factor,
                                          args.freeze_batch_norm)
    update = optimisation.train_op(total, args.optimizer, rate, args.momentum, step, groups,
                                   args.histograms)
    averaged = {}
    if args.ema:
        update, averaged = averages.keep_averages(update, runs.model_variables(), args.ema, step)

    evaluated = tf.placeholder(tf.uint8, [None, None, None, model.get("bands", 3)], "evaluated")
    with averages.using_averages(averaged):
        logits, _ = deeplab_v3(evaluated, is_training=False, precision=args.precision, **model)
    return {"step": step, "loss": loss, "total": total, "rate": rate, "update": update,
            "start_of_data": start_of_data, "averages": averaged,
            "start_of_averages": tf.variables_initializer(list(averaged.values())),
            "histograms": tf.summary.merge_all(),
            "evaluated": evaluated,
            "probabilities": tf.nn.softmax(logits)}
