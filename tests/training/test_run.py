"""utils/training/run.py: settings, recipe, scores, starts and folders of runs; the stop signals."""

import dataclasses
import os
import re
import signal
import subprocess

import pytest

import train
from conftest import write_settings
from deeplab_v3 import ModelConfig
from utils.classes import ClassTable
from utils.data.pixel_size import Resample
from utils.cli import stop_event
from utils.training.checkpoints import BEST, LATEST
from utils.training.run import (ENVIRONMENT, SCORE, SETTINGS, BestScore, RunSettings, append_start,
                                check_same_settings, check_writable, find_run, held_run,
                                read_starts, recipe_of, settings_to_resume)

CLASSES = [{"name": "land", "colour": "#00ff00"}, {"name": "sea", "colour": "#0000ff"}]
PLAIN = {"model": {"num_classes": 2}, "tile_size": 64, "classes": CLASSES}
SAME = RunSettings(ModelConfig(2), ClassTable.from_settings(CLASSES), 64, ["5"],
                   {"seed": 0, "scale_range": [1.0, 1.0]})
BANDS = {"bands": [3, 2, 1], "stretch": [[0, 1000]] * 3}


@pytest.fixture
def logs(tmp_path):
    return str(tmp_path / "logs")


def write_run(logs, name, changed=None):
    """A run with settings and, where it has `changed` (seconds since 1970), a checkpoint."""
    run = os.path.join(logs, name)
    write_settings(run, PLAIN)
    if changed:
        state = os.path.join(run, LATEST, "step-1.index")
        os.makedirs(os.path.dirname(state))
        open(state, "w").close()
        os.utime(state, (changed, changed))
    return run


def test_the_same_settings_are_accepted(tmp_path):
    settings = dataclasses.replace(SAME, **BANDS, gsd=1.5, resample=Resample(factor=.5))
    settings.write(str(tmp_path))
    check_same_settings(str(tmp_path), settings, {})
    read = RunSettings.read(str(tmp_path))
    assert read.to_json() == settings.to_json() and read.model == settings.model
    assert (read.gsd, read.resample) == (1.5, Resample(factor=.5))
    # The pixel size is that of the same tiles: a run from before it was noted resumes.
    check_same_settings(str(tmp_path), dataclasses.replace(settings, gsd=None), {})


@pytest.mark.parametrize("before, now, message", [
    ({}, {"crop_size": 48}, "crop_size was 64, is 48"),
    ({}, {"recipe": {"seed": 1, "scale_range": [0.5, 2.0]}},
     "seed was 0, is 1; scale_range was [1.0, 1.0], is [0.5, 2.0]"),
    ({}, {"model": ModelConfig(2, width=.5)}, "width was 1, is 0.5"),
    ({}, BANDS, "bands was None, is [3, 2, 1]"),
    ({}, {"resample": Resample(factor=.5)}, "resample was None, is 0.5"),
    ({}, {"test_scenes": [str(n) for n in range(2000)]},
     "test_scene was 5, is 2,000 scenes (0, 1, ... 1999);"),
    # Tiles that were cut again without --bands are RGB, of the same list and the same labels.
    (BANDS, {}, "bands was [3, 2, 1], is None"),
])
def test_another_setting_is_refused_by_name(tmp_path, before, now, message):
    dataclasses.replace(SAME, **before).write(str(tmp_path))
    with pytest.raises(ValueError, match=re.escape(message)):
        check_same_settings(str(tmp_path), dataclasses.replace(SAME, **now), {})


@pytest.mark.parametrize("value", [.1, .2])
def test_a_flag_that_a_run_did_not_know_keeps_its_default(tmp_path, value):
    SAME.write(str(tmp_path))
    now = dataclasses.replace(SAME, recipe=SAME.recipe | {"haze": value})
    if value == .1:
        check_same_settings(str(tmp_path), now, {"haze": .1})
    else:
        with pytest.raises(ValueError, match="haze was 0.1, is 0.2"):
            check_same_settings(str(tmp_path), now, {"haze": .1})


def test_every_flag_is_in_the_recipe_but_those_named():
    """A new flag of train.py is covered without anybody remembering."""
    flags, defaults = train.parse_arguments(["--steps", "3", "--run", "a", "--seed", "7"])
    recipe = recipe_of(vars(flags), "abc")
    assert set(recipe) - set(defaults) == {"tiles_checksum"}
    assert set(defaults) - set(recipe) == {
        "logs", "list", "run", "devices", "slurm", "origin", "test_display", "save_every",
        "summary_every", "histograms", "classes", "crop_size", "test_scene", "backbone",
        "output_stride", "multi_grid", "decoder", "separable", "width"}
    assert recipe["steps"] == 3 and recipe["seed"] == 7


