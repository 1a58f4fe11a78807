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


@pytest.mark.parametrize("number", range(8))
def test_where_one_cannot_be_moved_all_is_as_before(tmp_path, monkeypatch, number):
    target, source = tmp_path / "target", tmp_path / "source"
    for place in (target, source):
        (place / "train/images").mkdir(parents=True)
        (place / "train/labels").mkdir()
        for name in ("train/images/0.png", "train/labels/0.png", "classes.csv", "list.csv"):
            (place / name).write_text(place.name)
    rename, moves = os.rename, iter(range(100))

    def rename_all_but_one(old, new):
        if next(moves) == number:
            raise OSError("on another disk")
        rename(old, new)

    monkeypatch.setattr(os, "rename", rename_all_but_one)
    with pytest.raises(OSError, match="on another disk"):
        replace_set(str(target), str(source), ("train/images", "train/labels"),
                    ("classes.csv", "list.csv"))
    for place in (target, source):
        found = {str(path.relative_to(place)): path.read_text()
                 for path in place.rglob("*.*") if path.is_file()}
        assert found == dict.fromkeys(("train/images/0.png", "train/labels/0.png", "classes.csv",
                                       "list.csv"), place.name)


def test_a_path_is_relative_to_where_a_link_leads(tmp_path):
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "1.png").write_text("1")
    (tmp_path / "scenes" / "link.png").symlink_to("1.png")
    (tmp_path / "data").symlink_to(tmp_path / "disk" / "deep")
    (tmp_path / "also").symlink_to(tmp_path / "scenes")
    for place in ("scenes", "also"):
        for name in ("1.png", "link.png"):  # a scene has the name that it was given
            path = files.relative_path(str(tmp_path / place / name), str(tmp_path / "data"))
            assert path == f"../../scenes/{name}"
            assert (tmp_path / "data" / path).read_text() == "1"
    assert files.relative_path(str(tmp_path / "scenes" / "1.png"), str(tmp_path)) == "scenes/1.png"


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
