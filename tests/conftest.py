"""Fixtures for all tests: tiny random scenes, and the shared data where it is present."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest

# A shell's background job (a CI runner's, perhaps) inherits Ctrl-C as ignored, and so would the
# scripts that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
sys.path.insert(0, str(REPOSITORY))
# As utils.quiet does, for the tests that load TensorFlow by themselves.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from utils.classes import ClassTable  # noqa: E402
from utils.cli import run_script  # noqa: E402
from utils.data.scenes import write_png  # noqa: E402
from utils.data.tile_writer import encode_tile  # noqa: E402
from utils.data.tiles import TRAINING_LIST, VALIDATION_LIST  # noqa: E402
from utils.files import write_bytes, write_text  # noqa: E402


@pytest.fixture(scope="session")
def repository():
    """Path of the repository's root."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data():
    """Path of ../shared/data; skips the test where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"{SHARED_DATA} is not present")
    return SHARED_DATA


@pytest.fixture(scope="session")
def trains_in_bfloat16():
    """Whether TensorFlow can train atrous convolutions in bfloat16 on this processor: not without
    AVX512."""
    import tensorflow.compat.v1 as tf
    with tf.Graph().as_default(), tf.Session() as session:
        inputs, kernel = tf.ones([1, 9, 9, 8], tf.bfloat16), tf.ones([3, 3, 8, 8], tf.bfloat16)
        outputs = tf.nn.conv2d(inputs, kernel, 1, "SAME", dilations=[1, 2, 2, 1])
        try:
            session.run(tf.gradients(outputs, kernel))
        except tf.errors.InvalidArgumentError:
            return False
    return True


@pytest.fixture
def refusal(monkeypatch, capsys):
    """The function refusal(script, *flags): the one line with which a script's module refuses them.

    It is run as its file would be, but in this process, which has TensorFlow already.
    """
    def refuse(script, *flags):
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, flags)])
        with pytest.raises(SystemExit) as left:
            run_script(script.main)
        errors = capsys.readouterr().err
        assert left.value.code == 2 and errors.count("\n") == 1, errors
        assert errors.startswith(f"{script.__name__}.py: error: ")
        return errors
    return refuse


def draw_scene(height, width, num_classes=5, seed=0):
    """(image, label): patches of random classes with an ignored corner, colours by class, noise."""
    random = np.random.default_rng(seed)
    patches = random.integers(0, num_classes, (8, 8)).astype(np.uint8)
    patches[0, 0] = 255
    label = cv2.resize(patches, (width, height), interpolation=cv2.INTER_NEAREST)
    colours = np.random.default_rng(99).integers(30, 225, (256, 3))
    image = np.clip(colours[label] + random.normal(0, 12, (height, width, 3)), 0, 255)
    return image.astype(np.uint8), label


@pytest.fixture(name="draw_scene", scope="session")
def draw_scene_fixture():
    """The function draw_scene(height, width, num_classes=5, seed=0) -> (image, label)."""
    return draw_scene


def write_small_dataset(folder):
    """Writes scenes 1, 2 and 5 with labels to folder/origin; no side is a multiple of 32."""
    for name, height, width in (("1", 300, 340), ("2", 340, 310), ("5", 290, 330)):
        image, label = draw_scene(height, width, seed=int(name))
        write_png(str(folder / "origin" / f"{name}.png"), image)
        write_png(str(folder / "origin" / f"{name}_class.png"), label)
    return folder


def write_settings(run, values):
    """Writes plain values as the settings.json of a run, whatever they are."""
    write_text(os.path.join(run, "settings.json"), json.dumps(values))


def read_settings(run):
    """The plain values of a run's settings.json."""
    with open(os.path.join(run, "settings.json"), encoding="utf-8") as file:
        return json.load(file)


def class_table(count):
    """A ClassTable of so many classes."""
    return ClassTable.from_settings([{"name": f"class {number}", "colour": f"#0000{number:02x}"}
                                     for number in range(count)])


def write_tile_set(folder, tiles):
    """Writes (image, label) pairs as tiles; both lists in `folder` name all of them."""
    rows = []
    for number, (image, label) in enumerate(tiles):
        rows.append((f"images/{number}.png", f"labels/{number}.png"))
        write_bytes(str(folder / rows[-1][0]), encode_tile(image))
        write_png(str(folder / rows[-1][1]), label)
    for name in (TRAINING_LIST, VALIDATION_LIST):
        pd.DataFrame(rows, columns=["image", "label"]).to_csv(folder / name, index=False)


def one_line_error(path):
    """The message of the ValueError that reading `path` ends with; it names the file."""
    from utils.training.pretrained import read_pretrained  # not all tests wait for TensorFlow
    with pytest.raises(ValueError) as error:
        read_pretrained(path)
    assert str(error.value).startswith(path + ": ")
    assert len(str(error.value)) < len(path) + 500
    return str(error.value)


def free_ports(count):
    """Numbers of ports of this machine that nobody uses."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def tf_config(ports, index):
    """TF_CONFIG of worker `index` of those on these ports of this machine."""
    return json.dumps({"cluster": {"worker": [f"127.0.0.1:{port}" for port in ports]},
                       "task": {"type": "worker", "index": index}})


@pytest.fixture
def small_dataset(tmp_path):
    """A folder for --dataset: origin/ holds the labelled scenes of write_small_dataset."""
    return write_small_dataset(tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none",
                                       str(folder)], capture_output=True).returncode:
        pytest.skip("a small disk can only be mounted as root with the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
