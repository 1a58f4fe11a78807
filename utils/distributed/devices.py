"""On which devices a run trains, and what its graph asks them: one, several, or several hosts'.

One device is TensorFlow's plain path. Several of one host share a MirroredStrategy, several hosts
(utils/distributed/cluster.py) a MultiWorkerMirroredStrategy: each device holds all variables, takes
an equal part of the global batch, and gradients are averaged over all before any is applied.
"""

import contextlib
import json
import os
import typing
import zlib

import tensorflow.compat.v1 as tf

from utils.distributed import cluster
from utils.training.optimizer import repeatable_config
from utils.distributed.replicas import device_number


class Devices(typing.NamedTuple):
    """What trains. `count` is of all hosts; `host` of `hosts` is this one, and 0 is the chief."""
    strategy: typing.Any = None
    config: typing.Any = None
    count: int = 1
    host: int = 0
    hosts: int = 1
    server: typing.Any = None
    others: tuple = ()  # addresses of the other hosts

    @property
    def is_chief(self):
        """True for the first host, which alone writes the run's folder."""
        return self.host == 0


def check_batch_norm(devices, batch_size, sync):
    """Raises ValueError where batch norm of the image-pooling branch, whose features are one value
    an image, would see a single value: its variance is 0, and inference multiplies by its inverse.

    sync: whether the statistics are those of all devices' images.
    """
    if batch_size == 1 or batch_size == devices.count and not sync:
        whole = ("by fewer --devices too, or take --sync_batch_norm" if devices.count > 1
                 else "of smaller crops if need be")
        raise ValueError(f"--batch_size {batch_size}: one tile on each device, of which batch norm "
                         f"can take no statistics; give each two or more, {whole}")


def choose_devices(number, batch_size, slurm_port=None):
    """The Devices for --devices `number` (None: all GPUs, else the CPU), TF_CONFIG and --slurm.

    Without GPUs, `number` above 1 makes as many logical devices of this host's CPU: for trying out.
    With several hosts this one's server runs when it returns, and all others' were reached. Raises
    ValueError, OSError naming the flag or variable.
    """
    gpus, several = tf.config.list_physical_devices("GPU"), cluster.find_cluster(slurm_port)
    most, kind = (len(gpus), "GPU") if gpus else (1 if several else os.cpu_count(), "CPU")
    local = number or len(gpus) or 1
    if local > most:
        what = f"{most} GPU(s)" if gpus else f"no GPU, and {most} CPU device(s) at most"
        raise ValueError(f"--devices {local}: this host has {what}; lower --devices")
    hosts = len(several.addresses) if several else 1
    count = local * hosts
    if batch_size % count:
        raise ValueError(f"--batch_size {batch_size} is not divisible by the {count} devices "
                         f"({hosts} host(s) x {local}), which share it; change one of them")
    config = repeatable_config()
    if gpus:
        config.gpu_options.visible_device_list = ",".join(map(str, range(local)))
    if several:
        # In a graph, or the strategy would start an eager server of its own on our port.
        with tf.Graph().as_default():
            strategy = tf.distribute.experimental.MultiWorkerMirroredStrategy(
                cluster_resolver=several.resolver({"GPU": local} if gpus else {}))
        config = strategy.update_config_proto(config)
        config.operation_timeout_in_ms = cluster.SILENCE * 1000
        server = cluster.start_server(several, config)
        others = tuple(several.addresses[:several.host] + several.addresses[several.host + 1:])
        return Devices(strategy, config, count, several.host, hosts, server, others)
    if count == 1:
        return Devices(config=config)
    config.device_count["CPU"] = local if kind == "CPU" else 1
    strategy = tf.distribute.MirroredStrategy([f"/{kind.lower()}:{i}" for i in range(local)])
    return Devices(strategy, config, count)


@contextlib.contextmanager
def session_on(devices):
    """A new graph, its session on `devices`, as default ones; gives the session.

    Raises MemoryError where variables, or an evaluation, do not fit into a device's memory.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(tf.Graph().as_default())
        if devices.strategy:
            stack.enter_context(devices.strategy.scope())
        target = devices.server.target if devices.server else ""
        try:
            yield stack.enter_context(tf.Session(target, config=devices.config))
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError("the model does not fit into the device's memory; lower --width, "
                              "--batch_size or --crop_size") from error


def on_each(devices, function):
    """Calls `function()`, which builds a device's part of the graph, for each device of this host.

    It returns a dict of tensors, equal on all devices, and ops. Returns the first device's tensors,
    and of the ops those of all in one.
    """
    if not devices.strategy:
        return function()
    results = devices.strategy.extended.call_for_each_replica(function)
    local = {name: devices.strategy.experimental_local_results(value)
             for name, value in results.items()}
    whole = {}
    for name, values in local.items():
        # All devices' are run, whichever is fetched: a sum over devices waits for each of them.
        with tf.control_dependencies(values):
            whole[name] = (tf.identity(values[0]) if isinstance(values[0], tf.Tensor) else
                           tf.no_op())
    return whole


def part_of_batch(devices, *tensors):
    """Of this host's share of a batch, the slice of the device that is being built."""
    local = devices.count // devices.hosts
    number = device_number()[0] % local
    return [tf.split(tensor, local)[number] if local > 1 else tensor for tensor in tensors]


def check_alike(devices, session, graph, settings, tile_set):
    """Raises ValueError on some host unless all start from the same settings, tiles and variables.

    settings: plain values. graph: train.py's Graph, whose placeholder stop_asked takes an
    int64 and whose stops_asked is its sum over all devices.
    """
    if devices.hosts == 1:
        return
    values = session.run([variable.read_value() for variable in tf.global_variables()])
    checksum = zlib.crc32(json.dumps(settings, sort_keys=True).encode())
    images = "\n".join(tile_set.training["image"]).encode()
    for part in [images, *(value.tobytes() for value in values)]:
        checksum = zlib.crc32(part, checksum)
    all_sum = session.run(graph.stops_asked, {graph.stop_asked: checksum})
    if all_sum != checksum * devices.count:
        raise ValueError("the hosts do not start alike; give all of them the same command, files "
                         "and tiles, and --logs in a folder that all see")
