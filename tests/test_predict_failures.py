"""predict.py with a known model: what goes wrong half-way, and inputs that are refused."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import rasterio

import predict
from predict_stand_in import (  # noqa: F401  (fixtures)
    brightest, call, logs, samples_of, write_geotiff)
from utils.cli import run_script
from utils.data.scenes import write_png


def test_a_failure_half_way_leaves_no_map(call, tmp_path):
    path = write_geotiff(tmp_path / "in" / "a.tif", samples_of(600, 300))
    done = []

    def failing(windows):
        done.append(len(windows))
        if len(done) > 2:
            raise ValueError("the model broke")
        return brightest(windows)

    with pytest.raises(ValueError, match="the model broke"):
        call("--image", path, "--probabilities", predictor=failing)
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_half_way_no_map_stands(logs, tmp_path, repository, number):
    path = write_geotiff(tmp_path / "in" / "a.tif", samples_of(700, 300))
    out = tmp_path / "out"
    script = tmp_path / "slow.py"
    script.write_text(textwrap.dedent("""
        import contextlib, sys, time
        import numpy as np
        import predict
        from utils.cli import run_script

        def slow(windows):
            time.sleep(.05)
            print("window", flush=True)
            return np.full((*windows.shape[:3], 3), 1 / 3, np.float32)

        run_script(lambda: predict.main(None, lambda *_: contextlib.nullcontext([slow])))
    """))
    process = subprocess.Popen(
        [sys.executable, str(script), "--logs", str(logs), "--run", "stand-in", "--image", path,
         "--out", str(out)],
        cwd=repository, env=os.environ | {"PYTHONPATH": str(repository)}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line == "window\n":
            break
    while not os.listdir(out):
        assert process.poll() is None, process.communicate()
        time.sleep(.01)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    left = os.listdir(out)
    assert not [name for name in left if not name.startswith(".partial-")]
    assert number == signal.SIGKILL or left == []


def _mount(folder, options):
    """Mounts a small tmpfs on `folder`, or skips the test where that is not allowed."""
    os.makedirs(folder)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder],
                             capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")


@pytest.mark.parametrize("size", [20, 60, 120, 200, 1000])
def test_a_full_disk_is_one_line_that_names_the_file(call, tmp_path, capfd, size):
    """Whatever file the disk fills up under, the class map's name is not taken."""
    path = write_geotiff(tmp_path / "in" / "a.tif", samples_of(400, 500))
    _mount(str(tmp_path / "out"), f"size={size}k")
    try:
        with pytest.raises(OSError, match="out/a_.*could not be written .No space left on "
                           "device.; free some space") as error:
            call("--image", path, "--probabilities")
        assert len(str(error.value).splitlines()) == 1
        assert str(error.value).count("could not be written") == 1
        assert not [name for name in os.listdir(tmp_path / "out") if "class.tif" in name]
        assert capfd.readouterr().err == ""
    finally:
        subprocess.run(["umount", str(tmp_path / "out")], check=True)


def test_a_read_only_folder_is_named_before_the_work(call, tmp_path):
    path = write_geotiff(tmp_path / "in" / "a.tif", samples_of(64, 64))
    _mount(str(tmp_path / "out"), "size=100k,ro")
    try:
        with pytest.raises(OSError, match="out: not writable"):
            call("--image", path)
        assert not call.models
    finally:
        subprocess.run(["umount", str(tmp_path / "out")], check=True)


