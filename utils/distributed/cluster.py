"""Several hosts: who they are (TF_CONFIG or Slurm), this one's server, and a host that is lost."""

import contextlib
import os
import socket
import threading
import time
import typing

import tensorflow.compat.v1 as tf

SLURM_PORT = 8888
# Seconds: how long hosts wait for each other to start, and for an answer once training. The chief
# evaluates and saves while the others wait for its next step.
START, SILENCE = 600, 3600
# Seconds of a step after which it is looked whether the others are still there.
PATIENCE = 10
EXAMPLE = ('{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
           '"task": {"type": "worker", "index": 0}}')


class Cluster(typing.NamedTuple):
    """jobs: {'chief' or 'worker': ['host:port', ...]}; task: (job, index) of this host."""
    jobs: dict
    task: tuple

    @property
    def addresses(self):
        """['host:port', ...] of all, the chief's first."""
        return [address for job in sorted(self.jobs) for address in self.jobs[job]]

    @property
    def host(self):
        """This host's place in `addresses`."""
        job, index = self.task
        return index + (len(self.jobs["chief"]) if job == "worker" and "chief" in self.jobs else 0)

    def resolver(self, accelerators):
        """The same for a tf.distribute strategy; accelerators: {'GPU': number on this host}."""
        return tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(self.jobs), task_type=self.task[0], task_id=self.task[1],
            num_accelerators=accelerators, rpc_layer="grpc")


def find_cluster(slurm_port=None):
    """The Cluster of Slurm's variables where a port is given, else of TF_CONFIG; None without."""
    if slurm_port:
        return slurm_cluster(slurm_port)
    return read_tf_config() if os.environ.get("TF_CONFIG") else None


def read_tf_config():
    """The Cluster that TF_CONFIG describes, by TensorFlow's own resolver. Raises ValueError.

    The resolver lets through what would end in a hang: jobs without a chief's part, an index beyond
    the list, one address twice, what is no address.
    """
    try:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        jobs = resolver.cluster_spec().as_dict()
        cluster = Cluster(jobs, (resolver.task_type, resolver.task_id))
        fits = (set(jobs) <= {"chief", "worker"} and len(jobs.get("chief", [])) <= 1
                and resolver.task_id in range(len(jobs[resolver.task_type]))
                and all(map(is_address, cluster.addresses))
                and len(set(cluster.addresses)) == len(cluster.addresses))
        reason = "" if fits else f" ({jobs}, {cluster.task})"
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        fits, reason = False, f" ({error})"
    if not fits:
        raise ValueError(f"TF_CONFIG: no cluster of one chief at most and workers, host:port each, "
                         f"with a task of it{reason}; it should look like {EXAMPLE}")
    return cluster


def is_address(text):
    """True for 'host:port'."""
    host, _, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    return bool(host) and port.isascii() and port.isdigit() and 0 < int(port) < 65536


def slurm_cluster(port):
    """The Cluster of the Slurm step that this process belongs to, by TensorFlow's own resolver.

    Tasks of one node get ports from `port` on. Raises ValueError outside of `srun`.
    """
    try:
        # Which GPUs a task sees is left to Slurm: the resolver would ask nvidia-smi, and fail
        # where there is none.
        tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=port, gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False)
        jobs = resolver.cluster_spec().as_dict()
        task, index = resolver.get_task_info()
        addresses = jobs[task]
        node, place = os.environ.get("SLURMD_NODENAME"), os.environ.get("SLURM_LOCALID")
        if node and place:
            # The resolver sorts nodes as text, n10 before n9; Slurm's rank counts in its own order.
            index = addresses.index(f"{node}:{port + int(place)}")
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"--slurm: Slurm's variables do not tell the cluster ({error}); start "
                         "train.py with srun") from None
    return Cluster(jobs, (task, index))


def start_server(cluster, config):
    """This host's tf.distribute.Server, returned when all the others' can be reached.

    Raises OSError for a port in use, or where another host is not there after START seconds.
    """
    own = cluster.addresses[cluster.host]
    check_port(own)
    server = tf.distribute.Server(tf.train.ClusterSpec(cluster.jobs), job_name=cluster.task[0],
                                  task_index=cluster.task[1], protocol="grpc", config=config)
    end = time.monotonic() + START
    for address in cluster.addresses:
        wait_for(address, end)
    return server


def check_port(address):
    """Raises OSError where another process listens on the port of `address`, 'host:port'.

    TensorFlow's own words for it are two lines on the error stream and 'Could not start'.
    """
    port = int(address.rpartition(":")[2])
    with socket.socket() as probe:
        # As gRPC does: a port that a killed run left a moment ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            probe.listen(1)
        except OSError as error:
            raise OSError(f"{address}: port {port} cannot be used ({error.strerror}); end what "
                          "uses it, or choose another in TF_CONFIG (with --slurm PORT)") from None


def connect(address):
    """Raises OSError unless 'host:port' accepts a connection."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()


def wait_for(address, end):
    """Returns when 'host:port' accepts a connection; OSError at time.monotonic() of `end`."""
    told = False
    while True:
        try:
            connect(address)
            return
        except OSError as error:
            if time.monotonic() > end:
                raise OSError(f"{address}: this host could not be reached within {START} s "
                              f"({error.strerror or error}); start the same command there"
                              ) from None
        if not told:
            print(f"waiting for {address}", flush=True)
            told = True
        time.sleep(0.5)


@contextlib.contextmanager
def watched(addresses, if_lost):
    """Calls `if_lost()` from another thread where a host of `addresses` is gone.

    A sum over hosts notices by itself that another died, but not at every moment of it: without
    this, some runs would wait on for SILENCE seconds. Looks every PATIENCE seconds.
    """
    over = threading.Event()

    def look():
        while not over.wait(PATIENCE):
            try:
                for address in addresses:
                    connect(address)
            except OSError:
                if not over.is_set():
                    if_lost()
                return

    looking = threading.Thread(target=look, daemon=True)
    if addresses:
        looking.start()
    try:
        yield
    finally:
        over.set()
        if addresses:
            # A thread that still closes the session when Python ends would end it with an abort.
            looking.join(START)


def is_lost(error):
    """True where a tf.errors.OpError says that another host no longer answers."""
    return isinstance(error, (tf.errors.UnavailableError, tf.errors.AbortedError,
                              tf.errors.CancelledError, tf.errors.DeadlineExceededError))
