"""benchmarks/peer_accuracy.py: the peers' batches are train.py's, equal time, and what is kept."""

import numpy as np
import pandas as pd
import pytest
import tensorflow.compat.v1 as tf
from conftest import class_table, write_tile_set

import train
from benchmarks import peer_accuracy
from utils.data.tiles import TileSet

SIDE, STEPS = 64, 3


@pytest.fixture
def tile_set(tmp_path):
    random = np.random.default_rng(0)
    write_tile_set(tmp_path, [(random.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8),
                               random.integers(0, 5, (SIDE, SIDE)).astype(np.uint8))
                              for _ in range(5)])
    return TileSet(str(tmp_path), class_table(5))


def flags(tile_set, seed):
    return ["--dataset", tile_set.folder, "--batch_size", "2", "--seed", str(seed),
            *peer_accuracy.FLAGS.split()]


def batches_of_the_step(monkeypatch, tile_set, seed):
    """(images, labels) that the graph of train.py trains on, step by step."""
    seen = []

    def network(images, config, batch_norm=None, **_):
        if batch_norm is not None:
            seen.append(images)
        with tf.variable_scope("resnet_v2_50", reuse=tf.AUTO_REUSE):
            return tf.cast(images, tf.float32) @ tf.get_variable("weights", [3, 5]), None

    def loss(logits, labels, *_):
        seen.append(labels)
        return tf.reduce_mean(logits)

    monkeypatch.setattr(train, "deeplab_v3", network)
    monkeypatch.setattr(train.losses, "segmentation_loss", loss)
    args, _ = train.parse_arguments(flags(tile_set, seed))
    with tf.Graph().as_default(), tf.Session() as session:
        devices = train.choose_devices(None, args.batch_size, None)
        graph = train.build_graph(args, train.choose_settings(args, tile_set, [], None), tile_set,
                                  devices)
        session.run(tf.global_variables_initializer())
        session.run(graph.start_of_data)
        return [session.run([*seen, graph.update])[:2] for _ in range(STEPS)]


def test_peers_get_the_batches_of_train_in_its_order(monkeypatch, tile_set, tmp_path):
    folder = str(tmp_path / "batches")
    peer_accuracy.write_batches(folder, flags(tile_set, 3), tile_set, STEPS)
    images, labels = (np.load(f"{folder}/{part}.npy") for part in ("images", "labels"))
    expected = [np.stack(part) for part in zip(*batches_of_the_step(monkeypatch, tile_set, 3))]
    np.testing.assert_array_equal(images, expected[0])
    np.testing.assert_array_equal(labels, expected[1])
    assert (labels == 255).any()  # reduced tiles do not fill a crop


def test_batches_are_written_again_only_where_more_are_needed(tile_set, tmp_path):
    folder = str(tmp_path / "batches")
    for steps, there in ((2, 2), (1, 2), (3, 3)):
        peer_accuracy.write_batches(folder, flags(tile_set, 0), tile_set, steps)
        assert len(np.load(f"{folder}/images.npy")) == there


@pytest.fixture
def run_main(monkeypatch, tile_set, tmp_path):
    """Function() -> [(network, seed, steps) that stand-ins trained]."""
    trained = []

    def stand_in(seconds):
        def measure(*arguments):
            trained.append(arguments[-3:])
            return dict(zip(peer_accuracy.SCORES, (.5, .75, seconds)))
        return measure

    monkeypatch.setattr(peer_accuracy, "read_classes", lambda _: class_table(5))
    monkeypatch.setattr(peer_accuracy, "train_ours", stand_in(1.0))
    monkeypatch.setattr(peer_accuracy, "train_peer", stand_in(4.0))

    def run(*more):
        trained.clear()
        peer_accuracy.main(["--dataset", tile_set.folder, "--peer", "python", "--work",
                            str(tmp_path / "work"), "--out", str(tmp_path / "peers.csv"),
                            "--steps", "20", "--networks", "smp", *more])
        return list(trained)
    return run


def test_peers_train_as_many_steps_and_as_long_as_ours(run_main, tmp_path):
    assert run_main("--seeds", "0") == [("ours", 0, 20), ("smp", 0, 20), ("smp", 0, 5)]
    assert run_main("--seeds", "0", "1") == [("ours", 1, 20), ("smp", 1, 20), ("smp", 1, 5)]
    rows = pd.read_csv(tmp_path / "peers.csv")
    assert len(rows) == 6 and set(rows["mean-IoU"]) == {.5}
