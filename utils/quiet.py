"""Loads TensorFlow with oneDNN, without its page of remarks about this machine; import this first.

They are written before TensorFlow's own log filter (TF_CPP_MIN_LOG_LEVEL) is in place, so the
error stream is set aside for the length of the import. Errors of TensorFlow itself still show.
"""

import contextlib
import os

# Without a driver the only error at start is that there is none; with one, errors matter.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if os.path.exists("/dev/nvidia0") else "3")


# TensorFlow turns oneDNN on by itself only where the processor has instructions for neural networks
# (AVX512_VNNI and such). Without oneDNN it cannot train atrous convolutions on a CPU at all.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


@contextlib.contextmanager
def without_stderr():
    """Drops what is written to the error stream meanwhile, by C libraries too."""
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


with without_stderr():
    import tensorflow.compat.v1 as tf
    tf.logging.set_verbosity(tf.logging.ERROR)
