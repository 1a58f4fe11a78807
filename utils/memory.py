"""Refusing what memory cannot hold: on a CPU TensorFlow aborts there, or the system kills it."""

import os

import tensorflow.compat.v1 as tf

# Bytes that a pixel of the network's input takes at least, at the full width of a backbone: the 256
# features of a unit at stride 4, in float32, before and after it. Training keeps all units'.
PIXEL, PIXEL_IN_TRAINING = 2 * 256 // 16 * 4, 4 * 256 // 16 * 4


def check_memory(config, count, side, training, advice):
    """Raises MemoryError where `count` images of `side` pixels at once surely do not fit.

    config: ModelConfig. training: or inference. advice: the end of the error's line. With a GPU,
    whose memory TensorFlow knows better, nothing is checked.
    """
    if tf.config.list_physical_devices("GPU") or not hasattr(os, "sysconf"):
        return
    pixel = (PIXEL_IN_TRAINING if training else PIXEL) * min(1, config.width) + 4 * (
        config.in_channels + config.num_classes)
    needed = count * side ** 2 * pixel / 1e9
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    if needed > there:
        raise MemoryError(f"{count} images of {side} x {side} pixels at once take {needed:.3g} GB "
                          f"of memory or more, and this machine has {there:.3g}; {advice}")
