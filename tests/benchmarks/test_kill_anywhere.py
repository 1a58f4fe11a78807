"""benchmarks/kill_anywhere.py: what it takes for a file that is not whole, and for one left over."""

import shutil

import pytest

from benchmarks.kill_anywhere import Trial, check_same, check_standing


@pytest.fixture
def trial(tmp_path):
    """Of predict.py, undisturbed and once more."""
    (tmp_path / "undisturbed" / "maps").mkdir(parents=True)
    for name in ("a_class.tif", "a_area.csv"):
        (tmp_path / "undisturbed" / "maps" / name).write_text(name)
    shutil.copytree(tmp_path / "undisturbed", tmp_path / "again")
    return Trial("predict", None, str(tmp_path / "undisturbed"))


def test_a_part_of_a_file_counts_only_under_a_temporary_name(trial, tmp_path):
    place, maps = str(tmp_path / "again"), tmp_path / "again" / "maps"
    check_same(trial, place)
    (maps / "a_class.tif").rename(maps / ".partial-7@host@a_class.tif")
    (maps / ".partial-7@host@a_class.tif").write_text("a_cl")
    assert check_standing(trial, place) == (1, 1)
    with pytest.raises(ValueError, match="predict.py left .*partial"):
        check_same(trial, place)
    (maps / "a_class.tif").write_text("a_cl")
    with pytest.raises(ValueError, match="a_class.tif: not what the undisturbed script wrote"):
        check_standing(trial, place)


def test_a_file_too_many_or_too_few_is_noticed(trial, tmp_path):
    place, maps = str(tmp_path / "again"), tmp_path / "again" / "maps"
    (maps / "a_area.csv").unlink()
    assert check_standing(trial, place) == (1, 0)
    with pytest.raises(ValueError, match="a_area.csv'] differ"):
        check_same(trial, place)
    (maps / "b_class.tif").write_text("b")
    with pytest.raises(ValueError, match="has no such file"):
        check_standing(trial, place)
