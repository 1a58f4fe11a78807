"""The graph that train.py runs: batches, model, loss and update, and the model in evaluation."""

import tensorflow.compat.v1 as tf

from deeplab_v3 import deeplab_v3
from utils import optimisation, tiles
from utils.devices import on_each, part_of_batch
from utils.replicas import device_number, total


def training_graph(args, model, training, devices):
    """The tensors and ops of training and of evaluation, by name.

    Besides these, 'said' (an int64 placeholder) and 'all_said', its sum over all devices, with
    which hosts agree on what each of them knows.
    """
    step = tf.train.get_or_create_global_step()
    images, labels, start_of_data = tiles.training_batches(
        training, args.batch_size, model["num_classes"], args.seed, step, devices.host,
        devices.hosts)
    said = tf.placeholder_with_default(tf.zeros([], tf.int64), [])

    def train_on_one():
        own_images, own_labels = part_of_batch(devices, images, labels)
        logits, _ = deeplab_v3(
            own_images, is_training=True, precision=args.precision,
            batch_norm_decay=args.batch_norm_decay, sync_batch_norm=args.sync_batch_norm,
            dropout_seed=tf.stack([tf.constant(args.seed, tf.int64), step]),
            dropout_part=device_number(), **model)
        loss = optimisation.cross_entropy(logits, own_labels, total)
        with_decay = loss + optimisation.weight_decay_loss(args.weight_decay)
        rate = optimisation.learning_rate(step, args.learning_rate, args.steps, args.schedule,
                                          args.power)
        return {"loss": loss, "total": with_decay, "rate": rate, "all_said": total(said),
                "update": optimisation.train_op(with_decay, args.optimizer, rate, args.momentum,
                                                step)}

    trained = on_each(devices, train_on_one)
    evaluated = tf.placeholder(tf.uint8, [None, None, None, 3], "evaluated")
    logits, _ = deeplab_v3(evaluated, is_training=False, precision=args.precision, **model)
    return {"step": step, **trained, "said": said, "start_of_data": start_of_data,
            "evaluated": evaluated, "probabilities": tf.nn.softmax(logits)}
