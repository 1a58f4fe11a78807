"""Images per second of training: the bare step, the step fed from disk, and all of train.py.

Run as: python -m benchmarks.train_speed --dataset dataset/demo
        python -m benchmarks.train_speed --dataset dataset/demo --peer /path/to/python
        python -m benchmarks.train_speed --dataset dataset/demo --code . /path/to/another/checkout

bare      forward pass, loss and update with train.py's defaults, on one batch that stays in memory:
          the ceiling
fed       the same step on train.py's own batches, read from disk and decoded
train.py  a process of train.py: a step with its curves and progress, by the times in its event
          file; --code names checkouts of this repository and --flags more flags, each of which
          takes its turn
peer      torchvision's deeplabv3_resnet50 at the same output stride, batch and precision, by a
          Python that has torch and torchvision

All take turns within a round; ratios are medians of each round's ratio. The peak is the rate of a
large matrix multiplication in the same precision, measured here; a step's operations are counted
by TensorFlow's profiler.
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import contextlib
import os
import subprocess
import tempfile
import time

import numpy as np
import pandas as pd
import tensorflow.compat.v1 as tf

from benchmarks.shared import call, event_files, failure, python, read_events
from deeplab_v3 import Dropout, ModelConfig, deeplab_v3
from utils.classes import read_classes
from utils.cli import argument_parser, positive, run_script
from utils.data.input_pipeline import training_batches
from utils.data.tiles import TileSet
from utils.layers import BatchNorm
from utils.training import losses, optimizer

PRECISIONS = ("float32", "bfloat16")
WARM_UP = 2
MATRIX = 4096


def build_step(stack, tile_set, batch_size, precision, batch=None):
    """(function that trains for a number of steps, operations of a step).

    batch: (images, labels) to train on again and again; None means train.py's own batches.
    """
    stack.enter_context(tf.Graph().as_default())
    session = stack.enter_context(tf.Session(config=optimizer.repeatable_config()))
    step = tf.train.get_or_create_global_step()
    if batch:
        images, labels, start_of_data = *map(tf.constant, batch), tf.no_op()
    else:
        images, labels, start_of_data = training_batches(tile_set, batch_size, 0, step)
    logits, _ = deeplab_v3(
        images, ModelConfig(len(tile_set.table)), BatchNorm(True), precision=precision,
        dropout=Dropout(tf.stack([tf.constant(0, tf.int64), step])))
    loss = losses.segmentation_loss(logits, labels)
    update = optimizer.train_op(loss + optimizer.weight_decay_loss(5e-4), "adam",
                                tf.constant(2e-4), 0.9, step)
    session.run(tf.global_variables_initializer())
    session.run(start_of_data)

    def run(steps):
        for _ in range(steps):
            session.run([loss, update])

    run(WARM_UP)
    return run, count_operations(session.graph)


def count_operations(graph):
    """Floating-point operations of a training step, a multiplication and an addition being two."""
    counted = tf.profiler.ProfileOptionBuilder.float_operation()
    counted.update(output="none", min_float_ops=1)
    return tf.profiler.profile(graph, cmd="op", options=counted).total_float_ops


def seconds_of_train(folder, flags, arguments, precision):
    """Seconds of a step of train.py in the checkout `folder`, with more `flags`."""
    with tempfile.TemporaryDirectory() as logs:
        command = python(
            "train.py", "--dataset", os.path.abspath(arguments.dataset), "--classes",
            os.path.abspath(arguments.classes), "--logs", logs, "--run", "speed", "--pretrained",
            "none", "--batch_size", arguments.batch_size, "--precision", precision, "--steps",
            arguments.steps + WARM_UP, "--summary_every", 1, *flags.split())
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(failure(folder, done.returncode, done.stdout + done.stderr))
        times = [event.wall_time for event in read_events(event_files(os.path.join(logs, "speed")))
                 if any(v.tag == "training/images_per_second" for v in event.summary.value)]
    return float(np.mean(np.diff(times)[WARM_UP - 1:]))


def seconds_of_peer(arguments, precision):
    """Seconds of a step of torchvision's model."""
    output = call("torchvision", "-m benchmarks.torch_peer", precision, arguments.batch_size,
                  arguments.tile_size, arguments.steps, interpreter=arguments.peer)
    return arguments.batch_size / float(output)


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


def measure(arguments, precision, tile_set, batch):
    """Prints the table of one precision."""
    peak = measured_peak(precision)
    steps, rounds = arguments.steps, []
    with contextlib.ExitStack() as stack:
        bare, operations = build_step(stack, tile_set, arguments.batch_size, precision, batch)
        fed, _ = build_step(stack, tile_set, arguments.batch_size, precision)
        for _ in range(arguments.rounds):
            seconds = {f"{folder}: train.py {flags}": seconds_of_train(
                folder, flags, arguments, precision)
                for folder in arguments.code for flags in arguments.flags}
            rounds.append({"bare": timed(lambda: bare(steps)) / steps,
                           "fed": timed(lambda: fed(steps)) / steps} | seconds)
            if arguments.peer:
                rounds[-1]["peer"] = seconds_of_peer(arguments, precision)
    seconds = pd.DataFrame(rounds)
    table = pd.DataFrame({
        "images/s": arguments.batch_size / seconds.median(),
        "% of bare": 100 * seconds.rdiv(seconds["bare"], axis=0).median(),
        "% of peak": 100 * operations / peak / seconds.median()})
    print(f"{precision}: {operations / 1e9:.0f} GFLOP a step, peak {peak / 1e9:.0f} GFLOP/s")
    print(table.round({"images/s": 2, "% of bare": 1, "% of peak": 1}).to_string(), flush=True)


def main():
    parser = argument_parser(__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=positive, default=4)
    parser.add_argument("--steps", type=positive, default=15, help="of each way, in each round")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--code", nargs="+", default=["."], metavar="FOLDER",
                        help="checkouts whose train.py is measured")
    parser.add_argument("--flags", nargs="+", default=[""], metavar="'FLAGS'",
                        help="more flags of train.py, each of which is measured; '' for none, a "
                        "space before a single one: ' --decoder'")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--peer", metavar="PYTHON", help="one that has torch and torchvision")
    arguments = parser.parse_args()
    tile_set = TileSet(arguments.dataset, read_classes(arguments.classes))
    rows = tile_set.training.head(arguments.batch_size).itertuples()
    batch = tuple(map(np.stack, zip(*map(tile_set.read_tile, rows))))
    arguments.tile_size = batch[0].shape[1]
    print(f"batches of {arguments.batch_size} tiles of {arguments.tile_size} pixels; "
          f"{arguments.rounds} rounds of {arguments.steps} steps")
    for precision in arguments.precisions:
        measure(arguments, precision, tile_set, batch)


if __name__ == "__main__":
    run_script(main)