def test_a_run_of_which_only_the_best_is_left_is_not_begun_again(logs):
    run = write_run(logs, "a")
    assert settings_to_resume(run) is None  # it never saved
    os.makedirs(os.path.join(run, BEST))
    open(os.path.join(run, BEST, "step-4.index"), "w").close()
    with pytest.raises(ValueError, match="a/best: a checkpoint, but there is no latest"):
        settings_to_resume(run)
    assert settings_to_resume(write_run(logs, "b", 1)).crop_size == 64


def test_find_run_takes_the_one_that_saved_last_or_the_named(logs):
    for name, seconds in (("b", 300), ("a", 200), ("c", 100)):
        write_run(logs, name, seconds)
    write_run(logs, "untrained")
    assert find_run(logs) == os.path.join(logs, "b")
    assert find_run(logs, "c") == os.path.join(logs, "c")
    with pytest.raises(FileNotFoundError, match="nope: no run there.*a, b, c, untrained"):
        find_run(logs, "nope")


def test_without_a_trained_run_find_run_says_so(logs):
    with pytest.raises(FileNotFoundError, match=r"no trained run there; run 'python train\.py'"):
        find_run(logs)
    write_run(logs, "untrained")
    with pytest.raises(FileNotFoundError, match="no trained run there"):
        find_run(logs)


@pytest.mark.parametrize("text", ["{\"model\": {", "", "[]", "{}", "{\"model\": {}}"])
def test_damaged_settings_are_named(logs, text):
    run = write_run(logs, "a")
    with open(os.path.join(run, SETTINGS), "w") as file:
        file.write(text)
    with pytest.raises(ValueError, match="a/settings.json: (not|damaged: \\w+ is missing)"):
        RunSettings.read(run)


THIRD = {"id": 255, "name": "unknown", "values": [0], "colour": None}


@pytest.mark.parametrize("field, values", [
    ("classes", [None, "abc", 7, CLASSES[:1], CLASSES + [CLASSES[0]], [{"name": "land"}] * 2,
                 [{"name": "land", "colour": "zz"}] * 2, [{"name": 1, "colour": "#000000"}] * 2,
                 [CLASSES[0] | {"colour": 5}, CLASSES[1]], CLASSES + [{"values": [1]}],
                 CLASSES + [THIRD | {"id": 7}], CLASSES + [THIRD | {"values": 3}],
                 CLASSES + [THIRD | {"values": ["x"]}], CLASSES + [THIRD | {"name": None}],
                 CLASSES + [{"name": "third", "colour": "#ff0000"}]]),
    ("model", ["x", [], None, 3]),
    ("num_classes", [None, "2", 2.0, -1]),
    ("multi_grid", [[1, 2], "124", [1, 2, 0], [10 ** 9, 1, 1]]),
    ("tile_size", [0, -64, "64", 64.0, 10 ** 9, 1e9, None, True, [64]]),
    ("training", ["x", [], 5]),
    ("precision", ["float99", 16, ["float32"], "auto"]),
    ("test_scene", [5, {}, [5], [None]]),
    ("bands", [0, 3, "321", [], [3, 2, 0], [3, 2, 1.0], [3, 2], [3, 2, 1, 4], [True, 2, 1]]),
    ("stretch", [5, "x", [[0, 1]], [[0, 1]] * 4, [[1, 0]] * 3, [[0, float("nan")]] * 3,
                 [[0, float("inf")]] * 3, [[0, "1"]] * 3, [0, 1, 2], [[5, 5]] * 3])])
def test_a_damaged_setting_is_one_line_that_names_it(tmp_path, field, values):
    for value in values:
        whole = PLAIN | {"model": {"num_classes": 2}, "training": {"seed": 0}} | BANDS
        nested = {"num_classes": "model", "multi_grid": "model", "precision": "training"}
        place = whole[nested[field]] if field in nested else whole
        place[field] = value
        write_settings(str(tmp_path), whole)
        with pytest.raises(ValueError) as error:
            RunSettings.read(str(tmp_path))
        line = str(error.value)
        assert line.startswith(f"{tmp_path}/settings.json: damaged: ") and "\n" not in line
        assert field in line and "; restore it or train again" in line, line


