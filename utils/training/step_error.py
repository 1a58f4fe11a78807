"""What is told when a step of training fails, or another host at its start."""

import contextlib
import os
import sys

import tensorflow.compat.v1 as tf

from utils.cli import error_line
from utils.distributed import cluster
from utils.training import optimizer
from utils.training.checkpoints import error_reason


@contextlib.contextmanager
def starting_together(devices, run):
    """For what all hosts do together before their first step: a host that is refused at its start
    would leave the others waiting. Where one is gone this one ends, with a line and status 2."""
    lost = ValueError(f"another host ended before the first step of {run}; see what it said, and "
                      "start the same command on all hosts again")

    def end():
        print(error_line(lost), file=sys.stderr, flush=True)
        os._exit(2)  # to close the session would wait for that host too

    try:
        with cluster.watched(devices.others, end):
            yield
    except tf.errors.OpError as error:
        if devices.hosts > 1 and cluster.is_lost(error):
            raise lost from error
        raise


def step_error(error, args, devices, tile_set, where):
    """What to raise for an OpError of TensorFlow in a step. where: the end of what went wrong."""
    if isinstance(error, tf.errors.ResourceExhaustedError):
        return MemoryError(f"{args.batch_size} tiles a step do not fit into the device's memory; "
                           "lower --batch_size")
    if optimizer.NOT_FINITE in error.message:
        return ValueError(f"{optimizer.NOT_FINITE} {where}; try a lower --learning_rate")
    if devices.hosts > 1 and cluster.is_lost(error):
        # Not looking for a tile at fault: of 100,000 that takes many minutes.
        return ValueError(f"another host was lost {where}; start the same command on all hosts "
                          "again, with the same --run")
    try:
        tile_set.name_faulty_tile()
    except (ValueError, OSError) as fault:
        return fault
    return ValueError(f"TensorFlow failed {where}: {error_reason(error)}")
