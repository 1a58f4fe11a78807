"""What TensorBoard reads: event files, and a run's settings for the HPARAMS tab."""

import os
import socket
import time

import tensorflow.compat.v1 as tf
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import summary as hparams

from utils.files import remedy
from utils.training.checkpoints import error_reason


class EventWriter:
    """A new event file in `folder`; each event is handed to the system before the call returns.

    tf.summary.FileWriter holds events back for up to two minutes, which a kill loses; and where the
    disk is full it goes on without a word behind a torn record, so that nothing that comes later
    can be read. Here a write that fails is an OSError.
    """

    def __init__(self, folder, next_step, graph=None):
        """next_step: the first that will be written. TensorBoard then drops the points from there
        on that a killed run wrote after its last checkpoint. graph: the tf.Graph to show, if any.
        """
        self.path = os.path.join(folder, f"events.out.tfevents.{int(time.time()):010d}."
                                         f"{socket.gethostname()}.{os.getpid()}")
        try:
            os.makedirs(folder, exist_ok=True)
            self._file = tf.io.TFRecordWriter(self.path)
        except (tf.errors.OpError, OSError) as error:
            raise self._failed(error) from error
        self._write(file_version="brain.Event:2")
        if graph is not None:
            self._write(graph_def=graph.as_graph_def(add_shapes=True).SerializeToString())
        self._write(session_log=tf.SessionLog(status=tf.SessionLog.START), step=next_step)

    def add_summary(self, summary, step):
        """summary: a tf.Summary, or the bytes that a summary op gives."""
        if isinstance(summary, bytes):
            summary = tf.Summary.FromString(summary)
        self._write(summary=summary, step=step)

    def close(self):
        """Ends the file."""
        self._file.close()

    def _write(self, **event):
        try:
            self._file.write(tf.Event(wall_time=time.time(), **event).SerializeToString())
            self._file.flush()
        except tf.errors.OpError as error:
            raise self._failed(error) from error

    def _failed(self, error):
        reason = error_reason(error)
        return OSError(f"{self.path}: could not be written ({reason}); {remedy(reason)}, then "
                       "start the same run again to resume from its last whole checkpoint")


def scalar_summary(values):
    """tf.Summary of tags -> float values."""
    return tf.Summary(value=[tf.Summary.Value(tag=tag, simple_value=float(value))
                             for tag, value in values.items()])


def settings_summary(settings):
    """tf.Summary that puts the settings of a run, plain values, into the HPARAMS tab.

    Written at each start of the run: TensorBoard takes the folder for one session, and the latest
    scalars in it for its scores.
    """
    values = settings["model"] | settings["training"] | {"tile_size": settings["tile_size"]}
    return hparams.session_start_pb({
        name: value if isinstance(value, (bool, int, float)) else str(value)
        for name, value in values.items()})


def finished_summary():
    """tf.Summary that marks the run in the HPARAMS tab as done. TensorBoard keeps the first."""
    return hparams.session_end_pb(api_pb2.STATUS_SUCCESS)
