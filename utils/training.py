"""The graph that train.py runs: batches, model, loss and update, and the model in evaluation."""

import functools

import tensorflow.compat.v1 as tf

from deeplab_v3 import deeplab_v3
from utils import optimisation, tiles
from utils.augment_online import augment_online


def training_graph(args, model, training, crop_size):
    """The tensors and ops of training and of evaluation, by name.

    crop_size: side of what --augment_online cuts from a tile, pixels.
    """
    step = tf.train.get_or_create_global_step()
    augment = functools.partial(
        augment_online, crop_size=crop_size, scale_range=args.scale_range,
        jitter=args.colour_jitter) if args.augment_online else None
    images, labels, start_of_data = tiles.training_batches(
        training, args.batch_size, model["num_classes"], args.seed, step, augment)
    logits, _ = deeplab_v3(images, is_training=True, precision=args.precision,
                           batch_norm_decay=args.batch_norm_decay,
                           dropout_seed=tf.stack([tf.constant(args.seed, tf.int64), step]), **model)
    loss = optimisation.cross_entropy(logits, labels)
    total = loss + optimisation.weight_decay_loss(args.weight_decay)
    rate = optimisation.learning_rate(step, args.learning_rate, args.steps, args.schedule,
                                      args.power)
    update = optimisation.train_op(total, args.optimizer, rate, args.momentum, step)

    evaluated = tf.placeholder(tf.uint8, [None, None, None, 3], "evaluated")
    logits, _ = deeplab_v3(evaluated, is_training=False, precision=args.precision, **model)
    return {"step": step, "loss": loss, "total": total, "rate": rate, "update": update,
            "start_of_data": start_of_data, "evaluated": evaluated,
            "probabilities": tf.nn.softmax(logits)}
