"""Several devices and hosts against one: real processes, each started as this file's own script.

python test_devices.py step TILES DEVICES RESULT.npz [WITHOUT_SYNC.npz] takes one training step of
a small network of our own layers, losses and train op, and saves its loss and all variables.
python test_devices.py train FLAGS... is train.py on a small network.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import utils.quiet  # noqa: F401  (before TensorFlow)

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from conftest import (REPOSITORY, class_table, free_ports, tf_config, write_small_dataset,
                      write_tile_set)
import train
from deeplab_v3 import _dropout
from utils import layers
from utils.data.input_pipeline import training_batches
from utils.data.tiles import TileSet
from utils.distributed import cluster, devices, replicas
from utils.training import ema, losses, optimizer
from utils.training.checkpoints import BEST, LATEST, Checkpoints
from utils.cli import run_script

BATCH, SIZE, CLASSES, RATE = 4, 16, 3, 0.5
# Only to end a process that hangs; a busy machine may take minutes.
TIMEOUT = 600


def take_a_step(folder, number=1, sync=True, method="momentum"):
    """{'loss' or name: its value after the step} of `number` devices of each host."""
    chosen = devices.choose_devices(number, BATCH)
    with devices.session_on(chosen) as session:
        tile_set = TileSet(folder, class_table(CLASSES))
        step = tf.train.get_or_create_global_step()
        images, labels, start = training_batches(tile_set, BATCH, 5, step,
                                                 (chosen.host, chosen.hosts))
        stop_asked = tf.placeholder_with_default(tf.zeros([], tf.int64), [])
        norm = layers.BatchNorm(True, 0.9, sync=sync)

        def part():
            own_images, own_labels = devices.part_of_batch(chosen, images, labels)
            net = tf.cast(own_images, tf.float32) / 128 - 1
            for scope in ("first", "second"):
                net = layers.conv2d_bn_relu(net, 4, 3, scope, norm)
            net = _dropout(net, 0.5, (7, 8), *replicas.device_number())
            logits = layers.conv2d(net, CLASSES, 1, "logits", use_bias=True)
            loss = losses.segmentation_loss(
                logits, own_labels, losses.LossOptions("dice_cross_entropy", [1, 2, 3], .7, .1),
                replicas.all_reduce_sum)
            loss += optimizer.weight_decay_loss(0.1)
            groups = optimizer.variable_groups("first", .5)
            return {"loss": loss, "stops_asked": replicas.all_reduce_sum(stop_asked),
                    "update": optimizer.train_op(loss, method, RATE, 0.0, step, groups,
                                                 histograms=True)}

        graph = types.SimpleNamespace(stop_asked=stop_asked, **devices.on_each(chosen, part))
        graph.update, _, start_of_averages = ema.keep_averages(
            graph.update, tf.trainable_variables(), .5, step)
        session.run(tf.global_variables_initializer())
        random = np.random.default_rng(1)
        for variable in tf.trainable_variables():
            session.run(variable.assign(random.normal(size=variable.shape).astype(np.float32)))
        session.run(start_of_averages)
        devices.check_alike(chosen, session, graph, {}, tile_set)
        session.run(start)
        # The first device alone has histograms.
        loss, *_ = session.run((graph.loss, graph.update,
                                tf.get_collection(tf.GraphKeys.SUMMARIES)))
        names = [variable.op.name for variable in tf.global_variables()]
        values = session.run([variable.read_value() for variable in tf.global_variables()])
        devices.check_alike(chosen, session, graph, {}, tile_set)
    return {"loss": loss, **dict(zip(names, values))}


def start(script, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)], cwd=REPOSITORY, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}",
             **environment})


def end(process, status=0):
    """(stdout, stderr) of a process that must end with `status`."""
    try:
        output, errors = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    assert process.returncode == status, output + errors
    return output, errors


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """{'one', 'two', 'host0', 'host1', 'apart', two without sync, 'one_muon', 'two_muon':
    take_a_step's values}."""
    folder = tmp_path_factory.mktemp("tiles")
    random, tiles = np.random.default_rng(0), []
    for number in range(6):
        label = random.integers(0, CLASSES, (SIZE, SIZE)).astype(np.uint8)
        label[:number * 2] = 255  # each device counts another number of pixels
        tiles.append((random.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8), label))
    write_tile_set(folder, tiles)
    ports = free_ports(2)
    started = [start(__file__, "step", folder, 2, *(
        folder / f"{name}.npz" for name in ("two", "apart", "two_muon")))]
    started += [start(__file__, "step", folder, 1, folder / f"host{index}.npz",
                      TF_CONFIG=tf_config(ports, index)) for index in range(2)]
    values = {"one": take_a_step(folder), "one_muon": take_a_step(folder, method="muon")}
    for process in started:
        end(process)
    return values | {name: dict(np.load(folder / f"{name}.npz"))
                     for name in ("two", "apart", "two_muon", "host0", "host1")}


