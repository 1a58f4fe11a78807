"""utils/locks.py: one process at a time; who holds a lock; what a killed one leaves."""

import os
import signal
import subprocess
import sys

import filelock
import pytest

import preprocess
import train
from utils.locks import LOCK, locked

HOLD = """
import sys
from utils.locks import locked
with locked(sys.argv[1], "wait"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path, repository):
    """A process that holds the lock of the folder 'run'."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], cwd=repository,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_told_who_holds_it_and_since_when(holder, tmp_path):
    run = str(tmp_path / "run")
    for _ in range(2):  # asking takes nothing away
        with pytest.raises(OSError) as error, locked(run, "choose another --run"):
            pass
        line = str(error.value)
        assert line.startswith(f"{run}: in use by process {holder.pid} on host {os.uname()[1]} "
                               "since 2") and line.endswith(f"(-c {run}); choose another --run")
    holder.communicate()
    assert not os.path.exists(run)  # it held nothing else, and was not there before
    with locked(run, ""):
        assert os.listdir(run) == [LOCK]


def test_a_killed_process_blocks_nobody(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / LOCK).read_text().startswith('{"host": ')
    with locked(str(tmp_path / "run"), ""):
        (tmp_path / "run" / "settings.json").touch()
    assert os.listdir(tmp_path / "run") == ["settings.json"]


def test_the_scripts_leave_what_another_process_works_on_alone(tmp_path, refusal):
    with locked(str(tmp_path / "set"), ""):
        assert "set: in use by process " in refusal(preprocess, "--dataset", tmp_path / "set")
    with locked(str(tmp_path / "logs" / "a"), ""):
        line = refusal(train, "--logs", tmp_path / "logs", "--run", "a", "--devices", 1)
        assert "logs/a: in use by process " in line
    assert os.listdir(tmp_path) == []


def test_a_lock_is_let_go_after_an_error_too(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), locked(str(tmp_path / "logs" / "run"), ""):
            raise KeyError
    assert not os.listdir(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/run: cannot be written to .Not a directory"):
        with locked(str(tmp_path / "file" / "run"), ""):
            pass


def test_without_locks_a_warning_says_so(tmp_path, monkeypatch, capsys):
    def none_here(*_):
        raise OSError(38, "Function not implemented")
    monkeypatch.setattr(filelock.FileLock, "_acquire", none_here)
    with locked(str(tmp_path), ""):
        pass
    assert capsys.readouterr().out == (f"warning: {tmp_path}: its file system has no locks "
                                       "(Function not implemented), so let no other process write "
                                       "there\n")
