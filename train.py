"""Tiles -> checkpoint: trains Deeplab-v3 on the tiles that preprocess.py wrote.

python train.py --list shows the runs there are and their best scores.

Where the weights come from, in this order:
1. a run: --run NAME of a folder with a checkpoint resumes it, whatever --pretrained says;
2. pretrained: --pretrained imagenet, the path of a Keras .h5 or of a checkpoint of TF-slim or
   Deeplab's model zoo (the backbone's weights), or the folder of another run of train.py (all
   weights, of its best checkpoint);
3. nothing: --pretrained none draws random weights.
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import argparse
import os
import sys
import threading
import time

import tensorflow.compat.v1 as tf

from deeplab_v3 import BACKBONES
from utils.data import tiles
from utils.distributed import cluster
from utils.training import evaluation, optimizer, pretrained, run_list, runs
from utils.data.augment_tf import check_crop
from utils.training.class_weights import CLASS_WEIGHTS, check_classes
from utils.classes import read_classes
from utils.cli import (argument_parser, non_negative, part_above_0, positive, probability,
                                progress, run_script, scale, share)
from utils.distributed.devices import check_alike, choose_devices, session_on
from utils.training.environment import describe_environment
from utils.training.tensorboard import EventWriter, finished_summary, settings_summary
from utils.training.losses import LOSSES
from utils.data.scenes import find_scenes, read_bands, read_scene
from utils.training.settings import check_same_settings, keep_start, run_settings
from utils.training.graph import run_step, training_graph


def parse_arguments():
    parser = argument_parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--logs", default="logs", help="folder of all runs, for tensorboard --logdir")
    add("--list", action="store_true", help="show the runs in --logs and their scores, and leave")
    add("--run", help="name of this run's folder; that of a run with a checkpoint resumes it; "
        "None makes a new name")
    add("--pretrained", default="imagenet", metavar="none|imagenet|PATH|RUN",
        help="first weights; PATH: of Keras's .h5 or a checkpoint of TF-slim or Deeplab's model "
        "zoo, for the backbone; RUN: the folder of another run, for the whole model (its last "
        "layer starts anew where the number of classes differs)")
    add("--freeze_batch_norm", action="store_true",
        help="keep all of the backbone's batch norm (statistics, gamma, beta) as pretrained; for "
        "small batches and small data sets")
    add("--backbone_lr_factor", type=above_zero, default=1.0, metavar="FACTOR",
        help="on the backbone's learning rate; .1 for small data sets")
    add("--steps", type=positive, default=50000, help="number of training steps")
    add("--batch_size", type=positive, default=16,
        help="tiles a step, of all devices together")
    add("--devices", type=positive, metavar="N",
        help="devices of this host; None: all GPUs seen, else the CPU. Without GPUs, N above 1 "
        "splits the CPU, for trying out. Several hosts: see TF_CONFIG in README.md, or --slurm")
    add("--slurm", type=port, nargs="?", const=cluster.SLURM_PORT, metavar="PORT",
        help="take the hosts from Slurm's variables, under srun; PORT is that of a node's first "
        f"task, {cluster.SLURM_PORT} if not said")
    add("--sync_batch_norm", action="store_true",
        help="batch statistics of all devices' tiles, not of each device's own")
    add("--optimizer", choices=optimizer.OPTIMIZERS, default="adam",
        help="the original's adam; the paper's momentum")
    add("--learning_rate", type=above_zero, default=2e-4, help="at the start; the paper's is .007")
    add("--schedule", choices=optimizer.SCHEDULES, default="step",
        help="step: divided by 10 at 60%% and 80%% of the steps (the original); poly: the paper's")
    add("--power", type=non_negative, default=0.9, help="of the poly schedule")
    add("--momentum", type=probability, default=0.9, help="of the momentum optimizer")
    add("--weight_decay", type=non_negative, default=5e-4,
        help="on convolution weights; the paper's is 1e-4")
    add("--loss", choices=LOSSES, default="cross_entropy",
        help="focal turns to pixels that are not learned yet, dice_cross_entropy to small classes")
    add("--focal_gamma", type=above_zero, default=2.0, help="exponent of the focal loss")
    add("--class_weights", choices=CLASS_WEIGHTS, default="none",
        help="of rare classes more, by the class frequencies that preprocess.py wrote")
    add("--hard_pixels", type=part_above_0, default=1.0, metavar="SHARE",
        help="of each tile's pixels only the hardest count; 1: all")
    add("--label_smoothing", type=share, default=0.0, metavar="SHARE",
        help="of a label that goes to all classes alike")
    add("--ema", type=share, default=0.0, metavar="DECAY",
        help="of the moving average of the weights that is evaluated, kept as the best and used by "
        "predict.py; .99 for a thousand steps, .999 and more for long runs; 0: no average")
    add("--backbone", choices=list(BACKBONES), default="resnet_v2_50", help="below the ASPP")
    add("--output_stride", type=int, choices=(8, 16), default=16, help="pixels to a feature")
    add("--multi_grid", type=positive, nargs=3, metavar="RATE",
        help="factors on the atrous rate of the last block's three units or, of Xception, "
        "convolutions; None: 1 2 4, of Xception 1 1 1")
    add("--width", type=scale, default=1.0, metavar="FACTOR",
        help="on the backbone's numbers of filters; .5 for laptops, without pretrained weights")
    add("--decoder", action="store_true",
        help="refine edges by features of stride 4: Deeplab-v3+ instead of Deeplab-v3")
    add("--batch_norm_decay", type=probability, default=0.99,
        help="of the moving statistics; .997 and more suit only runs of many thousand steps")
    add("--precision", choices=("float32", "bfloat16"), default="float32",
        help="of the convolutions; variables, loss and batch statistics are float32 always")
    add("--augment_online", action="store_true",
        help="cut, turn, mirror and colour every tile anew in each epoch; for plain tiles "
        "(preprocess.py --no_augment)")
    add("--crop_size", type=positive, metavar="PIXELS",
        help="side of the crops that --augment_online cuts from larger tiles; None means whole "
        "tiles")
    add("--scale_range", type=scale, nargs=2, default=[1.0, 1.0], metavar=("LOW", "HIGH"),
        help="--augment_online scales tiles by a factor from it; the paper's is .5 2")
    add("--colour_jitter", type=share, default=0.2, metavar="SHARE",
        help="--augment_online changes brightness, contrast and saturation by up to this share")
    add("--test_display", type=positive, default=500, metavar="STEPS",
        help="steps between evaluations on validation tiles and the held-out scene")
    add("--save_every", type=positive, default=500, metavar="STEPS",
        help="steps between checkpoints")
    add("--summary_every", type=positive, default=20, metavar="STEPS",
        help="steps between points of the curves")
    add("--histograms", action="store_true",
        help="of weights and gradients, every --test_display steps, for TensorBoard")
    return parser.parse_args()


def above_zero(text):
    """argparse type: a finite float above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def port(text):
    """argparse type: the number of a port that needs no rights."""
    value = int(text)
    if not 1024 <= value < 65536:
        raise argparse.ArgumentTypeError(f"{text} is not from 1024 to 65535")
    return value


