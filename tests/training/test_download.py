"""Downloads from a server of the test's own: whole, interrupted, refused, and of a wrong file."""

import errno
import hashlib
import http.server
import io
import os
import tarfile
import threading

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from deeplab_v3 import ModelConfig
from utils.training import download, pretrained


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends the server's `content`, from the byte asked for on, and at most `limit` bytes of it."""

    def do_GET(self):
        content, begin = self.server.content, 0
        if self.server.refuses:
            self.send_error(self.server.refuses)
            return
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if asked and self.server.ranges:
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        self.wfile.write(content[begin:][:self.server.limit])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """A server on this machine; what it sends is set by `content`, `limit` and `ranges`."""
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.limit, server.ranges, server.asked = os.urandom(5000), None, True, []
    server.refuses = None
    server.url = f"http://127.0.0.1:{server.server_port}/weights.tar.gz"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on_where_it_broke_off(server, tmp_path, ranges):
    path = tmp_path / "file"
    server.limit, server.ranges = 2000, ranges
    with pytest.raises(OSError, match=r"weights.tar.gz: could not be fetched \(the connection broke"
                                      r" after 2000 of 5000 .*2000 bytes are kept in .*file.part"):
        download.download(server.url, str(path), sha256(server.content))
    assert not path.exists()
    server.limit = None
    download.download(server.url, str(path), sha256(server.content))
    assert path.read_bytes() == server.content
    assert server.asked == [None, "bytes=2000-"]
    assert not (tmp_path / "file.part").exists()


@pytest.mark.parametrize("kept", [5000, 6000])
def test_what_is_kept_may_be_complete_or_of_an_older_file(server, tmp_path, kept):
    path = tmp_path / "file"
    (tmp_path / "file.part").write_bytes((server.content * 2)[:kept])
    download.download(server.url, str(path), sha256(server.content))
    assert path.read_bytes() == server.content


def test_another_file_than_the_pinned_or_the_noted_one_is_refused_and_removed(server, tmp_path):
    path = tmp_path / "file"
    with pytest.raises(ValueError, match="not the file it should be: its SHA-256 is .*, not abc"):
        download.download(server.url, str(path), "abc")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file.sha256").write_text(sha256(server.content) + "\n")
    download.download(server.url, str(path))
    os.remove(path)
    server.content = os.urandom(5000)
    with pytest.raises(ValueError, match="its SHA-256 is .*on purpose, remove .*file.sha256"):
        download.download(server.url, str(path))
    with pytest.raises(ValueError, match="not abc; removed; try again$"):  # not by the note
        download.download(server.url, str(path), "abc")
    assert os.listdir(tmp_path) == ["file.sha256"]


@pytest.mark.parametrize("status", [404, 416])
def test_what_the_server_answers_is_told_and_nothing_is_kept(server, tmp_path, status):
    server.refuses = status
    with pytest.raises(OSError, match=rf"could not be fetched \(HTTP Error {status}: .*\)$"):
        download.download(server.url, str(tmp_path / "file"))
    assert os.listdir(tmp_path) == []


def archive_of(folder, names):
    """Bytes of a .tar.gz with the files of `folder` under the model zoo's names and others."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name in names:
            archive.add(os.path.join(folder, name), f"xception/{name}")
        for name in ("../../escaped.data-x", "xception/train.pbtxt"):
            archive.addfile(tarfile.TarInfo(name))
    return data.getvalue()


@pytest.fixture
def zoo(server, tmp_path, monkeypatch):
    """The model zoo's Xception on `server`: one variable; the cache is tmp_path/home."""
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("xception_65/entry_flow/conv1_1/weights", initializer=np.ones(
            [3, 3, 3, 32], np.float32))
        session.run(tf.global_variables_initializer())
        (tmp_path / "made").mkdir()
        tf.train.Saver().save(session, str(tmp_path / "made/model.ckpt"), write_meta_graph=False)
    names = [name for name in os.listdir(tmp_path / "made") if name != "checkpoint"]
    assert len(names) == 2
    server.content = archive_of(tmp_path / "made", names)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(pretrained.MODEL_ZOO, "xception_65", (server.url, None))
    return server


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_imagenet():
    return pretrained.read_pretrained("imagenet", ModelConfig(5, "xception_65"))


