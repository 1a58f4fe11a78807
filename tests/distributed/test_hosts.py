"""Trainings on several devices and hosts: what ends, what goes on, and what is kept.

python test_hosts.py FLAGS... is train.py on a small network.
"""

import pathlib
import shutil
import signal
import time

import utils.quiet  # noqa: F401  (before TensorFlow)

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from conftest import free_ports, tf_config, write_small_dataset
import train
from processes import TIMEOUT, end, start
from utils import layers
from utils.cli import run_script
from utils.training import ema
from utils.training.checkpoints import BEST, LATEST, Checkpoints


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = write_small_dataset(tmp_path_factory.mktemp("data"))
    end(start("preprocess.py", "--dataset", folder, "--tiles", 8, "--tile_size", 32,
              "--processes", 1))
    return folder


def stand_in(images, config, norm=layers.BatchNorm(), **_):
    """In the place of deeplab_v3, which takes a minute to build and half a gigabyte to save."""
    with tf.variable_scope("", reuse=tf.AUTO_REUSE):
        net = layers.conv2d_bn_relu(tf.cast(images, tf.float32) / 128 - 1, 4, 3, "first",
                                    norm._replace(decay=0.9))
        return layers.conv2d(net, config.num_classes, 1, "logits"), {}


def train_flags(dataset, *flags):
    return ("--dataset", dataset, "--logs", dataset / "logs", "--pretrained", "none",
            "--multi_grid", 1, 1, 1, "--origin", dataset / "none", *flags)


def start_training(dataset, *flags, ports=None, index=0):
    """All of train.py on the stand-in, endless, saving at each step."""
    environment = {"TF_CONFIG": tf_config(ports, index)} if ports else {}
    return start(__file__, *train_flags(
        dataset, "--run", "pair", "--batch_size", 4, "--steps", 10 ** 6, "--save_every", 10,
        "--test_display", 10 ** 6, "--ema", .9, *flags), **environment)


def wait_for_step(process, run, after):
    """Returns when a checkpoint of a step beyond `after` is there."""
    deadline = time.monotonic() + TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        if Checkpoints(run, LATEST).exist and Checkpoints(run, LATEST).find()[1] > after:
            return
        time.sleep(0.1)
    process.kill()
    raise AssertionError("".join(process.communicate()))


def test_one_of_two_hosts_is_killed_and_the_run_goes_on_from_its_checkpoint(dataset):
    """On both hosts again, and then on one host with two devices."""
    run = str(dataset / "logs" / "pair")
    ports = free_ports(2)
    chief, worker = (start_training(dataset, ports=ports, index=index) for index in range(2))
    wait_for_step(chief, run, 0)
    worker.send_signal(signal.SIGKILL)
    _, errors = end(chief, 2)
    assert "another host was lost at step" in errors and errors.count("\n") == 1, errors
    worker.communicate()
    kept = Checkpoints(run, LATEST).find()[1]
    assert f"the checkpoint of step {kept} is kept" in errors

    chief, worker = (start_training(dataset, "--histograms", "--test_display", 7, ports=ports,
                                    index=index) for index in range(2))
    wait_for_step(chief, run, kept)
    worker.send_signal(signal.SIGTERM)  # one is asked to stop: both do, after the same step
    output, errors = end(chief, 130)
    assert f"resumed at step {kept}\n" in output and "stopped and saved at step" in output
    assert errors == ""
    output, _ = end(worker, 130)  # only the chief tells
    assert all(line.startswith("waiting for ") for line in output.splitlines())
    assert len(list(pathlib.Path(run).glob("events.out.*"))) == 2

    kept = Checkpoints(run, LATEST).find()[1]
    alone = start_training(dataset, "--devices", 2)
    wait_for_step(alone, run, kept)
    alone.send_signal(signal.SIGTERM)
    output, errors = end(alone, 130)
    assert f"resumed at step {kept}\n" in output and errors == ""


def test_where_a_host_is_refused_at_its_start_the_other_ends_too(dataset, tmp_path):
    ports, refused = free_ports(2), 1
    hosts = [start(__file__, *train_flags(
        dataset, "--run", "alone", "--batch_size", 4, "--steps", 9,
        *(("--dataset", tmp_path / "none") if index == refused else ())),
        TF_CONFIG=tf_config(ports, index)) for index in range(2)]
    _, errors = end(hosts[refused], 2)
    assert "none" in errors and errors.count("\n") == 1
    _, errors = end(hosts[1 - refused], 2)
    assert "another host ended before the first step of " in errors and errors.count("\n") == 1


def test_averages_of_two_devices_are_saved_as_the_best(dataset):
    output, errors = end(start(__file__, *train_flags(
        dataset, "--run", "averaged", "--batch_size", 4, "--steps", 1, "--devices", 2, "--ema",
        .9)))
    assert "done; best mean-IoU" in output and errors == ""
    best, newest = (tf.train.load_checkpoint(Checkpoints(
        str(dataset / "logs" / "averaged"), which).find()[0]) for which in (BEST, LATEST))
    name = "logits/weights"
    average = best.get_tensor(name)
    np.testing.assert_array_equal(average, newest.get_tensor(ema.average_name(name)))
    assert (average != newest.get_tensor(name)).any()


def test_a_run_does_not_go_on_with_one_tile_on_each_of_more_devices(dataset):
    flags = train_flags(dataset, "--run", "split", "--batch_size", 2, "--steps", 2)
    end(start(__file__, *flags, "--devices", 1))
    _, errors = end(start(__file__, *flags, "--devices", 2), 2)
    assert "one tile on each device" in errors and "fewer --devices" in errors
    assert errors.count("\n") == 1


def test_a_tile_that_was_lost_is_named_in_one_line(dataset, tmp_path):
    shutil.copytree(dataset / "train", tmp_path / "train")
    for name in ("path_list.csv", "validation_list.csv"):
        shutil.copy(dataset / name, tmp_path)
    lost = tmp_path / "train" / "labels" / "000007.png"
    lost.unlink()
    _, errors = end(start(__file__, *train_flags(
        tmp_path, "--run", "lost", "--batch_size", 2, "--steps", 9)), 2)
    assert str(lost) in errors and errors.count("\n") == 1


if __name__ == "__main__":
    train.deeplab_v3 = stand_in
    run_script(train.main)
