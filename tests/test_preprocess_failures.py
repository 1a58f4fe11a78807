"""preprocess.py: bad input, interruptions, and disks and outputs that take no more."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from preprocess_runs import (FLAGS, TABLE, files_below, preprocess_command,  # noqa: F401
                             run_preprocess, same_content, tile_set_fixture)

import preprocess
from utils.classes import read_classes
from utils.cli import run_script
from utils.data.scenes import read_label, write_png


def limit_file_size():
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))


@pytest.fixture(name="old_set")
def old_set_fixture(tile_set, tmp_path):
    """A copy of the tile set for a failing rerun, and a check that it is still the same."""
    shutil.copytree(tile_set, tmp_path / "set")
    yield tmp_path / "set"
    names = files_below(tile_set)
    assert files_below(tmp_path / "set") == names
    assert same_content(tile_set, tmp_path / "set", names)
    assert not list((tmp_path / "set").glob(".partial*"))


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on file sizes")
def test_a_disk_that_takes_no_more_ends_in_one_line_and_keeps_the_old_set(old_set):
    result = run_preprocess(old_set, *FLAGS, "--tiles", 80, preexec_fn=limit_file_size)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "could not be written (File too large); free some space" in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_rerun_keeps_the_old_set(old_set, number, status):
    with subprocess.Popen(preprocess_command(old_set, *FLAGS, "--tiles", 1000000), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            deadline = time.monotonic() + 60
            while not list(old_set.glob(".partial*/train/images/000001.png")):
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.02)
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == status
    assert "Traceback" not in errors


def overwrite(name, change):
    def do(origin):
        path = origin / name
        path.write_bytes(change(path.read_bytes()))
    return do


def relabel(value):
    def do(origin):
        label = read_label(str(origin / "2_class.png"), read_classes(TABLE))
        label[17, 19] = value
        write_png(str(origin / "2_class.png"), label)
    return do


def crop_label(origin):
    label = read_label(str(origin / "1_class.png"), read_classes(TABLE))
    write_png(str(origin / "1_class.png"), label[:, 1:])


def remove_labels(origin):
    for name in ("1_class.png", "2_class.png"):
        (origin / name).unlink()


def empty(origin):
    for path in origin.iterdir():
        path.unlink()


def nothing(origin):
    pass


@pytest.mark.parametrize("spoil, flags, complaint", [
    (empty, (), "origin: no scenes there"),
    (nothing, ("--origin", "/no/such/folder"), "/no/such/folder: no scenes there"),
    (overwrite("1.png", lambda data: data[:-300]), (), "1.png: truncated"),
    (overwrite("2_class.png", lambda data: data[:30]), (), "2_class.png: truncated"),
    (overwrite("1.png", lambda data: b"hello"), (), "1.png: truncated or not an image"),
    (crop_label, (), "1_class.png: 300 x 339"),
    (relabel(5), (), "2_class.png: label value 5 is not in the class table"),
    (relabel(254), (), "2_class.png: label value 254 is not"),
    (remove_labels, (), "no scene but the held-out 5 has a label"),
    (remove_labels, ("--scenes", "1"), "its label 1_class.png is missing"),
    (nothing, ("--scenes", "1", "5"), "scene 5 is held out"),
    (nothing, ("--scenes", "1", "9"), "there is no scene 9; there are 1, 2, 5"),
    (nothing, ("--test_scene", "55"), "(--test_scene): there is no scene 55"),
    (nothing, ("--tile_size", "301"), "1.png: 300 x 340 pixels (height x width), smaller than"),
    (nothing, ("--classes", "/no/such.csv"), "/no/such.csv: no class table there"),
    (nothing, ("--tiles", "0"), "--tiles: 0 is not a whole number from 1 to below 2^63"),
    (nothing, ("--seed", "-1"), "--seed: -1 is not a whole number from 0"),
    (nothing, ("--blur", "1.5"), "--blur: 1.5 is not a number from 0 to 1"),
    (nothing, ("--validation_fraction", "0.6"), "--validation_fraction is above 0.5"),
    (nothing, ("--rotate_90", "0.6"), "add up to more than 1"),
    (nothing, ("--gamma_range", "2", "1"), "needs LOW <= HIGH"),
    (nothing, ("--gamma_range", "0", "1"), "0 is not a number above 0"),
    (nothing, ("--gamma_range", "nan", "1"), "nan is not a number above 0"),
])
def test_bad_input_ends_in_one_line_and_status_2(small_dataset, monkeypatch, capfd, spoil, flags,
                                                 complaint):
    spoil(small_dataset / "origin")
    before = files_below(small_dataset)
    monkeypatch.setattr(sys, "argv", preprocess_command(small_dataset, "--tiles", "10", *flags)[1:])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as leaving:
        run_script(preprocess.main)
    assert leaving.value.code == 2
    message = capfd.readouterr().err.splitlines()[-1]
    assert message.startswith("preprocess.py: error: ") and complaint in message
    assert files_below(small_dataset) == before


def test_bad_input_from_the_shell(tmp_path):
    result = run_preprocess(tmp_path / "nowhere")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and "utils.data.demo_scenes" in result.stderr
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("output, status, complaint", [
    (">&-", 0, ""), ("> /dev/full", 2, "standard output: could not be written (No space"),
    ("| true", 2, "standard output: could not be written (Broken pipe)")])
def test_an_output_that_nobody_takes_is_not_blamed_on_the_tiles(small_dataset, output, status,
                                                                complaint):
    result = subprocess.run(
        ["bash", "-c", f'"$@" {output}; exit "${{PIPESTATUS[0]}}"', "bash",
         *preprocess_command(small_dataset, *FLAGS, "--tiles", 4, "--processes", 1)],
        capture_output=True, text=True, timeout=120)
    assert result.returncode == status, result.stderr
    assert complaint in result.stderr and result.stderr.count("\n") == (status != 0)
    assert not [name for name in os.listdir(small_dataset) if "partial" in name]


def test_tiles_that_cannot_fit_are_refused_before_any_is_written(small_dataset, small_disk):
    result = run_preprocess(small_disk, *FLAGS, "--origin", small_dataset / "origin",
                            "--tiles", 1000)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "tiles take about" in result.stderr and "tiles/s" not in result.stdout
    assert not list(small_disk.iterdir())
