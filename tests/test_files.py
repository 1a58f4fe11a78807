"""utils/files.py: sets of files are replaced whole or not at all."""

import os
import shutil
import socket
import subprocess
import sys

import pytest

from utils import files
from utils.files import replace_set


def test_a_replacement_cut_short_leaves_no_list_of_other_tiles(tmp_path, monkeypatch):
    folders, files = ("train/images", "train/labels"), ("classes.csv", "list.csv")
    rename = os.rename
    for allowed in range(9):
        target, source = tmp_path / f"target{allowed}", tmp_path / f"source{allowed}"
        for place in (target, source):
            for name in folders:
                (place / name).mkdir(parents=True)
                (place / name / "0.png").write_text(place.name)
            for name in files:
                (place / name).write_text(place.name)
        left = [allowed]

        def rename_or_fail(old, new, left=left):
            if not left[0]:
                raise OSError("cut short")
            left[0] -= 1
            rename(old, new)

        monkeypatch.setattr(os, "rename", rename_or_fail)
        try:
            replace_set(str(target), str(source), folders, files)
        except OSError:
            assert allowed < 8
        else:
            assert allowed == 8
        if (target / "list.csv").exists():
            contents = {(target / name / "0.png").read_text() for name in folders}
            contents |= {(target / name).read_text() for name in files}
            assert contents == {(target / "list.csv").read_text()}


@pytest.fixture
def dead():
    """Number of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_what_killed_processes_left_goes_with_the_next_file_and_nothing_else(tmp_path, dead):
    here, own = socket.gethostname(), os.getpid()
    gone = [f".partial-{dead}@{here}@a.tif", f".partial-{dead}-of-old.tif",
            f".partial-{dead}@{here}@b.tif.aux.xml"]
    left = [f".partial-{dead}@other@a.tif", f".partial-{own}@{here}@b.tif", ".partial-mine.tif",
            f".partial-1@{here}@c.tif", f"a.partial-{dead}-b", f".partial-tiles-{dead}",
            f".partial-{dead}@{here}2@a.tif"]
    for name in gone + left:
        (tmp_path / name).touch()
    (tmp_path / f".partial-{dead}@{here}@model").mkdir()
    (tmp_path / f".partial-{dead}@{here}@model" / "weights").touch()
    files.write_text(str(tmp_path / "new.txt"), "new")
    assert sorted(os.listdir(tmp_path)) == sorted([*left, "new.txt"])


@pytest.mark.parametrize("spoil, reason", [
    (lambda folder: shutil.rmtree(folder),
     "No such file or directory.; it was removed or renamed meanwhile"),
    (lambda folder: os.makedirs(folder / "a.txt" / "b"), "Is a directory.; check the disk")])
def test_an_error_gives_its_own_cause(tmp_path, spoil, reason):
    with pytest.raises(OSError, match=f"a.txt: could not be written .{reason}"):
        with files.replacing(str(tmp_path / "out" / "a.txt")) as temporary:
            open(temporary, "w").close()
            spoil(tmp_path / "out")
