"""Images per second of training: the bare step, the step fed from disk, and all of train.py.

Run as: python -m benchmarks.train_speed --dataset dataset/demo
        python -m benchmarks.train_speed --dataset dataset/demo --peer /path/to/python

bare      the step on one batch that stays in memory: the ceiling
fed       the same step on train.py's own batches, read from disk and decoded
train.py  all of train.py: a step with its curves and progress; what a checkpoint and an evaluation
          cost is measured beside it and spread over the intervals that train.py has by default
peer      torchvision's deeplabv3_resnet50 at the same output stride, batch and precision, by a
          Python that has torch and torchvision

All take turns within a round; ratios are medians of each round's ratio. The peak is the rate of a
large matrix multiplication in the same precision, measured here; a step's operations are counted
by TensorFlow's profiler.
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import contextlib
import io
import subprocess
import sys
import tempfile
import time
from unittest import mock

import numpy as np
import pandas as pd
import tensorflow.compat.v1 as tf

import train
from utils.data.tiles import TileSet
from utils.classes import read_classes
from utils.cli import argument_parser, positive, run_script
from utils.distributed.devices import choose_devices, session_on
from utils.training.settings import run_settings
from utils.training.graph import training_graph

PRECISIONS = ("float32", "bfloat16")
WARM_UP = 2
MATRIX = 4096


def train_arguments(arguments, precision, *more):
    """Patches the command line to train.py's, so that its own flags and defaults are measured."""
    return mock.patch.object(sys, "argv", [
        "train.py", "--dataset", arguments.dataset, "--pretrained", "none", "--batch_size",
        str(arguments.batch_size), "--precision", precision, "--seed", str(arguments.seed), *more])


def build_step(stack, arguments, precision, batch=None):
    """(function that trains for a number of steps, operations of a step or None).

    batch: (images, labels) to train on again and again; None means train.py's own batches.
    """
    tile_set = TileSet(arguments.dataset, read_classes(arguments.classes))
    with train_arguments(arguments, precision), contextlib.ExitStack() as patches:
        args = train.parse_arguments()
        if batch:
            patches.enter_context(mock.patch(
                "train.training_batches",
                lambda *_, **__: (*map(tf.constant, batch), tf.no_op())))
        devices = choose_devices(None, args.batch_size)
        session = stack.enter_context(session_on(devices))
        tf.set_random_seed(args.seed)
        settings = run_settings(args, read_classes(args.classes), arguments.tile_size, None)
        model = training_graph(args, settings["model"], tile_set, devices, arguments.tile_size)
        session.run(tf.global_variables_initializer())
        session.run(model["start_of_data"])
        operations = count_operations(session.graph) if batch else None

    def run(steps):
        for _ in range(steps):
            session.run([model[name] for name in ("loss", "total", "rate", "update")])

    run(WARM_UP)
    return run, operations


def count_operations(graph):
    """Floating-point operations of a training step, a multiplication and an addition being two."""
    counted = tf.profiler.ProfileOptionBuilder.float_operation()
    counted.update(output="none", min_float_ops=1)
    return tf.profiler.profile(graph, cmd="op", options=counted).total_float_ops


class _Clock:
    """Stands in for train.py's progress bar: notes when each step was done."""

    def __init__(self):
        self.times = [time.perf_counter()]

    def update(self, *_):
        self.times.append(time.perf_counter())

    def set_postfix(self, *_, **__):
        pass

    def close(self):
        self.update()


def seconds_of_train(arguments, precision):
    """Seconds of train.py for a step, a checkpoint and an evaluation, as a dict."""
    clock, steps = _Clock(), arguments.steps
    saved, evaluated = steps // 3, steps // 3 * 2
    with (tempfile.TemporaryDirectory() as logs,
          train_arguments(arguments, precision, "--logs", logs, "--run", "speed", "--steps",
                          str(steps), "--save_every", str(saved), "--test_display",
                          str(evaluated)),
          mock.patch("train.progress", lambda *_, **__: clock),
          contextlib.redirect_stdout(io.StringIO())):
        train.main()
    # seconds[i] is what passed between the ends of steps i and i + 1: what follows a step, too.
    seconds = np.diff(clock.times)
    special = {saved, evaluated, steps}
    step = np.mean([seconds[i] for i in range(WARM_UP, steps) if i not in special])
    checkpoint = max(0, seconds[saved] - step)
    # At `evaluated` a checkpoint of the newest and one of the best are saved besides.
    return {"step": step, "checkpoint": checkpoint,
            "evaluation": max(0, seconds[evaluated] - step - checkpoint)}


