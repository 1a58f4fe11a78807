"""Tiles -> checkpoint: trains Deeplab-v3 on the tiles that preprocess.py wrote.

python train.py --list shows the runs there are and their best scores.

Where the weights come from, in this order:
1. a run: --run NAME of a folder with a checkpoint resumes it, whatever --pretrained says;
2. ImageNet: --pretrained imagenet, or the path of a Keras .h5 or TF-slim checkpoint;
3. nothing: --pretrained none draws random weights.
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import argparse
import os
import time

import tensorflow.compat.v1 as tf

from deeplab_v3 import BACKBONES
from utils import evaluation, optimisation, pretrained, run_list, runs, tiles
from utils.classes import read_classes
from utils.command_line import (argument_parser, non_negative, positive, probability, progress,
                                run_script)
from utils.environment import describe_environment
from utils.event_files import EventWriter, finished_summary, settings_summary
from utils.scenes import find_scenes, read_bands, read_scene
from utils.settings import check_same_settings, keep_start, run_settings
from utils.training import training_graph


def parse_arguments():
    parser = argument_parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--logs", default="logs", help="folder of all runs, for tensorboard --logdir")
    add("--list", action="store_true", help="show the runs in --logs and their scores, and leave")
    add("--run", help="name of this run's folder; that of a run with a checkpoint resumes it; "
        "None makes a new name")
    add("--pretrained", default="imagenet", metavar="none|imagenet|PATH",
        help="first weights of the backbone; PATH: a Keras ResNet50V2 .h5 or a TF-slim checkpoint")
    add("--steps", type=positive, default=50000, help="number of training steps")
    add("--batch_size", type=positive, default=16, help="tiles a step")
    add("--optimizer", choices=optimisation.OPTIMIZERS, default="adam",
        help="the original's adam; the paper's momentum")
    add("--learning_rate", type=above_zero, default=2e-4, help="at the start; the paper's is .007")
    add("--schedule", choices=optimisation.SCHEDULES, default="step",
        help="step: divided by 10 at 60%% and 80%% of the steps (the original); poly: the paper's")
    add("--power", type=non_negative, default=0.9, help="of the poly schedule")
    add("--momentum", type=probability, default=0.9, help="of the momentum optimizer")
    add("--weight_decay", type=non_negative, default=5e-4,
        help="on convolution weights; the paper's is 1e-4")
    add("--backbone", choices=list(BACKBONES), default="resnet_v2_50", help="below the ASPP")
    add("--output_stride", type=int, choices=(8, 16), default=16, help="pixels to a feature")
    add("--multi_grid", type=positive, nargs=3, default=(1, 2, 4), metavar="RATE",
        help="factors on the atrous rate of the last block's units")
    add("--batch_norm_decay", type=probability, default=0.99,
        help="of the moving statistics; .997 and more suit only runs of many thousand steps")
    add("--precision", choices=("float32", "bfloat16"), default="float32",
        help="of the convolutions; variables, loss and batch statistics are float32 always")
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


def main():
    args = parse_arguments()
    if args.list:
        print(run_list.format_runs(args.logs))
        return 0
    run = os.path.join(args.logs, args.run or runs.new_run_name(args.backbone, args.seed))
    runs.check_writable(run)
    table = read_classes(args.classes)
    training = tiles.read_tile_list(args.dataset)
    validation = tiles.read_tile_list(args.dataset, tiles.VALIDATION_LIST)
    tile_size = tiles.read_tile(next(training.itertuples()), table)[0].shape[0]
    held_out = read_held_out(args, table)
    resumes = runs.has_checkpoint(run)
    origin = None if resumes else pretrained.origin_of(args.pretrained)
    settings = run_settings(args, table, tile_size, origin)
    if resumes:
        keep_start(run, settings)
        check_same_settings(run, settings)
    weights = pretrained.read_pretrained(args.pretrained) if origin else None

    with (tf.Graph().as_default(),
          tf.Session(config=optimisation.repeatable_config()) as session):
        tf.set_random_seed(args.seed)
        model = training_graph(args, settings["model"], training)
        savers = {runs.NEWEST: runs.newest_saver(), runs.BEST: runs.best_saver()}
        session.run(tf.global_variables_initializer())
        step = 0
        if resumes:
            checkpoint, step = runs.find_checkpoint(run, runs.NEWEST)
            runs.restore(session, savers[runs.NEWEST], checkpoint)
            print(f"{run}: resumed at step {step}")
        elif weights:
            left_out = pretrained.assign_backbone(session, weights, args.backbone, args.pretrained)
            print(f"{run}: backbone from {args.pretrained}; not used: "
                  f"{', '.join(left_out) or 'nothing'}")
        else:
            print(f"{run}: random weights")
        runs.write_settings(run, settings)
        runs.append_start(run, step, describe_environment())
        writer = EventWriter(run, step + 1, None if step else session.graph)
        writer.add_summary(settings_summary(settings), step)

        def evaluate(step):
            return evaluation.write_evaluation(session, model, writer, step, table, validation,
                                               held_out, tile_size, args.batch_size)

        return train(args, session, model, savers, run, writer, evaluate, training, table)


def read_held_out(args, table):
    """(image, label) of the scene that is only watched, or None where it is not there."""
    origin = args.origin or os.path.join(args.dataset, "origin")
    try:
        return read_scene(find_scenes(origin)[args.test_scene], table, **read_bands(args.dataset))
    except (FileNotFoundError, KeyError):
        print(f"{origin}: no labelled scene {args.test_scene}; training without watching it")
        return None


def train(args, session, model, savers, run, writer, evaluate, training, table):
    """The loop, from the graph's step to --steps. Returns the exit status."""
    step = saved = int(session.run(model["step"]))
    session.run(model["start_of_data"])
    stop = runs.stop_event()
    # What an attempt left that never came to a checkpoint may be of other settings.
    best = (runs.read_best_score(run) if step else None) or {}
    if is_evaluated(args, step) and best.get("evaluated", 0) < step:
        # The run was stopped between saving and evaluating.
        evaluation.keep_best(session, savers[runs.BEST], run, writer, step, evaluate(step), best)
    fetches = {name: model[name] for name in ("loss", "total", "rate", "update")}
    bar = progress(args.steps, "step", "training", initial=step)
    images, seconds = 0, 0.0
    while step < args.steps and not stop.is_set():
        watched = {"histograms": model["histograms"]} if (
            args.histograms and is_evaluated(args, step + 1)) else {}
        began = time.perf_counter()
        try:
            values = session.run(fetches | watched)
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(f"{args.batch_size} tiles a step do not fit into the device's "
                              "memory; lower --batch_size") from error
        except tf.errors.OpError as error:
            if optimisation.NOT_FINITE not in error.message:
                tiles.name_faulty_tile(training, table)
                raise ValueError(f"{run}: TensorFlow stopped at step {step + 1}: "
                                 f"{runs.error_reason(error)}") from error
            kept = f"the checkpoint of step {saved} is kept" if saved else "nothing was saved yet"
            raise ValueError(f"{run}: loss or gradient is not finite at step {step + 1}; stopped, "
                             f"{kept}; try a lower --learning_rate") from error
        seconds += time.perf_counter() - began
        images += args.batch_size
        step += 1
        bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
        bar.update()
        if step % args.summary_every == 0:
            writer.add_summary(evaluation.scalar_summary({
                "loss/cross_entropy": values["loss"], "loss/with_weight_decay": values["total"],
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