def main():
    args = parse_arguments()
    if args.list:
        print(run_list.format_runs(args.logs))
        return 0
    devices = choose_devices(args.devices, args.batch_size, args.slurm)
    chief = devices.host == 0
    if not chief:
        sys.stdout = open(os.devnull, "w")  # only the chief tells, and only it writes
    run = os.path.join(args.logs, args.run or runs.new_run_name(args.backbone, args.seed))
    runs.check_writable(run)
    table = read_classes(args.classes)
    check_classes(args.dataset, table)
    training = tiles.read_tile_list(args.dataset)
    validation = tiles.read_tile_list(args.dataset, tiles.VALIDATION_LIST)
    tile_size = min(tiles.read_tile(next(training.itertuples()), table)[1].shape)
    crop_size = args.crop_size or tile_size
    check_crop(tile_size, crop_size, args.augment_online, args.scale_range)
    held_out = read_held_out(args, table, training)
    resumes = runs.has_checkpoint(run)
    origin = None if resumes else pretrained.origin_of(args.pretrained, args.backbone)
    settings = run_settings(args, table, crop_size, origin)
    if args.freeze_batch_norm and not (resumes or origin):
        raise ValueError("--freeze_batch_norm: random weights have no statistics to freeze; leave "
                         "it out or name weights with --pretrained")
    if resumes:
        keep_start(run, settings)
        check_same_settings(run, settings)
    weights = origin and pretrained.read_pretrained(args.pretrained, settings["model"])

    with session_on(devices) as session:
        tf.set_random_seed(args.seed)
        model = training_graph(args, settings["model"], training, devices, crop_size)
        savers = {runs.NEWEST: runs.newest_saver(), runs.BEST: runs.best_saver(model["averages"])}
        session.run(tf.global_variables_initializer())
        step = 0
        if resumes:
            checkpoint, step = runs.find_checkpoint(run, runs.NEWEST)
            runs.restore(session, savers[runs.NEWEST], checkpoint)
            print(f"{run}: resumed at step {step}")
        elif weights:
            print(f"{run}: "
                  + pretrained.assign_weights(session, weights, args.backbone, args.pretrained))
        else:
            print(f"{run}: random weights")
        if not resumes:
            session.run(model["start_of_averages"])
        check_alike(devices, session, model, settings, training)
        if not chief:
            return follow(args, session, model, run, training, table, devices)
        runs.write_settings(run, settings)
        runs.append_start(run, step, describe_environment())
        writer = EventWriter(run, step + 1, None if step else session.graph)
        writer.add_summary(settings_summary(settings), step)

        def evaluate(step):
            return evaluation.write_evaluation(session, model, writer, step, table, validation,
                                               held_out, crop_size,
                                               args.batch_size // devices.count)

        return train(args, session, model, savers, run, writer, evaluate, training, table,
                     devices)


def read_held_out(args, table, training):
    """(image, label) of the scene that is only watched, or None where it is not there."""
    if args.test_scene in set(training.get("scene", [])):
        print(f"warning: scene {args.test_scene} is in the training tiles, so its scores are not "
              "those of a held-out scene; give --test_scene as to preprocess.py")
    origin = args.origin or os.path.join(args.dataset, "origin")
    try:
        return read_scene(find_scenes(origin)[args.test_scene], table, **read_bands(args.dataset))
    except (FileNotFoundError, KeyError):
        print(f"{origin}: no labelled scene {args.test_scene}; training without watching it")
        return None


def follow(args, session, model, run, training, table, devices):
    """The loop of a host that is not the chief: steps only. Returns the exit status."""
    step = int(session.run(model["step"]))
    session.run(model["start_of_data"])
    asked, stopped = runs.stop_event(), False
    fetches = {name: model[name] for name in ("update", "all_said")}
    while step < args.steps and not stopped:
        values = run_step(args, session, fetches, {model["said"]: asked.is_set()}, run, step,
                          "the chief keeps its last checkpoint", training, table, devices)
        stopped = values["all_said"] > 0
        step += 1
    return 0 if step == args.steps else 130


def train(args, session, model, savers, run, writer, evaluate, training, table, devices):
    """The loop, from the graph's step to --steps. Returns the exit status."""
    step = saved = int(session.run(model["step"]))
    session.run(model["start_of_data"])
    asked = runs.stop_event()
    # Several hosts stop after the same step: when all have heard that one was asked to.
    stop = asked if devices.hosts == 1 else threading.Event()
    # What an attempt left that never came to a checkpoint may be of other settings.
    best = (runs.read_best_score(run) if step else None) or {}
    if is_evaluated(args, step) and best.get("evaluated", 0) < step:
        # The run was stopped between saving and evaluating.
        evaluation.keep_best(session, savers[runs.BEST], run, writer, step, evaluate(step), best)
    fetches = {name: model[name] for name in ("loss", "total", "rate", "update", "all_said")}
    bar = progress(args.steps, "step", "training", initial=step)
    images, seconds = 0, 0.0
    while step < args.steps and not stop.is_set():
        watched = {"histograms": model["histograms"]} if (
            args.histograms and is_evaluated(args, step + 1)) else {}
        began = time.perf_counter()
        kept = f"the checkpoint of step {saved} is kept" if saved else "nothing was saved yet"
        values = run_step(args, session, fetches | watched, {model["said"]: asked.is_set()}, run,
                          step, kept, training, table, devices)
        if values["all_said"]:
            stop.set()
        seconds += time.perf_counter() - began
        images += args.batch_size
        step += 1
        bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
        bar.update()
        if step % args.summary_every == 0:
            writer.add_summary(evaluation.scalar_summary({
                f"loss/{args.loss}": values["loss"], "loss/with_weight_decay": values["total"],
                "training/learning_rate": values["rate"],
                "training/images_per_second": images / seconds}), step)
            images, seconds = 0, 0.0
        if watched:
            writer.add_summary(values["histograms"], step)
        if step % args.save_every == 0 or step == args.steps:
            runs.save(session, savers[runs.NEWEST], run, runs.NEWEST, step)
            saved = step
        if is_evaluated(args, step) and not stop.is_set():
            evaluation.keep_best(session, savers[runs.BEST], run, writer, step, evaluate(step),
                                 best)
    bar.close()
    if saved < step:
        runs.save(session, savers[runs.NEWEST], run, runs.NEWEST, step)
    if step == args.steps:
        writer.add_summary(finished_summary(), step)
    writer.close()
    if step < args.steps:
        print(f"{run}: stopped and saved at step {step}; the same command with --run "
              f"{os.path.basename(run)} goes on from there")
        return 130
    score = best.get("mean_iou")
    print(f"{run}: done" if score is None else
          f"{run}: done; best mean-IoU on the validation tiles {score:.4f}")
    return 0


def is_evaluated(args, step):
    """Whether the model is evaluated after so many steps."""
    return step > 0 and (step % args.test_display == 0 or step == args.steps)


if __name__ == "__main__":
    run_script(main)
