"""Numbers on the command line: the ends of each range, and what is said of others."""

import argparse
import os
import signal
import subprocess
import sys

import pytest

from conftest import REPOSITORY

import utils
from utils import cli


@pytest.mark.parametrize("name,good,bad,range_", [
    ("positive", ["1", "9223372036854775807"], ["0", "-1", "1e20", "1.5", "9223372036854775808"],
     "a whole number from 1 to below 2^63"),
    ("natural", ["0"], ["-1", "nan"], "a whole number from 0 to below 2^63"),
    ("port", ["1024", "65535"], ["1023", "65536"], "a whole number from 1024 to 65535"),
    ("non_negative", ["0", "1e9"], ["-1e-9", "inf", "nan", "1e999"], "a number from 0"),
    ("above_zero", ["1e-9"], ["0", "inf", "x"], "a number above 0"),
    ("probability", ["0", "1"], ["-.1", "1.1", "nan"], "a number from 0 to 1"),
    ("share", ["0", ".99"], ["1", "-.1"], "a number from 0 to below 1"),
    ("part_above_0", [".01", "1"], ["0", "1.1"], "a number above 0 to 1"),
    ("scale", [".1", "10"], [".09", "11"], "a number from 0.1 to 10")])
def test_a_number_out_of_its_range_is_one_line(name, good, bad, range_, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--flag", type=getattr(cli, name))
    for text in good:
        assert float(parser.parse_args([f"--flag={text}"]).flag) == float(text)
    for text in bad:
        with pytest.raises(SystemExit) as left:
            parser.parse_args([f"--flag={text}"])
        assert left.value.code == 2
        assert capsys.readouterr().err.endswith(f"argument --flag: {text} is not {range_}\n")


@pytest.mark.parametrize("script", [("preprocess.py",), ("predict.py",), ("train.py",),
                                    ("-m", "utils.metrics")])
def test_ctrl_c_while_a_script_is_loaded_is_no_traceback(tmp_path, script):
    """The signal comes when numpy, a stand-in here, is loaded."""
    (tmp_path / "numpy.py").write_text("import os, signal, time\n"
                                       "os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    done = subprocess.run([sys.executable, *script], cwd=REPOSITORY, text=True, capture_output=True,
                          env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr in ("", "\ninterrupted\n")  # TensorFlow is loaded without an error stream


def test_run_script_gives_ctrl_c_back_to_python(monkeypatch, capsys):
    before = signal.signal(signal.SIGINT, utils.end_at_once)
    try:
        with pytest.raises(SystemExit) as left:
            cli.run_script(lambda: os.kill(os.getpid(), signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert left.value.code == 130 and capsys.readouterr().err == "\ninterrupted\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("printed", ["'x'", "'x', flush=True", "'x' * 100000"])
def test_an_output_on_a_full_disk_is_named(printed, unbuffered):
    script = f"from utils.cli import run_script\nrun_script(lambda: print({printed}))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, text=True,
                              stdout=full, stderr=subprocess.PIPE,
                              env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    assert done.returncode == 2
    assert done.stderr == ("-c: error: standard output: could not be written (No space left on "
                           "device); read it to its end or send it to a file on a disk with free "
                           "space\n")
