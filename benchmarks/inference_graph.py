"""What could make the inference graph faster, each form beside the plain one: seconds a call.

Run as: python -m benchmarks.inference_graph

plain       variables read at each call, atrous convolutions as TensorFlow has them
taps        the pyramid's as `conv2d_by_taps`, which deeplab_v3.py takes for bfloat16
constants   plain with the variables as constants, so that TensorFlow folds the batch norms that
            follow a convolution into its weights

Random weights (speed does not depend on them); the forms take turns, so that they share whatever
else the machine does. Ratios are medians of each round's ratio to plain.
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import contextlib
import time

import numpy as np
import pandas as pd
import tensorflow.compat.v1 as tf

from deeplab_v3 import ModelConfig, deeplab_v3
from utils.classes import read_classes
from utils.cli import argument_parser, positive, run_script


def build(stack, form, precision, window, num_classes):
    """A function from a batch to probabilities; its session ends with `stack`."""
    graph = tf.Graph()
    with graph.as_default():
        tf.set_random_seed(0)
        images = tf.placeholder(tf.uint8, [None, window, window, 3], "images")
        logits, _ = deeplab_v3(images, ModelConfig(num_classes), precision=precision,
                               by_taps=form == "taps")
        probabilities = tf.nn.softmax(logits, name="probabilities")
        session = stack.enter_context(tf.Session())
        session.run(tf.global_variables_initializer())
    if form == "constants":
        frozen = tf.graph_util.convert_variables_to_constants(
            session, graph.as_graph_def(), [probabilities.op.name])
        with tf.Graph().as_default():
            images, probabilities = tf.import_graph_def(
                frozen, return_elements=["images:0", "probabilities:0"], name="")
            session = stack.enter_context(tf.Session())
    return lambda batch: session.run(probabilities, {images: batch})


def main():
    parser = argument_parser(__doc__.splitlines()[0])
    parser.add_argument("--window", type=positive, default=256)
    parser.add_argument("--batch_size", type=positive, default=16, help="windows per call")
    parser.add_argument("--rounds", type=positive, default=6)
    arguments = parser.parse_args()
    num_classes = len(read_classes(arguments.classes))
    shape = (arguments.batch_size, arguments.window, arguments.window, 3)
    batch = np.random.default_rng(arguments.seed).integers(0, 256, shape, np.uint8)
    for precision, forms in (("float32", ("plain", "constants")),
                             ("bfloat16", ("plain", "taps", "constants"))):
        with contextlib.ExitStack() as stack:
            calls = {form: build(stack, form, precision, arguments.window, num_classes)
                     for form in forms}
            for call in calls.values():
                call(batch)  # the first one optimises the graph
            rounds = []
            for _ in range(arguments.rounds):
                rounds.append({})
                for form, call in calls.items():
                    started = time.perf_counter()
                    call(batch)
                    rounds[-1][form] = time.perf_counter() - started
        seconds = pd.DataFrame(rounds)
        table = pd.DataFrame({"seconds": seconds.median(), "of plain": seconds.div(
            seconds["plain"], axis=0).median()})
        print(f"{precision}, {arguments.batch_size} windows of {arguments.window} a call, "
              f"median of {arguments.rounds}")
        print(table.round(3).to_string())


if __name__ == "__main__":
    run_script(main)
