"""utils/training/environment.py, in and out of git."""

import json
import platform
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from utils.training.environment import code_version, describe_environment


def git(folder, *arguments):
    done = subprocess.run(["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b",
                           *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A folder with one commit of one file."""
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_a_commit_and_whether_its_files_were_changed(checkout):
    commit = git(checkout, "rev-parse", "HEAD")
    (checkout / "notes.txt").write_text("not part of the code")
    assert code_version(str(checkout)) == {"commit": commit, "dirty": False}
    (checkout / "code.py").write_text("2\n")
    assert code_version(str(checkout)) == {"commit": commit, "dirty": True}


def test_a_folder_unpacked_below_another_repository_has_no_version(checkout):
    (checkout / "unpacked").mkdir()
    assert code_version(str(checkout / "unpacked")) == {"commit": None, "dirty": None}


def test_without_git_there_is_no_version(tmp_path, checkout, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert code_version(str(checkout)) == {"commit": None, "dirty": None}


def test_outside_of_a_repository_there_is_no_version(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code_version(str(tmp_path)) == {"commit": None, "dirty": None}


def test_the_environment_is_told_in_plain_values(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--run", "a b"])
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    told = describe_environment()
    assert json.loads(json.dumps(told)) == told
    assert told["command"].endswith("train.py --run 'a b'")
    assert told["python"] == platform.python_version()
    assert told["packages"]["tensorflow"] == tf.__version__
    assert told["packages"]["numpy"] == np.__version__
    assert told["variables"]["TF_ENABLE_ONEDNN_OPTS"] == "1"
    assert told["cpu"] and told["cores"] >= 1 and isinstance(told["gpus"], list)
    assert set(told["code"]) == {"commit", "dirty"}
