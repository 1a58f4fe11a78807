"""Tiles -> checkpoint: trains Deeplab-v3 on the tiles that preprocess.py wrote.

    python train.py --run first
    python train.py --list

Where the weights come from, in this order:
1. a run: --run NAME of a folder with a checkpoint resumes it, whatever --pretrained says;
2. pretrained: --pretrained imagenet, the path of a Keras .h5 or of a checkpoint of TF-slim or
   Deeplab's model zoo (the backbone's weights), or the folder of another run of train.py (all
   weights, of its best checkpoint);
3. nothing: --pretrained none draws random weights.
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import contextlib
import functools
import os
import sys
from typing import Any, NamedTuple

import tensorflow.compat.v1 as tf

from deeplab_v3 import BACKBONES, Dropout, ModelConfig, deeplab_v3
from utils.classes import read_classes
from utils.cli import (above_zero, argument_parser, leave_on_signals, non_negative, part_above_0,
                       port, positive, probability, run_script, scale, share, side, stop_event)
from utils.data.augment_tf import augment_online, check_crop
from utils.data.input_pipeline import training_batches
from utils.data.tiles import TileSet
from utils.distributed import cluster
from utils.distributed.devices import (check_alike, check_batch_norm, choose_devices, on_each,
                                       part_of_batch, session_on)
from utils.distributed.replicas import all_reduce_sum, device_number
from utils.idle_flags import TRAIN, tell_idle_flags
from utils.layers import BatchNorm
from utils.memory import check_memory
from utils.precision import AUTO, FLOAT32, PRECISION_FLAG, precision_of_training
from utils.training import ema, losses, optimizer, pretrained
from utils.training.checkpoints import latest_checkpoints, model_variables
from utils.training.chief import Chief
from utils.training.class_weights import CLASS_WEIGHTS, class_weights
from utils.training.environment import describe_environment
from utils.training.evaluation import Evaluator, read_held_out
from utils.training.run import (RunSettings, append_start, check_same_settings, held_run,
                                new_run_name, recipe_of, settings_to_resume)
from utils.training.run_list import format_runs
from utils.training.step_error import starting_together, step_error


def parse_arguments(arguments=None):
    """(flags, of the command line or of a list of strings; their defaults, as a dict)."""
    parser = argument_parser(__doc__)
    add = parser.add_argument_group("run").add_argument
    add("--logs", default="logs", help="folder of all runs, for tensorboard --logdir")
    add("--list", action="store_true", help="show the runs in --logs and their scores, and leave")
    add("--run", help="name of this run's folder; that of a run with a checkpoint resumes it; by "
        "default a new name")
    add("--steps", type=positive, default=50000, help="number of training steps")
    add("--save_every", type=positive, default=500, metavar="STEPS",
        help="steps between checkpoints")
    add("--test_display", type=positive, default=500, metavar="STEPS",
        help="steps between evaluations on validation tiles and the held-out scene")
    add("--summary_every", type=positive, default=20, metavar="STEPS",
        help="steps between points of the curves")
    add("--histograms", action="store_true",
        help="of weights and gradients, every --test_display steps, for TensorBoard")

    add = parser.add_argument_group("model").add_argument
    add("--backbone", choices=list(BACKBONES), default="resnet_v2_50", help="below the ASPP")
    add("--width", type=scale, default=1.0, metavar="FACTOR",
        help="on the backbone's numbers of filters; .5 for laptops, without pretrained weights")
    add("--output_stride", type=int, choices=(8, 16), default=16, help="pixels per feature")
    add("--multi_grid", type=positive, nargs=3, metavar="RATE",
        help="factors on the atrous rate of the last block's three units or, of Xception, "
        "convolutions; by default 1 2 4, of Xception 1 1 1")
    add("--decoder", action="store_true",
        help="refine edges by features of stride 4: Deeplab-v3+ instead of Deeplab-v3")
    add("--separable", action="store_true",
        help="depthwise and 1x1 convolutions in pyramid and decoder: fewer operations")
    add("--precision", **PRECISION_FLAG,
        help="of the convolutions; variables, loss and batch statistics are float32 always; auto: "
        "the faster in a few trial steps, and a resumed run's own")

    add = parser.add_argument_group("initial weights").add_argument
    add("--pretrained", default="imagenet", metavar="none|imagenet|PATH|RUN",
        help="PATH: of Keras's .h5 or a checkpoint of TF-slim or Deeplab's model zoo, for the "
        "backbone; RUN: the folder of another run, for the whole model (its last layer is "
        "re-initialised where the number of classes differs)")
    add("--freeze_batch_norm", action="store_true",
        help="keep all of the backbone's batch norm (statistics, gamma, beta) as pretrained; for "
        "small batches and small data sets")
    add("--backbone_lr_factor", type=above_zero, default=1.0, metavar="FACTOR",
        help="on the backbone's learning rate; .1 for small data sets")

    add = parser.add_argument_group("optimisation").add_argument
    add("--batch_size", type=positive, default=16,
        help="tiles a step, of all devices together")
    add("--optimizer", choices=optimizer.OPTIMIZERS, default="adam",
        help="the original's adam; the paper's momentum; muon, fast from random weights")
    add("--learning_rate", type=above_zero, default=2e-4, help="at the start; the paper's is .007")
    add("--schedule", choices=optimizer.SCHEDULES, default="step",
        help="step: divided by 10 at 60%% and 80%% of the steps (the original); poly: the paper's")
    add("--power", type=non_negative, default=0.9, help="of the poly schedule")
    add("--momentum", type=probability, default=0.9, help="of the momentum optimizer")
    add("--weight_decay", type=non_negative, default=5e-4,
        help="on convolution weights; 1e-4 in the authors' code")
    add("--batch_norm_decay", type=probability, default=0.99,
        help="of the moving statistics; .997 and more suit only runs of many thousand steps")
    add("--ema", type=share, default=0.0, metavar="DECAY",
        help="of the moving average of the weights (EMA), which is evaluated, kept as the best and "
        "used by predict.py; .99 for a thousand steps, .999 and more for long runs; 0: none")

    add = parser.add_argument_group("loss").add_argument
    add("--loss", choices=losses.LOSSES, default="cross_entropy",
        help="focal turns to pixels that are not learned yet, dice_cross_entropy to small classes")
    add("--focal_gamma", type=above_zero, default=2.0, help="exponent of the focal loss")
    add("--class_weights", choices=CLASS_WEIGHTS, default="none",
        help="rare classes weigh more, by the class frequencies that preprocess.py wrote")
    add("--hard_pixels", type=part_above_0, default=1.0, metavar="SHARE",
        help="of each tile's valid pixels only this share, the hardest, enters (OHEM); 1: all")
    add("--label_smoothing", type=share, default=0.0, metavar="SHARE",
        help="of a label that goes to all classes alike")

    add = parser.add_argument_group("augmentation").add_argument
    add("--augment_online", action="store_true",
        help="cut, turn, mirror and colour every tile anew in each epoch; for plain tiles "
        "(preprocess.py --no_augment)")
    add("--crop_size", type=side, metavar="PIXELS",
        help="side of the crops that --augment_online cuts from larger tiles; by default whole "
        "tiles")
    add("--scale_range", type=scale, nargs=2, default=[1.0, 1.0], metavar=("LOW", "HIGH"),
        help="--augment_online scales tiles by a factor from it; the paper's is .5 2")
    add("--colour_jitter", type=share, default=0.2, metavar="SHARE",
        help="--augment_online changes brightness, contrast and saturation by up to this share")

    add = parser.add_argument_group("devices").add_argument
    add("--devices", type=positive, metavar="N",
        help="devices of this host; by default all GPUs seen, else the CPU. Without GPUs, N above "
        "1 splits the CPU, for trying out. Several hosts: TF_CONFIG, see docs/scaling.md, or "
        "--slurm")
    add("--slurm", type=port, nargs="?", const=cluster.SLURM_PORT, metavar="PORT",
        help="take the hosts from Slurm's variables, under srun; PORT is that of a node's first "
        f"task, by default {cluster.SLURM_PORT}")
    add("--sync_batch_norm", action="store_true",
        help="batch statistics of all devices' tiles, not of each device's own")
    args = parser.parse_args(arguments)
    tell_idle_flags(parser, args, TRAIN)
    return args, vars(parser.parse_args([]))


class Graph(NamedTuple):
    """Tensors and ops of training, and of the model in evaluation."""

    step: Any                # int64 variable: steps done
    start_of_data: Any       # op: the batches begin with that of the step
    loss: Any                # float32: that of the whole batch, all devices'
    loss_with_decay: Any
    rate: Any                # float32: the learning rate
    update: Any              # op: one step
    stop_asked: Any          # int64 placeholder: whether this host was asked to stop
    stops_asked: Any         # ... and its sum over all devices
    ema: dict                # name of a variable -> the variable that holds its moving average
    start_of_ema: Any        # op: the EMA begins at the variables' values
    histograms: Any          # summary, or None
    evaluated: Any           # uint8 placeholder [batch, height, width, channels]
    probabilities: Any       # float32 [batch, height, width, classes] of it


def augmented_batches(args, crop_size, tile_set, step, part=(0, 1)):
    """What `training_batches` gives, augmented as the flags say. crop_size: pixels."""
    augment = functools.partial(
        augment_online, crop_size=crop_size, scale_range=args.scale_range,
        jitter=args.colour_jitter) if args.augment_online else None
    return training_batches(tile_set, args.batch_size, args.seed, step, part, augment)


def build_graph(args, settings, tile_set, devices):
    """The Graph: batches, forward pass, loss and update, and the model in evaluation.

    args: train.py's flags. settings: RunSettings. tile_set: TileSet. devices: Devices.
    """
    config = settings.model
    step = tf.train.get_or_create_global_step()
    images, labels, start_of_data = augmented_batches(
        args, settings.crop_size, tile_set, step, (devices.host, devices.hosts))
    loss_options = losses.LossOptions(
        args.loss, class_weights(args.class_weights, tile_set), args.hard_pixels,
        args.label_smoothing, args.focal_gamma)
    stop_asked = tf.placeholder_with_default(tf.zeros([], tf.int64), [])

    def train_on_one_device():
        own_images, own_labels = part_of_batch(devices, images, labels)
        logits, _ = deeplab_v3(
            own_images, config, BatchNorm(True, args.batch_norm_decay, sync=args.sync_batch_norm),
            freeze_batch_norm=args.freeze_batch_norm, precision=args.precision,
            dropout=Dropout(tf.stack([tf.constant(args.seed, tf.int64), step]), device_number()))
        loss = losses.segmentation_loss(logits, own_labels, loss_options, all_reduce_sum)
        loss_with_decay = loss + optimizer.weight_decay_loss(args.weight_decay)
        rate = optimizer.learning_rate(step, args.learning_rate, args.steps, args.schedule,
                                       args.power)
        groups = optimizer.variable_groups(config.backbone, args.backbone_lr_factor,
                                           args.freeze_batch_norm)
        update = optimizer.train_op(loss_with_decay, args.optimizer, rate, args.momentum, step,
                                    groups, args.histograms, args.precision)
        return {"loss": loss, "loss_with_decay": loss_with_decay, "rate": rate, "update": update,
                "stops_asked": all_reduce_sum(stop_asked)}

    trained = on_each(devices, train_on_one_device)
    averages, start_of_ema = {}, tf.no_op()
    if args.ema:
        trained["update"], averages, start_of_ema = ema.keep_averages(
            trained["update"], model_variables(), args.ema, step)

    evaluated = tf.placeholder(tf.uint8, [None, None, None, config.in_channels], "evaluated")
    with ema.using_averages(averages):
        logits, _ = deeplab_v3(evaluated, config, precision=args.precision)
    return Graph(step=step, start_of_data=start_of_data, **trained, stop_asked=stop_asked,
                 ema=averages, start_of_ema=start_of_ema, histograms=tf.summary.merge_all(),
                 evaluated=evaluated, probabilities=tf.nn.softmax(logits))


def main():
    args, defaults = parse_arguments()
    leave_on_signals()
    if args.list:
        print(format_runs(args.logs))
        return 0
    devices = choose_devices(args.devices, args.batch_size, args.slurm)
    if not devices.is_chief:
        sys.stdout = open(os.devnull, "w")  # only the chief tells, and only it writes
    name = args.run or new_run_name(args.backbone, args.seed)
    with held_run(args.logs, name, devices.is_chief) as run:
        return start_or_resume(args, defaults, run, devices)


def start_or_resume(args, defaults, run, devices):
    """Trains `run`, a folder, on `devices`. Returns the exit status."""
    tile_set = TileSet(args.dataset, read_classes(args.classes))
    before = settings_to_resume(run)
    if before and args.precision == AUTO:
        args.precision = before.recipe.get("precision", FLOAT32)
    held_out = read_held_out(args, tile_set, args.crop_size or tile_set.tile_size,
                             args.batch_size // devices.count)
    settings = choose_settings(args, tile_set, held_out.names, before)
    if not before or devices.count > 1:  # a run of an earlier version goes on with one tile
        check_batch_norm(devices, args.batch_size, args.sync_batch_norm)
    check_memory(settings.model, args.batch_size // devices.hosts, settings.crop_size, True,
                 "lower --batch_size or --crop_size")
    weights = None
    if before:
        check_same_settings(run, settings, defaults | {"precision": FLOAT32})
    elif args.pretrained != "none":
        weights = pretrained.read_pretrained(args.pretrained, settings.model)
    elif args.freeze_batch_norm:
        raise ValueError("--freeze_batch_norm: random weights have no statistics to freeze; leave "
                         "it out or name weights with --pretrained")
    if args.precision == AUTO:
        args.precision = settings.recipe["precision"] = precision_of_training(
            settings, args.batch_size, args.steps, devices)

    with session_on(devices) as session:
        tf.set_random_seed(args.seed)
        graph = build_graph(args, settings, tile_set, devices)
        latest, step = latest_checkpoints(run), 0
        with starting_together(devices, run):
            session.run(tf.global_variables_initializer())
            if before:
                step = latest.restore(session)
                told = f"resumed at step {step}"
            else:
                told = "random weights" if weights is None else pretrained.assign_weights(
                    session, weights, args.backbone, args.pretrained)
                session.run(graph.start_of_ema)
            print(f"{run}: {told}")
            check_alike(devices, session, graph, settings.to_json(), tile_set)
        chief = None
        if devices.is_chief:
            settings.write(run)
            append_start(run, step, describe_environment() | {
                "training_scenes": sorted(set(tile_set.training.get("scene", ())))})
            evaluator = Evaluator(session, graph, tile_set, held_out, settings.crop_size,
                                  args.batch_size // devices.count)
            chief = Chief(args, session, graph, run, settings, latest, evaluator)
        with contextlib.closing(chief) if chief else contextlib.nullcontext():
            return train(args, session, graph, run, tile_set, devices, chief)


def choose_settings(args, tile_set, held_out, before):
    """The RunSettings that the flags describe. held_out: names of scenes. before: those of the run
    that is resumed, or None: its weights come from where they came from, whatever --pretrained
    says now."""
    crop_size = args.crop_size or tile_set.tile_size
    check_crop(tile_set.tile_size, crop_size, args.augment_online, args.scale_range)
    recipe = recipe_of(vars(args), tile_set.fingerprint)
    if before:
        padding = before.model.pool1_padding
        recipe["pretrained"] = before.recipe.get("pretrained")
    else:
        padding = pretrained.pool1_padding(args.pretrained, args.backbone)
    config = ModelConfig(
        num_classes=len(tile_set.table), backbone=args.backbone, output_stride=args.output_stride,
        multi_grid=args.multi_grid, decoder=args.decoder, separable=args.separable,
        width=args.width, pool1_padding=padding, in_channels=tile_set.channels)
    return RunSettings(config, tile_set.table, crop_size, held_out, recipe,
                       **tile_set.noted_bands)


def train(args, session, graph, run, tile_set, devices, chief):
    """The loop, from the graph's step to --steps. Returns the exit status.

    chief: what the first host does beside the steps; None on the others.
    """
    step = int(session.run(graph.step))
    session.run(graph.start_of_data)
    asked, stopped = stop_event(), False
    if chief:
        chief.catch_up(step, is_evaluated(args, step), asked)
    while step < args.steps and not (asked.is_set() if devices.hosts == 1 else stopped):
        fetches = {name: getattr(graph, name) for name in (
            "update", "loss", "loss_with_decay", "rate", "stops_asked")}
        if chief and args.histograms and is_evaluated(args, step + 1):
            fetches["histograms"] = graph.histograms
        try:
            with cluster.watched(devices.others, session.close):
                values = session.run(fetches, {graph.stop_asked: asked.is_set()})
        except tf.errors.OpError as error:
            kept = chief.kept if chief else "the chief keeps its last checkpoint"
            raise step_error(error, args, devices, tile_set,
                             f"at step {step + 1} of {run}; stopped, {kept}") from error
        step += 1
        # Several hosts stop after the same step: when all have heard that one was asked to.
        stopped = asked.is_set() if devices.hosts == 1 else values["stops_asked"] > 0
        if chief:
            chief.log(step, values)
            if step % args.save_every == 0 or step == args.steps:
                chief.save(step)
            if is_evaluated(args, step) and not stopped:
                chief.evaluate(step, asked)
    return 0 if (chief.finish(step) if chief else step == args.steps) else 130


def is_evaluated(args, step):
    """Whether the model is evaluated after so many steps."""
    return step > 0 and (step % args.test_display == 0 or step == args.steps)


if __name__ == "__main__":
    run_script(main)