def test_inputs_are_refused_before_the_model_is_built(call, logs, tmp_path):
    path = write_geotiff(tmp_path / "in" / "a.tif", samples_of(700, 90))
    with open(path, "rb") as file:
        data = file.read()
    for kept in (0, 20, len(data) // 2, len(data) - 2):
        (tmp_path / "in" / "cut.tif").write_bytes(data[:kept])
        with pytest.raises(ValueError, match="cut.tif: truncated or not an image"):
            call("--image", tmp_path / "in" / "cut.tif")
    one = write_geotiff(tmp_path / "in" / "one.tif", samples_of(64, 64, 1))
    with pytest.raises(ValueError, match=r"one.tif: 1 band\(s\) of uint8; a scene needs three"):
        call("--image", one)
    label = np.zeros((700, 90), np.uint8)
    write_png(str(tmp_path / "small.png"), label[1:])
    with pytest.raises(ValueError, match="small.png: 699 x 90 pixels.* has 700 x 90"):
        call("--image", path, "--label", tmp_path / "small.png")
    label[-1, -1] = 3
    for name in ("unknown.png", "unknown.tif"):
        write_png(str(tmp_path / "unknown.png"), label)
        write_geotiff(tmp_path / "unknown.tif", label[None])
        with pytest.raises(ValueError, match=f"{name}: label value 3 is not in the class table"):
            call("--image", path, "--label", tmp_path / name)
    os.makedirs(logs / "bare" / "best", exist_ok=True)
    with pytest.raises(FileNotFoundError, match="bare: no run there .no settings.json"):
        call("--image", path, "--run", "bare")
    assert not call.models and os.listdir(tmp_path / "out") == []


@pytest.fixture(name="archive")
def archive_fixture(tmp_path):
    """Paths of five scenes, of which the first and the last can be mapped."""
    paths = [write_geotiff(tmp_path / "in" / name, samples_of(70, 80))
             for name in ("a.tif", "gone.tif", "odd.tif", "z.tif")]
    os.remove(paths[1])
    with rasterio.open(tmp_path / "in" / "complex.tif", "w", driver="GTiff", count=3, height=70,
                       width=80, dtype="complex_int16"):
        pass
    # Linux lets a name be any bytes.
    latin = os.fsencode(tmp_path / "in") + b"/caf\xe9.tif"
    os.rename(paths[2], latin)
    return [paths[0], paths[1], str(tmp_path / "in" / "complex.tif"), os.fsdecode(latin), paths[3]]


def test_bad_scenes_of_many_are_a_line_each_and_the_others_are_mapped(call, archive, capsys):
    with pytest.raises(SystemExit) as left:
        run_script(lambda: call("--image", *archive)[0])
    output = capsys.readouterr()
    errors = [line.split(": ", 2)[2] for line in output.err.splitlines()]
    folder = os.path.dirname(archive[0])
    assert left.value.code == 2 and len(errors) == 3
    assert errors[0].startswith(f"{folder}/gone.tif: could not be read (No such file")
    assert errors[1].startswith(f"{folder}/complex.tif: samples of complex_int16; convert")
    assert errors[2] == rf"{folder}/caf\xe9.tif: its name, or a folder's, is not UTF-8; rename it"
    assert r"caf\xe9: failed; see the end" in output.out
    assert {"a_class.tif", "z_class.tif"} <= set(os.listdir(os.path.join(folder, "..", "out")))


def test_an_unforeseen_error_is_of_its_scene_alone(call, archive, capsys, monkeypatch):
    def describe(image, seen):
        if image.path == archive[0]:
            raise TypeError("what\nnobody thought of")
        return ""
    monkeypatch.setattr("predict.describe", describe)
    status, out = call("--image", archive[0], archive[-1])
    errors = capsys.readouterr().err
    assert status == 2 and errors.count("\n") == 1
    assert f"{archive[0]}: TypeError: what nobody thought of; " in errors
    assert "z_class.tif" in os.listdir(out) and "a_class.tif" not in os.listdir(out)
    with pytest.raises(ValueError, match="a.tif: TypeError: what"):
        call("--image", archive[0])


def test_a_run_that_cannot_be_opened_is_told_once(logs, archive, tmp_path):
    def open_predictors(*_):
        raise ValueError("best/step-7: checkpoint is damaged; restore it")
    with pytest.raises(ValueError, match="checkpoint is damaged"):
        predict.main(["--logs", str(logs), "--run", "stand-in", "--out", str(tmp_path / "out"),
                      "--image", archive[0], archive[-1]], open_predictors)
