"""What a device's part of the graph asks about the others: its number, and sums over all.

Of one device, without a strategy, these add nothing to the graph.
"""

import tensorflow.compat.v1 as tf


def device_number():
    """(number of the device whose part of the graph is being built, count of all devices)."""
    if not tf.distribute.has_strategy():
        return 0, 1
    replica = tf.distribute.get_replica_context()
    return (int(tf.get_static_value(replica.replica_id_in_sync_group)),
            replica.num_replicas_in_sync)


def all_reduce_sum(value):
    """The sum of `value` over all devices, on each of them; differentiable."""
    if not tf.distribute.has_strategy():
        return value
    # identity: a tensor that the devices' parts share would not be taken for one of each device.
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM,
                                                          tf.identity(value))
