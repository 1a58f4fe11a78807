"""utils/training/tensorboard.py, read back by TensorBoard's own reader and its HPARAMS plugin."""

import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, list_session_groups
from tensorboard.plugins.hparams.backend_context import Context

from utils.training.tensorboard import (EventWriter, finished_summary, scalar_summary,
                                        settings_summary)

SETTINGS = {"model": {"backbone": "resnet_v2_50", "multi_grid": [1, 2, 4]}, "tile_size": 64,
            "classes": [], "training": {"seed": 3, "learning_rate": 2e-4, "pretrained": None}}


def write_points(folder, steps, value, graph=None, settings=None, finished=False):
    writer = EventWriter(folder, min(steps), graph)
    if settings:
        writer.add_summary(settings_summary(settings), min(steps) - 1)
    for step in steps:
        writer.add_summary(scalar_summary({"loss": value, "best/mean_iou": value / 10}), step)
    if finished:
        writer.add_summary(finished_summary(), max(steps))
    writer.close()


def tensorboard(folder):
    return EventAccumulator(str(folder)).Reload()


def points(folder):
    return [(point.step, point.value) for point in tensorboard(folder).Scalars("loss")]


def test_tensorboard_shows_points_and_graph(tmp_path):
    with tf.Graph().as_default() as graph:
        tf.constant([1, 2], name="here")
    write_points(str(tmp_path / "new"), [1, 2], 5, graph)
    assert points(tmp_path / "new") == [(1, 5), (2, 5)]
    [node] = tensorboard(tmp_path / "new").Graph().node
    assert node.name == "here" and "_output_shapes" in node.attr


def test_a_histogram_op_can_be_written_as_it_comes(tmp_path):
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        summary = session.run(tf.summary.histogram("weights", tf.constant(values)))
    writer = EventWriter(str(tmp_path), 1)
    writer.add_summary(summary, 7)
    writer.close()
    [histogram] = tensorboard(tmp_path).Histograms("weights")
    assert histogram.step == 7 and histogram.histogram_value.num == 1000
    assert histogram.histogram_value.sum == pytest.approx(values.sum(dtype=np.float64), rel=1e-5)
    assert histogram.histogram_value.max == values.max()


def test_a_kill_loses_no_point(tmp_path):
    """All can be read while the file is still open."""
    writer = EventWriter(str(tmp_path), 1)
    writer.add_summary(scalar_summary({"loss": 5}), 1)
    assert points(tmp_path) == [(1, 5)]
    writer.add_summary(scalar_summary({"loss": 6}), 2)
    assert points(tmp_path) == [(1, 5), (2, 6)]


def test_points_after_the_checkpoint_are_replaced_by_the_resumed_runs(tmp_path, monkeypatch):
    write_points(str(tmp_path), [1, 2, 3, 4], 5)
    monkeypatch.setattr("utils.training.tensorboard.time.time",
                        lambda: os.stat(tmp_path).st_mtime + 60)
    write_points(str(tmp_path), [3], 6)
    assert len(os.listdir(tmp_path)) == 2
    assert points(tmp_path) == [(1, 5), (2, 5), (3, 6)]


def test_on_a_full_disk_the_file_is_named_and_earlier_points_stay(small_disk):
    writer = EventWriter(str(small_disk / "run"), 1)
    writer.add_summary(scalar_summary({"loss": 5}), 1)
    (small_disk / "filler").write_bytes(bytes(1_000_000))
    with pytest.raises(OSError, match=r"run/events.out.tfevents.*: could not be written \(No space "
                                      r"left on device\); free some space"):
        for step in range(2, 2000):
            writer.add_summary(scalar_summary({"loss": 5, "a" * 1000: 5}), step)
    shown = points(small_disk / "run")
    assert shown == [(number, 5) for number in range(1, len(shown) + 1)] and shown


def test_a_folder_that_cannot_be_made_is_an_oserror(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/run/events.*could not be written"):
        EventWriter(str(tmp_path / "file" / "run"), 1)


def hparams_sessions(logs):
    """{session name: (status, hparams, metrics)} as TensorBoard's HPARAMS tab asks for them."""
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(logs))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(logs))
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=10,
        allowed_statuses=[api_pb2.STATUS_RUNNING, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_UNKNOWN])
    response = list_session_groups.Handler(
        RequestContext(), Context(TBContext(data_provider=provider)), "", request).run()
    sessions = {}
    for group in response.session_groups:
        [session] = group.sessions
        sessions[session.name] = (session.status, {
            name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()
        }, {metric.name.tag: metric.value for metric in session.metric_values})
    return sessions


def test_runs_are_compared_in_the_hparams_tab_and_a_resumed_one_stands_there_once(
        tmp_path, monkeypatch):
    write_points(str(tmp_path / "a"), [1, 2, 3], 5, settings=SETTINGS)
    other = SETTINGS | {"training": SETTINGS["training"] | {"learning_rate": 1e-3}}
    write_points(str(tmp_path / "b"), [1, 2], 7, settings=other, finished=True)
    monkeypatch.setattr("utils.training.tensorboard.time.time",
                        lambda: os.stat(tmp_path).st_mtime + 60)
    write_points(str(tmp_path / "a"), [3, 4], 6, settings=SETTINGS)
    sessions = hparams_sessions(tmp_path)
    assert set(sessions) == {"a", "b"}
    status, settings, scores = sessions["a"]
    assert status != api_pb2.STATUS_SUCCESS
    assert settings == {"backbone": "resnet_v2_50", "multi_grid": "[1, 2, 4]", "tile_size": 64,
                        "seed": 3, "learning_rate": 2e-4, "pretrained": "None"}
    assert scores == {"loss": 6, "best/mean_iou": pytest.approx(.6)}
    status, settings, scores = sessions["b"]
    assert status == api_pb2.STATUS_SUCCESS and settings["learning_rate"] == 1e-3
    assert scores["best/mean_iou"] == pytest.approx(.7)
