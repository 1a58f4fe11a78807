"""A step on several devices and hosts against one: real processes of this file's own script.

python test_devices.py TILES DEVICES RESULT.npz [WITHOUT_SYNC.npz MUON.npz] takes one training step
of a small network of our own layers, losses and train op, and saves its loss and all variables.
"""

import contextlib
import sys
import types

import utils.quiet  # noqa: F401  (before TensorFlow)

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from conftest import class_table, free_ports, tf_config, write_tile_set
from deeplab_v3 import _dropout
from processes import end, start
from utils import layers
from utils.data.input_pipeline import training_batches
from utils.data.tiles import TileSet
from utils.distributed import cluster, devices, replicas
from utils.training import ema, losses, optimizer

BATCH, SIZE, CLASSES, RATE = 4, 16, 3, 0.5


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
    started = [start(__file__, folder, 2, *(
        folder / f"{name}.npz" for name in ("two", "apart", "two_muon")))]
    started += [start(__file__, folder, 1, folder / f"host{index}.npz",
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


def test_a_model_too_large_for_the_memory_ends_with_what_to_lower():
    with pytest.raises(MemoryError, match="does not fit .*lower --width, --batch_size"):
        with devices.session_on(devices.Devices()):
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")


if __name__ == "__main__":
    for path, *kind in zip(sys.argv[3:], (True, False, True), ("momentum", "momentum", "muon")):
        np.savez(path, **take_a_step(sys.argv[1], int(sys.argv[2]), *kind))