@pytest.mark.parametrize("other", ["two", "host0", "host1"])
def test_a_step_on_two_devices_or_hosts_is_that_of_one_on_the_same_batch(steps, other):
    """Loss, weights (by plain gradient descent, so gradients), moving statistics and step."""
    assert set(steps[other]) == set(steps["one"])
    for name, value in steps["one"].items():
        np.testing.assert_allclose(steps[other][name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_step_of_muon_on_two_devices_is_that_on_one(steps):
    assert set(steps["two_muon"]) == set(steps["one_muon"])
    assert "first/weights/Muon" in steps["one_muon"]
    for name, value in steps["one_muon"].items():
        np.testing.assert_allclose(steps["two_muon"][name], value, rtol=1e-3, atol=1e-4,
                                   err_msg=name)


def test_without_sync_each_device_has_statistics_of_its_own(steps):
    """The moving mean is still that of the whole batch, the variance lower than it."""
    one, apart = steps["one"], steps["apart"]
    np.testing.assert_allclose(apart["first/BatchNorm/moving_mean"],
                               one["first/BatchNorm/moving_mean"], rtol=1e-4, atol=1e-5)
    assert not np.allclose(apart["logits/weights"], one["logits/weights"], rtol=1e-3)


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
    return start(__file__, "train", *train_flags(
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


@pytest.mark.parametrize("number, batch, config, message", [
    (1000, 1000, None, "--devices 1000: this host has "),
    (2, 3, None, "--batch_size 3 is not divisible by the 2 devices"),
    (None, 3, cluster.EXAMPLE, "--batch_size 3 is not divisible by the 2 devices"),
    (None, 2, "{}", "TF_CONFIG: no cluster"),
])
def test_what_cannot_be_shared_is_named(monkeypatch, number, batch, config, message):
    monkeypatch.setenv("TF_CONFIG", config or "")
    with pytest.raises(ValueError, match=message):
        devices.choose_devices(number, batch)


@pytest.mark.parametrize("count, batch, sync, refused", [
    (1, 1, False, True), (1, 1, True, True), (2, 2, False, True), (2, 2, True, False),
    (1, 2, False, False), (2, 4, False, False)])
def test_one_tile_on_each_device_is_refused(count, batch, sync, refused):
    expected = pytest.raises(ValueError, match=f"--batch_size {batch}: one tile on each device")
    with expected if refused else contextlib.nullcontext():
        devices.check_batch_norm(devices.Devices(count=count), batch, sync)


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
    hosts = [start(__file__, "train", *train_flags(
        dataset, "--run", "alone", "--batch_size", 4, "--steps", 9,
        *(("--dataset", tmp_path / "none") if index == refused else ())),
        TF_CONFIG=tf_config(ports, index)) for index in range(2)]
    _, errors = end(hosts[refused], 2)
    assert "none" in errors and errors.count("\n") == 1
    _, errors = end(hosts[1 - refused], 2)
    assert "another host ended before the first step of " in errors and errors.count("\n") == 1


def test_averages_of_two_devices_are_saved_as_the_best(dataset):
    output, errors = end(start(__file__, "train", *train_flags(
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
    end(start(__file__, "train", *flags, "--devices", 1))
    _, errors = end(start(__file__, "train", *flags, "--devices", 2), 2)
    assert "one tile on each device" in errors and "fewer --devices" in errors
    assert errors.count("\n") == 1


def test_a_tile_that_was_lost_is_named_in_one_line(dataset, tmp_path):
    shutil.copytree(dataset / "train", tmp_path / "train")
    for name in ("path_list.csv", "validation_list.csv"):
        shutil.copy(dataset / name, tmp_path)
    lost = tmp_path / "train" / "labels" / "000007.png"
    lost.unlink()
    _, errors = end(start(__file__, "train", *train_flags(
        tmp_path, "--run", "lost", "--batch_size", 2, "--steps", 9)), 2)
    assert str(lost) in errors and errors.count("\n") == 1


def test_a_model_too_large_for_the_memory_ends_with_what_to_lower():
    with pytest.raises(MemoryError, match="does not fit .*lower --width, --batch_size"):
        with devices.session_on(devices.Devices()):
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")


def train_on_stand_in():
    train.deeplab_v3 = stand_in
    del sys.argv[1]
    run_script(train.main)


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train_on_stand_in()
    else:
        for path, *kind in zip(sys.argv[4:], (True, False, True), ("momentum", "momentum", "muon")):
            np.savez(path, **take_a_step(sys.argv[2], int(sys.argv[3]), *kind))
