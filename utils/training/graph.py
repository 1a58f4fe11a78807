"""The graph that train.py runs: batches, model, loss and update, and the model in evaluation."""

import functools

import tensorflow.compat.v1 as tf

from deeplab_v3 import deeplab_v3
from utils.data import tiles
from utils.distributed import cluster
from utils.training import ema, optimizer, runs
from utils.data.augment_tf import augment_online
from utils.training.class_weights import read_class_weights
from utils.distributed.devices import on_each, part_of_batch
from utils.training.losses import segmentation_loss
from utils.distributed.replicas import device_number, total


def training_graph(args, model, training, devices, crop_size):
    """The tensors and ops of training and of evaluation, by name; 'histograms' may be None.

    crop_size: side of what --augment_online cuts from a tile, pixels. Besides these, 'said' (an
    int64 placeholder) and 'all_said', its sum over all devices, with which hosts agree on what each
    of them knows.
    """
    step = tf.train.get_or_create_global_step()
    augment = functools.partial(
        augment_online, crop_size=crop_size, scale_range=args.scale_range,
        jitter=args.colour_jitter) if args.augment_online else None
    images, labels, start_of_data = tiles.training_batches(
        training, args.batch_size, model["num_classes"], args.seed, step, devices.host,
        devices.hosts, augment)
    class_weights = read_class_weights(args.class_weights, args.dataset, model["num_classes"])
    said = tf.placeholder_with_default(tf.zeros([], tf.int64), [])

    def train_on_one():
        own_images, own_labels = part_of_batch(devices, images, labels)
        logits, _ = deeplab_v3(
            own_images, is_training=True, precision=args.precision,
            batch_norm_decay=args.batch_norm_decay, freeze_batch_norm=args.freeze_batch_norm,
            sync_batch_norm=args.sync_batch_norm,
            dropout_seed=tf.stack([tf.constant(args.seed, tf.int64), step]),
            dropout_part=device_number(), **model)
        loss = segmentation_loss(logits, own_labels, args.loss, class_weights, args.hard_pixels,
                                 args.label_smoothing, args.focal_gamma, total)
        with_decay = loss + optimizer.weight_decay_loss(args.weight_decay)
        rate = optimizer.learning_rate(step, args.learning_rate, args.steps, args.schedule,
                                          args.power)
        groups = optimizer.variable_groups(model["backbone"], args.backbone_lr_factor,
                                              args.freeze_batch_norm)
        update = optimizer.train_op(with_decay, args.optimizer, rate, args.momentum, step,
                                       groups, args.histograms)
        return {"loss": loss, "total": with_decay, "rate": rate, "all_said": total(said),
                "update": update}

    trained = on_each(devices, train_on_one)
    averaged, start_of_averages = {}, tf.no_op()
    if args.ema:
        trained["update"], averaged, start_of_averages = ema.keep_averages(
            trained["update"], runs.model_variables(), args.ema, step)

    evaluated = tf.placeholder(tf.uint8, [None, None, None, model.get("bands", 3)], "evaluated")
    with ema.using_averages(averaged):
        logits, _ = deeplab_v3(evaluated, is_training=False, precision=args.precision, **model)
    return {"step": step, **trained, "said": said, "start_of_data": start_of_data,
            "averages": averaged, "start_of_averages": start_of_averages,
            "histograms": tf.summary.merge_all(),
            "evaluated": evaluated, "probabilities": tf.nn.softmax(logits)}


def run_step(args, session, fetches, feeds, run, step, kept, training, table, devices):
    """The values of `fetches` in the step after `step`; what goes wrong in it is told in a line.

    kept: what the error says of the last checkpoint. Raises MemoryError, ValueError, OSError.
    """
    try:
        with cluster.closed_if_lost(session, devices.others):
            return session.run(fetches, feeds)
    except tf.errors.ResourceExhaustedError as error:
        raise MemoryError(f"{args.batch_size} tiles a step do not fit into the device's "
                          "memory; lower --batch_size") from error
    except tf.errors.OpError as error:
        if optimizer.NOT_FINITE in error.message:
            raise ValueError(f"{run}: loss or gradient is not finite at step {step + 1}; stopped, "
                             f"{kept}; try a lower --learning_rate") from error
        if devices.hosts > 1 and cluster.is_lost(error):
            # Not looking for a tile at fault: of 100,000 that takes many minutes.
            raise ValueError(f"{run}: another host was lost at step {step + 1}; stopped, {kept}; "
                             "start the same command on all hosts again, with the same --run"
                             ) from error
        tiles.name_faulty_tile(training, table)
        raise ValueError(f"{run}: TensorFlow stopped at step {step + 1}: "
                         f"{runs.error_reason(error)}") from error
