"""utils/training/settings.py: what a resumed run must not change."""

import re

import pytest

import train
from utils.training import runs
from utils.classes import read_classes
from utils.training.settings import check_same_settings, run_settings

BANDS = {"bands": [3, 2, 1], "stretch": [[0, 1000]] * 3}


@pytest.fixture
def settings(repository):
    table = read_classes(str(repository / "dataset" / "classes.csv"))
    return {"model": {"num_classes": len(table)}, "classes": table.to_settings(), "tile_size": 64,
            "training": {"seed": 0, "scale_range": [1.0, 1.0]}}


def test_the_same_settings_are_accepted(tmp_path, settings):
    runs.write_settings(str(tmp_path), settings | BANDS)
    check_same_settings(str(tmp_path), settings | BANDS)


@pytest.mark.parametrize("before, now, message", [
    ({}, {"tile_size": 48}, "crop_size was 64, is 48"),
    ({}, {"training": {"seed": 1, "scale_range": [0.5, 2.0]}},
     "seed was 0, is 1; scale_range was [1.0, 1.0], is [0.5, 2.0]"),
    ({}, BANDS, "bands was None, is [3, 2, 1]"),
    # Tiles that were cut again without --bands are RGB, of the same list and the same labels.
    (BANDS, {}, "bands was [3, 2, 1], is None"),
])
def test_another_setting_is_refused_by_name(tmp_path, settings, before, now, message):
    runs.write_settings(str(tmp_path), settings | before)
    with pytest.raises(ValueError, match=re.escape(message)):
        check_same_settings(str(tmp_path), settings | now)


@pytest.mark.parametrize("backbone, chosen, expected", [
    ("resnet_v2_50", None, [1, 2, 4]), ("xception_65", None, [1, 1, 1]),
    ("xception_65", [1, 2, 1], [1, 2, 1])])
def test_the_multi_grid_is_the_backbone_s_where_none_is_chosen(
        tmp_path, repository, monkeypatch, backbone, chosen, expected):
    monkeypatch.setattr("sys.argv", ["", "--backbone", backbone, "--dataset", str(tmp_path)])
    args = train.parse_arguments()
    args.multi_grid = chosen
    monkeypatch.setattr("utils.data.tiles.checksum", lambda dataset: "")
    table = read_classes(str(repository / "dataset" / "classes.csv"))
    assert run_settings(args, table, 64, None)["model"]["multi_grid"] == expected
