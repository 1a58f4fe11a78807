"""Several hosts: TF_CONFIG, Slurm's variables, ports, and hosts that are not there."""

import json
import socket

import pytest
import tensorflow.compat.v1 as tf

from conftest import free_ports, tf_config
from utils.distributed import cluster, devices

GOOD = json.loads(cluster.EXAMPLE)


@pytest.mark.parametrize("config", [
    "{", "[]", {"cluster": GOOD["cluster"]}, {"task": GOOD["task"]},
    *({**GOOD, "task": {"type": kind, "index": index}} for kind, index in (
        ("worker", 2), ("worker", "x"), ("worker", -1), ("chief", 0), (["worker"], 0))),
    *({**GOOD, "cluster": jobs} for jobs in (
        {"worker": ["a"]}, {"worker": ["a:1", "a:1"]}, {"worker": "a:1"}, {"ps": ["a:1"]},
        {"worker": ["a:1", "b:99999"]}, {"chief": ["a:1", "b:1"], "worker": ["c:1"]}))])
def test_a_malformed_tf_config_is_told_with_an_example(config, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(ValueError, match=r"^TF_CONFIG: no cluster .*should look like \{"):
        cluster.find_cluster()


def test_the_chief_is_first_among_the_hosts(monkeypatch):
    jobs = {"worker": ["b:1", "c:1"], "chief": ["a:1"]}
    tasks = [{"type": "chief", "index": 0}, {"type": "worker", "index": 0},
             {"type": "worker", "index": 1}]
    found = []
    for task in tasks:
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": jobs, "task": task}))
        found.append(cluster.find_cluster())
    assert [each.host for each in found] == [0, 1, 2]
    assert found[0].addresses == ["a:1", "b:1", "c:1"]


def test_slurms_variables_name_the_hosts(monkeypatch):
    for name, value in {"PROCID": "1", "STEP_NUM_TASKS": "4", "STEP_NODELIST": "n[9-10]",
                        "STEP_TASKS_PER_NODE": "2(x2)", "LOCALID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURMD_NODENAME", "n9")
    found = cluster.find_cluster(8888)
    assert found.jobs == {"worker": ["n10:8888", "n10:8889", "n9:8888", "n9:8889"]}
    assert found.addresses[found.host] == "n9:8889"


def test_outside_of_slurm_its_variables_are_asked_for(monkeypatch):
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    with pytest.raises(ValueError, match="--slurm: .*SLURM_PROCID.*srun"):
        cluster.find_cluster(8888)


def test_a_port_in_use_is_named(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        monkeypatch.setenv("TF_CONFIG", tf_config([port, port + 1], 0))
        with pytest.raises(OSError, match=f"^127.0.0.1:{port}: port {port} cannot be used"):
            devices.choose_devices(None, 2)


def test_a_run_that_waits_for_a_host_that_is_gone_ends(monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", .2)
    server = tf.distribute.Server.create_local_server()
    own, [gone] = server.target.removeprefix("grpc://"), free_ports(1)
    with tf.Graph().as_default():
        empty = tf.FIFOQueue(1, [tf.int32]).dequeue()
        session = tf.Session(server.target)
        with pytest.raises(tf.errors.OpError) as error:
            with cluster.watched([own, f"127.0.0.1:{gone}"], session.close):
                session.run(empty)
        assert cluster.is_lost(error.value)
