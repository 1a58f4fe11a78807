"""--precision auto: the faster of float32 and bfloat16 on this machine, by a few trial calls.

It cannot be told from the processor's flags: of two that have avx512_bf16 one trains 1.6 times
faster in bfloat16, the other 1.6 times slower. A trial has its own graph and session, so a run's
random numbers are those of a run without one.
"""

import contextlib
import time

import numpy as np
import tensorflow.compat.v1 as tf

from deeplab_v3 import deeplab_v3
from utils.layers import BatchNorm
from utils.training.checkpoints import error_reason
from utils.training.environment import machine

AUTO = "auto"
PRECISIONS = FLOAT32, BFLOAT16 = ("float32", "bfloat16")
PRECISION_FLAG = {"choices": (AUTO, *PRECISIONS), "default": AUTO}
# bfloat16 is the less exact: it has to save a tenth of the time.
WORTHWHILE = 0.9
ROUNDS = 2
# Runs and scenes below these take less time than a trial could save.
FEWEST_STEPS, FEWEST_WINDOWS = 100, 100
TRIAL_WINDOWS = 4  # a call of a trial for maps, at most


def precision_of_training(settings, batch_size, steps, devices):
    """The precision for a new run, told in a line: the faster in its own forward and backward pass.

    settings: RunSettings. batch_size: of all devices of `devices` together. Several hosts get
    float32, because they must agree and their machines may not.
    """
    if devices.hosts > 1 or steps < FEWEST_STEPS:
        why = "several hosts" if devices.hosts > 1 else f"fewer than {FEWEST_STEPS} steps"
        print(f"precision {FLOAT32}: no trial with {why}")
        return FLOAT32

    def gradients(images, precision):
        logits, _ = deeplab_v3(images, settings.model, BatchNorm(True), precision=precision)
        gradients = tf.gradients(tf.reduce_mean(tf.square(logits)), tf.trainable_variables())
        with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
            # A value made of all, since TensorFlow leaves out a gradient whose value nobody uses.
            return tf.identity(tf.linalg.global_norm(gradients))

    size = settings.crop_size
    shape = [batch_size // devices.count, size, size, settings.model.in_channels]
    return _tried(gradients, shape, devices.config)


def precision_of_inference(asked, starts, settings, options, pixels):
    """The precision for maps: --precision (`asked`) or, told in a line, what auto chooses.

    On the machine of the last of the run's `starts` that is the run's own. Few pixels get float32.
    starts: of utils.training.run.read_starts. settings: the run's RunSettings. options:
    InferenceOptions. pixels: number of all that are to be mapped.
    """
    if asked != AUTO:
        return asked
    trained_here = bool(starts) and machine().items() <= starts[-1].items()
    if trained_here and settings.recipe.get("precision") in PRECISIONS:
        return settings.recipe["precision"]
    window = options.window
    if pixels < FEWEST_WINDOWS * window ** 2:
        return FLOAT32
    return _tried(lambda images, precision: deeplab_v3(images, settings.model,
                                                       precision=precision)[0],
                  [min(options.batch_size, TRIAL_WINDOWS), window, window,
                   settings.model.in_channels])


def faster(calls, timer=time.perf_counter):
    """(FLOAT32 or BFLOAT16, {precision: seconds of its fastest call}).

    calls: {precision: function of the seconds after which it may give up, None for never, with
    TensorFlow's DeadlineExceededError}. The first call of each, which optimises the graph too, does
    not count; bfloat16, which some processors only emulate and others do not know, gets twice
    float32's time for it.
    """
    def seconds(precision, limit=None):
        began = timer()
        try:
            calls[precision](limit)
        except (tf.errors.DeadlineExceededError, tf.errors.ResourceExhaustedError):
            return float("inf")  # if neither fits into memory, the run itself says so
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            if precision == FLOAT32:
                raise
            return float("inf")  # oneDNN trains in bfloat16 only on processors with AVX512
        return timer() - began

    first = seconds(FLOAT32)
    limit = None if first == float("inf") else 2 * first
    if seconds(BFLOAT16, limit) == float("inf"):
        return FLOAT32, {FLOAT32: first, BFLOAT16: float("inf")}
    # In turns, so that what else the machine does slows both.
    rounds = [{precision: seconds(precision) for precision in PRECISIONS} for _ in range(ROUNDS)]
    fastest = {precision: min(r[precision] for r in rounds) for precision in PRECISIONS}
    saves = fastest[BFLOAT16] < WORTHWHILE * fastest[FLOAT32]
    return BFLOAT16 if saves else FLOAT32, fastest


def _tried(build, shape, session_config=None):
    """The faster, told in a line. build(images, precision) makes the op to run."""
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with contextlib.ExitStack() as stack:
        try:
            chosen, seconds = faster({precision: _trial(
                stack, build, precision, images, session_config) for precision in PRECISIONS})
        except tf.errors.OpError as error:
            raise ValueError(f"TensorFlow failed in the trial of --precision {AUTO}: "
                             f"{error_reason(error)}") from error
    told = ", ".join(f"{name} " + (f"{1000 * value:.0f} ms" if value < float("inf")
                                   else "too slow, too large or not supported")
                     for name, value in seconds.items())
    print(f"precision {chosen}, by trial: {told} for {shape[0]} images of {shape[1]} pixels")
    return chosen


def _trial(stack, build, precision, images, session_config):
    """A call for `faster`; `stack` ends its session."""
    with tf.Graph().as_default():
        fed = tf.placeholder(tf.uint8, images.shape)
        op = build(fed, precision)
        initialize = tf.global_variables_initializer()
        session = stack.enter_context(contextlib.closing(tf.Session(config=session_config)))
    started = []

    def call(limit):
        if not started:
            session.run(initialize)
            started.append(True)
        session.run(op, {fed: images},
                    options=tf.RunOptions(timeout_in_ms=round(1000 * (limit or 0))))
    return call