def test_imagenet_of_xception_is_fetched_once_and_read(zoo, tmp_path):
    assert pretrained.origin_of("imagenet", "xception_65") == "slim"
    for _ in range(2):
        weights = read_imagenet()
        assert set(weights) == {"xception_65/entry_flow/conv1_1/weights"}
    assert zoo.asked == [None]
    models = tmp_path / "home/models"
    assert sorted(os.listdir(models)) == ["xception_65_imagenet", "xception_65_imagenet.lock",
                                          "xception_65_imagenet.tar.gz.sha256"]
    assert len(os.listdir(models / "xception_65_imagenet")) == 3
    # What would lie outside of its folder lies in it.
    assert list(tmp_path.rglob("escaped*")) == [models / "xception_65_imagenet/escaped.data-x"]
    # A damaged file is found by TensorFlow's own checksums.
    data, = (models / "xception_65_imagenet").glob("*.data-0*")
    damaged = bytearray(data.read_bytes())
    damaged[100] ^= 1
    data.write_bytes(damaged)
    with pytest.raises(ValueError, match="not a checkpoint that TensorFlow reads"):
        read_imagenet()


def test_an_archive_that_cannot_be_unpacked_leaves_nothing_that_is_taken_for_weights(zoo, tmp_path):
    whole, models = zoo.content, tmp_path / "home/models"
    models.mkdir(parents=True)
    for content, kept, reason in (
            (b"<html>Log in to this network</html>", b"", "not a gzip file"),
            (whole[:len(whole) // 2], b"", ".*end-of-stream.*"),
            (archive_of(tmp_path, []), b"", "0 checkpoints in it"),
            # What had come of another file, damaged where no tensor's name or size is.
            (whole, whole[:-8] + b"other", "CRC check failed")):
        zoo.content = content
        (models / "xception_65_imagenet.tar.gz.part").write_bytes(kept)
        with pytest.raises(ValueError, match=rf"tar.gz: not an .* \({reason}.*\); removed"):
            read_imagenet()
        assert os.listdir(models) == ["xception_65_imagenet.lock"]
    read_imagenet()  # trying again helps: nothing else was noted


def test_an_archive_for_which_there_was_no_space_is_not_fetched_again(zoo, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(download.shutil, "copyfileobj", full_disk)
        with pytest.raises(OSError, match="imagenet: .*xception_65_imagenet: could not be written "
                                          r"\(No space.*the archive is kept and not fetched again"):
            read_imagenet()
    assert set(read_imagenet()) == {"xception_65/entry_flow/conv1_1/weights"}
    assert zoo.asked == [None]


def test_a_cache_that_cannot_be_written_serves_what_is_in_it(zoo, tmp_path, monkeypatch):
    read_imagenet()
    models = tmp_path / "home/models"
    (models / "xception_65_imagenet.lock").unlink()
    (models / "xception_65_imagenet.lock").mkdir()  # so that opening it fails, for root too
    assert set(read_imagenet()) == {"xception_65/entry_flow/conv1_1/weights"}
    (tmp_path / "file").touch()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match="imagenet: .*file/models: the checkpoint cannot be written "
                                      "there .*KERAS_HOME"):
        read_imagenet()


def test_without_a_network_the_ways_out_are_told(zoo, monkeypatch):
    monkeypatch.setitem(pretrained.MODEL_ZOO, "xception_65",
                        ("http://127.0.0.1:9/weights.tar.gz", None))
    with pytest.raises(OSError, match="imagenet: http.*could not be fetched .*refused.*model.ckpt, "
                                      "or use --pretrained none"):
        read_imagenet()


def test_keras_has_no_xception_65(tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"")
    with pytest.raises(ValueError, match="weights.h5: .*Keras's, which has no xception_65"):
        pretrained.read_pretrained(str(tmp_path / "weights.h5"), ModelConfig(5, "xception_65"))
