"""What each network costs: parameters, operations, images per second, memory.

Run as: python -m benchmarks.cost_table --out cost_table.csv

For every backbone and, of ResNet-v2-50, half the width and separable convolutions in pyramid and
decoder, output stride 16 and 8, with and without the decoder:

parameters  all that is trained, for 5 classes
GFLOP       of the convolutions for one 256x256 tile, by TensorFlow's profiler; a multiplication
            and an addition are two. Atrous taps that fall on padding only are left out, as they
            are when the network runs (utils/layers.py)
training    images/s of a whole step, forward, backward and Adam, on one batch kept in memory
inference   images/s from uint8 windows to probabilities
memory      the most that a process held that trained a few steps, TensorFlow's own included

Each is measured in a process of its own. A round takes all of them in turn, so that what else the
machine does falls on all alike; the table shows medians of the rounds. A row is added to --out as
each process ends, and those that are there already are not run again: stopped or killed, the same
command goes on.
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import argparse
import json
import resource
import time

import numpy as np
import tensorflow.compat.v1 as tf

from benchmarks.shared import ADVICE, add_rows, call, read_table
from deeplab_v3 import BACKBONES, ModelConfig, deeplab_v3
from utils.cli import leave_on_signals, positive, run_script
from utils.layers import BatchNorm
from utils.training.losses import segmentation_loss
from utils.training.optimizer import repeatable_config, train_op, weight_decay_loss

TILE, CLASSES, WARM_UP = 256, 5, 2
# (backbone, width, separable)
NETWORKS = [*((backbone, 1.0, False) for backbone in BACKBONES), ("resnet_v2_50", 0.5, False),
            ("resnet_v2_50", 1.0, True), ("resnet_v2_50", 0.5, True)]
MODEL = ["backbone", "width", "separable", "output_stride", "decoder"]
SETTINGS = [*MODEL, "precision", "batch_size", "steps"]
MEASURES = ["parameters", "operations", "training", "inference", "memory"]


def count_operations(graph):
    """Floating-point operations of all convolutions in a graph of static shapes."""
    counted = tf.profiler.ProfileOptionBuilder.float_operation()
    # By type: initial values, which the graph also computes, are no cost of a tile.
    counted.update(output="none", account_type_regexes=["Conv2D", "DepthwiseConv2dNative"])
    return tf.profiler.profile(graph, cmd="op", options=counted).total_float_ops


def size_of(config):
    """{"parameters", "operations" for one tile} of deeplab_v3 with this ModelConfig."""
    with tf.Graph().as_default() as graph:
        deeplab_v3(tf.zeros([1, TILE, TILE, 3], tf.uint8), config)
        return {"parameters": sum(v.shape.num_elements() for v in tf.trainable_variables()),
                "operations": count_operations(graph)}


def images_per_second(run, settings):
    """Of `run()`, which takes one batch."""
    for _ in range(WARM_UP):
        run()
    started = time.perf_counter()
    for _ in range(settings["steps"]):
        run()
    return settings["steps"] * settings["batch_size"] / (time.perf_counter() - started)


def training_speed(config, settings):
    random, shape = np.random.default_rng(0), (settings["batch_size"], TILE, TILE)
    with tf.Graph().as_default(), tf.Session(config=repeatable_config()) as session:
        logits, _ = deeplab_v3(
            tf.constant(random.integers(0, 256, (*shape, 3), np.uint8)), config,
            BatchNorm(True), precision=settings["precision"])
        loss = segmentation_loss(logits, random.integers(0, CLASSES, shape, np.uint8))
        update = train_op(loss + weight_decay_loss(1e-4), "adam", 1e-6, 0.9,
                          tf.train.get_or_create_global_step())
        session.run(tf.global_variables_initializer())
        return images_per_second(lambda: session.run([loss, update]), settings)


def inference_speed(config, settings):
    windows = np.random.default_rng(0).integers(
        0, 256, (settings["batch_size"], TILE, TILE, 3), np.uint8)
    with tf.Graph().as_default(), tf.Session() as session:
        images = tf.placeholder(tf.uint8, [None, TILE, TILE, 3])
        probabilities = tf.nn.softmax(deeplab_v3(
            images, config, precision=settings["precision"])[0])
        session.run(tf.global_variables_initializer())
        return images_per_second(lambda: session.run(probabilities, {images: windows}), settings)


def measure(settings):
    """{measure: value} of MEASURES, in this process; memory in bytes."""
    config = ModelConfig(CLASSES, **{name: settings[name] for name in MODEL})
    training = training_speed(config, settings)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return size_of(config) | {"training": training, "memory": memory,
                             "inference": inference_speed(config, settings)}


def measure_alone(settings):
    """`measure` in a process of its own; ValueError where that fails, of too little memory say."""
    return json.loads(call(describe(settings), "-m benchmarks.cost_table", "--measure",
                           json.dumps(settings)))


def describe(settings):
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def read_rows(path):
    """The rows that earlier calls have measured; see `read_table`."""
    columns = [*SETTINGS, "round", *MEASURES]
    rows = read_table(path, columns, ["width", "output_stride", "batch_size", "steps", "round",
                                      *MEASURES])
    if rows[columns].isna().any(axis=None) or len(rows) and any(
            rows[name].dtype != bool for name in ("separable", "decoder")):
        raise ValueError(f"{path}: a row is damaged (an empty field, or a decoder or separable "
                         f"that is neither True nor False); {ADVICE}")
    return rows


def markdown(rows, planned):
    """The table for README.md: medians over the rounds of the `planned` settings, in their order.

    Those that were not measured yet are left out.
    """
    medians = rows.groupby(SETTINGS)[MEASURES].median()
    lines = ["| backbone | output stride | decoder | parameters, M | GFLOP a tile | training, "
             "images/s | inference, images/s | memory, GB |", "|---" * 3 + "|---:" * 5 + "|"]
    for settings in planned:
        key = tuple(settings.values())
        if key in medians.index:
            cost = medians.loc[key]
            flags = [f"--width {settings['width']:g}"] * (settings["width"] != 1)
            flags += ["--separable"] * settings["separable"]
            network = settings["backbone"] + (f" `{' '.join(flags)}`" if flags else "")
            lines.append(
                f"| {network} | {settings['output_stride']} | "
                f"{'yes' if settings['decoder'] else 'no'} | {cost['parameters'] / 1e6:.1f} | "
                f"{cost['operations'] / 1e9:.1f} | {cost['training']:.2f} | "
                f"{cost['inference']:.2f} | {cost['memory'] / 1e9:.2f} |")
    return "\n".join(lines)


def main(flags=None, measure_one=measure_alone):
    """flags: list of strings; None means the command line. measure_one: see `measure_alone`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--out", default="cost_table.csv", metavar="FILE", help="table of what was measured")
    add("--backbones", nargs="+", choices=list(BACKBONES), default=list(BACKBONES))
    add("--precision", choices=("float32", "bfloat16"), default="float32")
    add("--batch_size", type=positive, default=8, help="tiles of 256x256 pixels")
    add("--steps", type=positive, default=5, help="timed in each process, of either kind")
    add("--rounds", type=positive, default=3)
    add("--measure", help=argparse.SUPPRESS)  # the settings that this process is to measure
    arguments = parser.parse_args(flags)
    leave_on_signals()
    if arguments.measure:
        print(json.dumps(measure(json.loads(arguments.measure))))
        return
    planned = [dict(zip(SETTINGS, (*network, stride, decoder, arguments.precision,
                                   arguments.batch_size, arguments.steps)))
               for network in NETWORKS if network[0] in arguments.backbones
               for stride in (16, 8) for decoder in (False, True)]
    rows = read_rows(arguments.out)
    measured = set(rows[[*SETTINGS, "round"]].itertuples(index=False, name=None))

    def cost_of(plan):
        settings = {name: plan[name] for name in SETTINGS}
        print(f"round {plan['round']}: {describe(settings)}", flush=True)
        return measure_one(settings)

    rows, failed = add_rows(
        arguments.out, rows, [settings | {"round": number} for number in range(arguments.rounds)
                              for settings in planned
                              if (*settings.values(), number) not in measured], cost_of)
    print(markdown(rows, planned))
    if failed:
        raise ValueError("; ".join(failed))


if __name__ == "__main__":
    run_script(main)