def seconds_of_peer(arguments, precision):
    """Seconds of a step of torchvision's model."""
    done = subprocess.run([arguments.peer, "-m", "benchmarks.torch_peer", precision,
                           *map(str, (arguments.batch_size, arguments.tile_size, arguments.steps))],
                          text=True, capture_output=True, check=True)
    return arguments.batch_size / float(done.stdout)


def measured_peak(precision):
    """Floating-point operations a second of a large matrix multiplication."""
    with tf.Graph().as_default(), tf.Session() as session:
        matrix = tf.cast(tf.get_variable("matrix", [MATRIX, MATRIX]), precision)
        # Chained, so that one call is long; a sum, so that the result stays inside.
        product = tf.reduce_sum(tf.cast(matrix @ matrix @ matrix @ matrix, tf.float32))
        session.run(tf.global_variables_initializer())
        session.run(product)
        best = min(timed(lambda: session.run(product)) for _ in range(3))
    return 3 * 2 * MATRIX**3 / best


def timed(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(arguments, precision, batch):
    """Prints the table of one precision."""
    peak = measured_peak(precision)
    steps, rounds, costs = arguments.steps, [], []
    with contextlib.ExitStack() as stack:
        bare, operations = build_step(stack, arguments, precision, batch)
        fed, _ = build_step(stack, arguments, precision)
        for _ in range(arguments.rounds):
            cost = seconds_of_train(arguments, precision)
            rounds.append({"bare": timed(lambda: bare(steps)) / steps,
                           "fed": timed(lambda: fed(steps)) / steps, "train.py": cost["step"]})
            costs.append(cost)
            if arguments.peer:
                rounds[-1]["peer"] = seconds_of_peer(arguments, precision)
    seconds, cost = pd.DataFrame(rounds), pd.DataFrame(costs).median()
    with train_arguments(arguments, precision):
        defaults = train.parse_arguments()
    spread = cost["checkpoint"] / defaults.save_every
    with_checkpoints = 100 * (seconds["bare"] / (seconds["train.py"] + spread)).median()
    spread += cost["evaluation"] / defaults.test_display
    with_all = 100 * (seconds["bare"] / (seconds["train.py"] + spread)).median()
    table = pd.DataFrame({
        "images/s": arguments.batch_size / seconds.median(),
        "% of bare": 100 * seconds.rdiv(seconds["bare"], axis=0).median(),
        "% of peak": 100 * operations / peak / seconds.median()})
    print(f"{precision}: {operations / 1e9:.0f} GFLOP a step, peak {peak / 1e9:.0f} GFLOP/s")
    print(table.round({"images/s": 2, "% of bare": 1, "% of peak": 1}).to_string())
    print(f"a checkpoint {cost['checkpoint']:.1f} s, an evaluation {cost['evaluation']:.1f} s: "
          f"with checkpoints {with_checkpoints:.1f}% of bare, with both {with_all:.1f}%",
          flush=True)


def main():
    parser = argument_parser(__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=positive, default=4)
    parser.add_argument("--steps", type=positive, default=15, help="of each way, in each round")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--peer", metavar="PYTHON", help="one that has torch and torchvision")
    arguments = parser.parse_args()
    tile_set = TileSet(arguments.dataset, read_classes(arguments.classes))
    rows = tile_set.training.head(arguments.batch_size).itertuples()
    batch = tuple(map(np.stack, zip(*map(tile_set.read_tile, rows))))
    arguments.tile_size = batch[0].shape[1]
    print(f"batches of {arguments.batch_size} tiles of {arguments.tile_size} pixels; "
          f"{arguments.rounds} rounds of {arguments.steps} steps")
    for precision in PRECISIONS:
        measure(arguments, precision, batch)


if __name__ == "__main__":
    run_script(main)