def test_bands_that_are_missing_are_not_taken_for_rgb(tmp_path):
    """A damaged name of a field is a field that is missing."""
    write_settings(str(tmp_path), PLAIN | {"bandz": [4, 3, 2]})
    with pytest.raises(ValueError, match="settings.json: it has settings .* not know .bandz.;"):
        RunSettings.read(str(tmp_path))
    write_settings(str(tmp_path), PLAIN | {"model": {"num_classes": 2, "bands": 4}})
    with pytest.raises(ValueError, match="settings.json: damaged: bands is missing, not one for "):
        RunSettings.read(str(tmp_path))
    write_settings(str(tmp_path), PLAIN | {"stretch": BANDS["stretch"]})
    with pytest.raises(ValueError, match="settings.json: damaged: stretch is "):
        RunSettings.read(str(tmp_path))


def test_a_checkpoint_folder_without_settings_is_named(logs):
    run = write_run(logs, "a", 1)
    os.remove(os.path.join(run, SETTINGS))
    with pytest.raises(OSError, match="a/settings.json: could not be read"):
        RunSettings.read(run)
    with pytest.raises(FileNotFoundError, match="no run there"):
        find_run(logs, "a")


@pytest.mark.parametrize("text", [
    "", "{\"step\": 3", "[]", "{\"step\": 3}",
    "{\"step\": 3, \"mean_iou\": 0.5, \"evaluated\": null}",
    "{\"step\": 3, \"mean_iou\": \"0.5\", \"evaluated\": 3}"])
def test_a_damaged_score_is_named(logs, text):
    os.makedirs(os.path.join(logs, "a", BEST))
    with open(os.path.join(logs, "a", BEST, SCORE), "w") as file:
        file.write(text)
    with pytest.raises(ValueError, match="best/score.json: not "):
        BestScore.read(os.path.join(logs, "a"))


def test_every_start_is_noted_with_its_step(logs):
    run = os.path.join(logs, "a")
    assert read_starts(run) == []
    append_start(run, 0, {"python": "3.11"})
    append_start(run, 40, {"python": "3.12"})
    assert read_starts(run) == [{"step": 0, "python": "3.11"}, {"step": 40, "python": "3.12"}]


def test_a_damaged_note_of_the_starts_does_not_stop_a_run(logs):
    run = os.path.join(logs, "a")
    append_start(run, 0, {"python": "3.11"})
    os.truncate(os.path.join(run, ENVIRONMENT), 20)
    append_start(run, 40, {"python": "3.12"})
    assert read_starts(run) == [{"step": 40, "python": "3.12"}]


def test_looking_whether_a_run_can_be_written_leaves_no_trace(tmp_path):
    check_writable(str(tmp_path / "logs" / "a"))
    assert not list(tmp_path.iterdir())
    (tmp_path / "b").mkdir()
    check_writable(str(tmp_path / "b"))
    assert not list((tmp_path / "b").iterdir())


def test_a_run_that_could_not_be_written_is_named_before_anything_else(tmp_path, small_disk):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/a: a run cannot be written there .*Not a directory.*"
                                      "--logs or --run"):
        check_writable(str(tmp_path / "file" / "a"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match="disk/a: a run cannot be written there .*Read-only"):
        check_writable(str(small_disk / "a"))


def test_a_run_whose_checkpoints_could_not_be_read_is_not_begun(tmp_path):
    with pytest.raises(ValueError, match=r"roads\[v2\]: TensorFlow reads no checkpoint where"):
        with held_run(str(tmp_path), "roads[v2]", True):
            raise AssertionError("nothing may be written")
    assert not list(tmp_path.iterdir())


def test_a_new_run_lies_in_the_folder_of_runs_itself(tmp_path):
    with pytest.raises(ValueError, match="--run a/b: a folder in a folder; give a plain name"):
        with held_run(str(tmp_path), "a/b", True):
            raise AssertionError("nothing may be written")
    assert not list(tmp_path.iterdir())
    write_settings(str(tmp_path / "a" / "b"), PLAIN)  # of an earlier version
    with held_run(str(tmp_path), "a/b", True) as run:
        assert run == str(tmp_path / "a" / "b")


def test_the_first_signal_asks_to_stop_and_the_second_ends():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in handlers:
            stop = stop_event()
            assert not stop.is_set()
            os.kill(os.getpid(), number)
            assert stop.wait(5)
            assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_the_best_score_is_read_as_it_was_written(logs):
    run = os.path.join(logs, "a")
    assert BestScore.read(run) is None
    score = BestScore(step=3, mean_iou=.5, evaluated=4)
    score.write(run)
    assert BestScore.read(run) == score
