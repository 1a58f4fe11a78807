"""utils/settings.py."""

import pytest

from utils import runs
from utils.settings import check_same_settings

SETTINGS = {"model": {"num_classes": 1}, "tile_size": 64, "training": {"seed": 3},
            "classes": [{"name": "land", "colour": "#00ff00"}]}


@pytest.mark.parametrize("before, now, message", [
    ({}, {"tile_size": 32}, "tile_size was 64, is 32"),
    ({}, {"training": {"seed": 3, "ema": .9}}, "ema was None, is 0.9"),
    # Tiles of the same crops, cut again without --bands 3 2 1: their list is the same.
    ({"bands": [3, 2, 1]}, {}, r"bands was \[3, 2, 1\], is None"),
    ({}, {"bands": [3, 2, 1]}, r"bands was None, is \[3, 2, 1\]"),
])
def test_a_run_is_not_resumed_with_other_settings(tmp_path, before, now, message):
    run = str(tmp_path / "run")
    runs.write_settings(run, SETTINGS | before)
    check_same_settings(run, SETTINGS | before)
    with pytest.raises(ValueError, match=f"run: cannot be resumed .*: {message}; give the same"):
        check_same_settings(run, SETTINGS | now)
