"""Downloads from a server of the test's own: whole, interrupted, refused, and of a wrong file."""

import http.server
import io
import os
import socket
import tarfile
import threading

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from deeplab_v3 import ModelConfig
from utils.training import download, pretrained


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends the server's `content`, at most `limit` bytes of it, or answers `refuses`.

    Where the server's `silent` is an event, the connection stays open until it is set.
    """

    def do_GET(self):
        self.server.asked += 1
        if self.server.refuses:
            self.send_error(self.server.refuses)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[:self.server.limit])
        if self.server.silent:
            self.server.silent.wait(30)

    def log_message(self, *_):
        pass


def archive_of(folder, names, outside=()):
    """Bytes of a .tar.gz with the files of `folder` under the model zoo's names and others."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name in names:
            archive.add(os.path.join(folder, name), f"xception/{name}")
        for name in ("xception/train.pbtxt", *outside):
            archive.addfile(tarfile.TarInfo(name))
    return data.getvalue()


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A server of the model zoo's Xception: one variable; the cache is tmp_path/home."""
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("xception_65/entry_flow/conv1_1/weights", initializer=np.ones(
            [3, 3, 3, 32], np.float32))
        session.run(tf.global_variables_initializer())
        (tmp_path / "made").mkdir()
        tf.train.Saver().save(session, str(tmp_path / "made/model.ckpt"), write_meta_graph=False)
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.names = [name for name in os.listdir(tmp_path / "made") if name != "checkpoint"]
    assert len(server.names) == 2
    server.content = archive_of(tmp_path / "made", server.names)
    server.limit, server.refuses, server.silent, server.asked = None, None, None, 0
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(pretrained.MODEL_ZOO, "xception_65",
                        f"http://127.0.0.1:{server.server_port}/weights.tar.gz")
    yield server
    server.shutdown()
    server.server_close()


def read_imagenet():
    return pretrained.read_pretrained("imagenet", ModelConfig(5, "xception_65"))


def test_imagenet_of_xception_is_fetched_once_and_read(zoo, tmp_path):
    assert pretrained.origin_of("imagenet", "xception_65") == "slim"
    for _ in range(2):
        assert set(read_imagenet()) == {"xception_65/entry_flow/conv1_1/weights"}
    assert zoo.asked == 1
    models = tmp_path / "home/models"
    assert os.listdir(models) == ["xception_65_imagenet"]
    # A damaged file is found by TensorFlow's own checksums.
    data, = models.rglob("*.data-0*")
    damaged = bytearray(data.read_bytes())
    damaged[100] ^= 1
    data.write_bytes(damaged)
    with pytest.raises(ValueError, match="not a checkpoint that TensorFlow reads"):
        read_imagenet()


def test_what_is_broken_leaves_nothing_that_is_taken_for_weights(zoo, tmp_path):
    whole, models = zoo.content, tmp_path / "home/models"
    for content, limit, error, reason in (
            (whole, 100, OSError, "could not be fetched .*retrieval incomplete"),
            (b"<html>Log in to this network</html>", None, ValueError, "not an archive"),
            (whole[:len(whole) // 2], None, ValueError, "not an archive"),
            (archive_of(tmp_path / "made", []), None, ValueError, "not an archive of one"),
            (archive_of(tmp_path / "made", zoo.names, ["../../escaped"]), None, ValueError,
             "not an archive .*escaped")):
        zoo.content, zoo.limit = content, limit
        with pytest.raises(error, match=f"weights.tar.gz: {reason}"):
            read_imagenet()
        assert os.listdir(models) == []
    assert not list(tmp_path.rglob("escaped*"))
    zoo.content, zoo.limit = whole, None
    read_imagenet()  # trying again helps


def test_a_cache_that_cannot_be_written_serves_what_is_in_it(zoo, tmp_path, monkeypatch):
    read_imagenet()
    zoo.refuses = 404
    read_imagenet()
    (tmp_path / "file").touch()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match="imagenet: .*file/models: the checkpoint cannot be written "
                                      "there .*KERAS_HOME"):
        read_imagenet()


def test_a_server_that_refuses_is_told_with_the_ways_out(zoo):
    zoo.refuses = 404
    with pytest.raises(OSError, match="imagenet: http.*could not be fetched .*404.*model.ckpt, or "
                                      "use --pretrained none"):
        read_imagenet()


def test_a_server_that_falls_silent_is_not_waited_for(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", .2)
    zoo.limit, zoo.silent = 100, threading.Event()
    try:
        with pytest.raises(OSError, match="could not be fetched .*timed out.*--pretrained none"):
            read_imagenet()
    finally:
        zoo.silent.set()
    assert socket.getdefaulttimeout() is None
    assert os.listdir(tmp_path / "home/models") == []


@pytest.mark.parametrize("large", ["archive", "what is in it"])
def test_on_a_full_disk_the_folder_is_named(zoo, small_disk, monkeypatch, large):
    monkeypatch.setenv("KERAS_HOME", str(small_disk))
    (small_disk.parent / "zeros").write_bytes(bytes(2_000_000))
    zoo.content = (os.urandom(2_000_000) if large == "archive" else
                   archive_of(small_disk.parent, ["zeros"]))
    with pytest.raises(OSError, match="imagenet: .*disk/models: could not be written .No space "
                                      "left.*KERAS_HOME"):
        read_imagenet()
    assert os.listdir(small_disk / "models") == []


def test_keras_has_no_xception_65(tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"")
    with pytest.raises(ValueError, match="weights.h5: .*Keras's, which has no xception_65"):
        pretrained.read_pretrained(str(tmp_path / "weights.h5"), ModelConfig(5, "xception_65"))
