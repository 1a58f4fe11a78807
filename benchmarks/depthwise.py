"""Forms of the depthwise atrous convolution side by side: milliseconds a call, and ratios.

Run as: python -m benchmarks.depthwise

space_to_batch  tf.nn.depthwise_conv2d with dilations, which `depthwise_conv2d` takes: the input's
                phases as images of a batch, for a kernel without holes
taps            sum over the kernel's taps of the shifted input times the tap's weights
grouped         tf.nn.conv2d with one group a channel
native          the bare DepthwiseConv2dNative with dilations, which only oneDNN's kernel knows

Shapes are those of Xception-65 on tiles of 256: the exit flow's at output stride 16 and 8, and the
middle flow's at 8. 'error' is the greatest difference of the gradients from those of
space_to_batch, as a share of the greatest. The forms take turns, so that they share whatever else
the machine does. Ratios are medians of each round's ratio to space_to_batch.
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import contextlib
import time

import numpy as np
import pandas as pd
import tensorflow.compat.v1 as tf

from utils.cli import argument_parser, positive, run_script

SHAPES = ((17, 1536, 4), (17, 1536, 8), (33, 728, 2), (33, 1536, 8))  # side, channels, rate


def space_to_batch(inputs, weights, rate):
    return tf.nn.depthwise_conv2d(inputs, weights, [1, 1, 1, 1], "SAME", dilations=[rate, rate])


def taps(inputs, weights, rate):
    height, width = inputs.shape.as_list()[1:3]
    padded = tf.pad(inputs, [[0, 0], [rate, rate], [rate, rate], [0, 0]])
    return tf.add_n([padded[:, row * rate:row * rate + height, column * rate:column * rate + width]
                     * weights[row, column, :, 0] for row, column in np.ndindex(3, 3)])


def grouped(inputs, weights, rate):
    return tf.nn.conv2d(inputs, tf.transpose(weights, [0, 1, 3, 2]), 1, "SAME",
                        dilations=[1, rate, rate, 1])


def native(inputs, weights, rate):
    return tf.raw_ops.DepthwiseConv2dNative(input=inputs, filter=weights, strides=[1, 1, 1, 1],
                                            padding="SAME", dilations=[1, rate, rate, 1])


FORMS = (space_to_batch, taps, grouped, native)


def build(stack, form, dtype, batch, side, channels, rate):
    """(function that runs it forward, forward and backward, gradients as float32 arrays)."""
    random = np.random.default_rng(0)
    with tf.Graph().as_default():
        inputs, weights = (
            tf.get_variable(name, initializer=random.normal(size=shape).astype(np.float32))
            for name, shape in (("inputs", (batch, side, side, channels)),
                                ("weights", (3, 3, channels, 1))))
        upstream = tf.cast(tf.constant(random.normal(size=inputs.shape), tf.float32), dtype)
        outputs = form(tf.cast(inputs, dtype), tf.cast(weights, dtype), rate)
        gradients = tf.gradients(outputs, [inputs, weights], upstream)
        session = stack.enter_context(tf.Session())
        session.run(tf.global_variables_initializer())
    forward = [outputs.op]
    both = forward + [gradient.op for gradient in gradients]
    return (lambda: session.run(forward)), (lambda: session.run(both)), session.run(gradients)


def main():
    parser = argument_parser(__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=positive, default=8)
    parser.add_argument("--rounds", type=positive, default=7)
    arguments = parser.parse_args()
    for dtype in ("float32", "bfloat16"):
        for shape in SHAPES:
            with contextlib.ExitStack() as stack:
                built = {form.__name__: build(stack, form, dtype, arguments.batch_size, *shape)
                         for form in FORMS}
                for forward, both, _ in built.values():
                    forward()  # the first call optimises the graph
                    both()
                rounds = []
                for _ in range(arguments.rounds):
                    for form, (*calls, _) in built.items():
                        for name, call in zip(("forward", "both"), calls):
                            started = time.perf_counter()
                            call()
                            rounds.append({"form": form, "what": name,
                                           "ms": 1000 * (time.perf_counter() - started)})
            table = pd.DataFrame(rounds)
            table["round"] = table.groupby(["form", "what"]).cumcount()
            times = table.pivot(index="round", columns=["what", "form"], values="ms")
            rows = {}
            for form, (*_, gradients) in built.items():
                rows[form] = {}
                for what in ("forward", "both"):
                    taken, plain = times[what][form], times[what][FORMS[0].__name__]
                    rows[form] |= {f"{what}, ms": taken.median(), "ratio" + " " * (what == "both"):
                                   (taken / plain).median()}
                rows[form]["error"] = max(
                    np.abs(ours - plain).max() / np.abs(plain).max()
                    for ours, plain in zip(gradients, built[FORMS[0].__name__][2]))
            print("{}: batch {}, {}x{}, {} channels, rate {}".format(
                dtype, arguments.batch_size, shape[0], *shape))
            print(pd.DataFrame(rows).T.round(3).to_string(), flush=True)


if __name__ == "__main__":
    run_script(main)
