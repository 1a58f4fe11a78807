"""utils/training/runs.py: run folders, whole and damaged checkpoints, settings, stop signals."""

import os
import shutil
import signal
import subprocess

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from utils.training import runs

SETTINGS = {"model": {"num_classes": 2}, "tile_size": 64, "classes": [
    {"name": "land", "colour": "#00ff00"}, {"name": "sea", "colour": "#0000ff"}]}


@pytest.fixture
def logs(tmp_path):
    return str(tmp_path / "logs")


def build(channels=3):
    """A model's weight, its moving statistic and a step that only the newest saver keeps."""
    weights = tf.get_variable("weights", [channels], initializer=tf.zeros_initializer())
    moving = tf.get_variable("bn/moving_mean", [], initializer=tf.zeros_initializer(),
                             trainable=False)
    step = tf.train.get_or_create_global_step()
    return weights, moving, step


def save_run(run, values, which=(LATEST, BEST)):
    """A process's life: saves a checkpoint at each step in `values` with that weight."""
    with tf.Graph().as_default(), tf.Session() as session:
        weights, moving, step = build()
        savers = {LATEST: runs.newest_saver(), BEST: runs.best_saver()}
        session.run(tf.global_variables_initializer())
        runs.write_settings(run, SETTINGS)
        for value in values:
            weights.load(np.full(3, value, np.float32), session)
            moving.load(value + .5, session)
            step.load(value, session)
            for name in which:
                runs.save(session, savers[name], run, name, value)


def restored(run, which=LATEST, channels=3, extra=None):
    """(weights, moving, step) after restoring."""
    with tf.Graph().as_default(), tf.Session() as session:
        variables = build(channels)
        if extra:
            tf.get_variable(extra, [2])
        session.run(tf.global_variables_initializer())
        path, _ = Checkpoints(run, which).find()
        if which == BEST:
            restore_model(session, path)
        else:
            runs.restore(session, runs.newest_saver(), path)
        return [value.tolist() for value in session.run(variables)]


def steps_on_disk(run, which):
    return sorted(int(name[5:-6]) for name in os.listdir(os.path.join(run, which))
                  if name.endswith(".index"))


def test_a_saved_run_is_restored_and_best_keeps_the_model_alone(logs):
    run = os.path.join(logs, "a")
    save_run(run, [7])
    assert restored(run) == [[7, 7, 7], 7.5, 7]
    assert restored(run, BEST) == [[7, 7, 7], 7.5, 0]
    names = dict(tf.train.list_variables(Checkpoints(run, BEST).find()[0]))
    assert set(names) == {"weights", "bn/moving_mean"}
    assert Checkpoints(run, LATEST).find()[1] == 7


def test_newest_and_best_do_not_touch_each_other(logs):
    run = os.path.join(logs, "a")
    save_run(run, [2], [BEST])
    save_run(run, [3, 4, 5], [LATEST])
    assert steps_on_disk(run, LATEST) == [4, 5]
    assert steps_on_disk(run, BEST) == [2]
    assert restored(run, BEST)[0] == [2, 2, 2]


def test_old_checkpoints_go_although_each_was_saved_by_another_process(logs):
    run = os.path.join(logs, "a")
    for step in (1, 2, 3, 4):
        save_run(run, [step])
    assert steps_on_disk(run, LATEST) == [3, 4]
    assert steps_on_disk(run, BEST) == [4]


def test_what_a_killed_save_left_goes_with_the_next(logs):
    run = os.path.join(logs, "a")
    save_run(run, [1])
    left = os.path.join(run, LATEST, "step-2.data-00000-of-00001.tempstate123456")
    open(left, "w").close()
    save_run(run, [3])
    assert not os.path.exists(left)
    assert restored(run)[2] == 3


def test_a_moved_run_is_restored(logs, tmp_path):
    save_run(os.path.join(logs, "a"), [3])
    shutil.move(logs, tmp_path / "elsewhere")
    assert restored(str(tmp_path / "elsewhere" / "a"))[2] == 3


def test_find_run_takes_the_one_that_saved_last_or_the_named(logs):
    for name, seconds in (("b", 300), ("a", 200), ("c", 100)):
        save_run(os.path.join(logs, name), [1])
        os.utime(os.path.join(logs, name, LATEST, "checkpoint"), (seconds, seconds))
    runs.write_settings(os.path.join(logs, "untrained"), SETTINGS)
    assert find_run(logs) == os.path.join(logs, "b")
    assert find_run(logs, "c") == os.path.join(logs, "c")
    with pytest.raises(FileNotFoundError, match="nope: no run there.*a, b, c, untrained"):
        find_run(logs, "nope")


def test_without_a_trained_run_find_run_says_so(logs):
    with pytest.raises(FileNotFoundError, match=r"no trained run there; run 'python train\.py'"):
        find_run(logs)
    runs.write_settings(os.path.join(logs, "untrained"), SETTINGS)
    with pytest.raises(FileNotFoundError, match="no trained run there"):
        find_run(logs)


@pytest.mark.parametrize("text", ["{\"model\": {", "", "[]", "{}", "{\"model\": {}}"])
def test_damaged_settings_are_named(logs, text):
    run = os.path.join(logs, "a")
    runs.write_settings(run, SETTINGS)
    assert runs.read_settings(run) == SETTINGS
    with open(os.path.join(run, SETTINGS), "w") as file:
        file.write(text)
    with pytest.raises(ValueError, match="a/settings.json: not "):
        runs.read_settings(run)


@pytest.mark.parametrize("damage", [
    {"classes": None}, {"classes": "abc"}, {"classes": SETTINGS["classes"][:1]},
    {"classes": [{"name": "land"}] * 2}, {"classes": [{"name": "land", "colour": "zz"}] * 2},
    {"model": "x"}, {"model": {}}, {"tile_size": 0}, {"tile_size": "big"},
    {"training": None}])
def test_settings_of_wrong_values_are_named(tmp_path, damage):
    runs.write_settings(str(tmp_path), SETTINGS | damage)
    with pytest.raises(ValueError, match="settings.json: not the settings of a run"):
        runs.read_settings(str(tmp_path))


def test_a_checkpoint_folder_without_settings_is_named(logs):
    run = os.path.join(logs, "a")
    save_run(run, [1])
    os.remove(os.path.join(run, SETTINGS))
    with pytest.raises(OSError, match="a/settings.json: could not be read"):
        runs.read_settings(run)
    with pytest.raises(FileNotFoundError, match="no run there"):
        find_run(logs, "a")


def test_a_checkpoint_of_another_model_is_refused_by_variable(logs):
    run = os.path.join(logs, "a")
    save_run(run, [1])
    with pytest.raises(ValueError, match=r"another model: weights has shape \[3\], not \[4\]"):
        restored(run, channels=4)
    with pytest.raises(ValueError, match="another model: aspp/weights is missing"):
        restored(run, BEST, extra="aspp/weights")


@pytest.mark.parametrize("part", [".data-00000-of-00001", ".index"])
@pytest.mark.parametrize("which", [LATEST, BEST])
def test_a_truncated_checkpoint_is_named(logs, part, which):
    run = os.path.join(logs, "a")
    save_run(run, [1])
    path = Checkpoints(run, which).find()[0]
    os.truncate(path + part, os.path.getsize(path + part) // 2)
    with pytest.raises(ValueError, match="step-1: checkpoint is damaged"):
        restored(run, which)


def test_a_lost_data_file_is_named(logs):
    run = os.path.join(logs, "a")
    save_run(run, [1])
    os.remove(Checkpoints(run, LATEST).find()[0] + ".data-00000-of-00001")
    with pytest.raises((ValueError, OSError), match="step-1: checkpoint is damaged|no complete"):
        restored(run)


@pytest.mark.parametrize("spoil", ["empty", "half", "lost checkpoint", "renamed"])
def test_a_run_whose_newest_checkpoint_is_lost_is_not_begun_again(logs, spoil):
    """has_checkpoint stays true, so train.py stops instead of training over what is left."""
    run = os.path.join(logs, "a")
    assert not Checkpoints(run, LATEST).exist
    save_run(run, [1])
    state = os.path.join(run, LATEST, "checkpoint")
    if spoil == "lost checkpoint":
        for name in os.listdir(os.path.join(run, LATEST)):
            if name.startswith("step"):
                os.remove(os.path.join(run, LATEST, name))
    elif spoil == "renamed":
        for name in os.listdir(os.path.join(run, LATEST)):
            os.rename(os.path.join(run, LATEST, name),
                      os.path.join(run, LATEST, name.replace("step-1", "mine")))
        with open(state, "w") as file:
            file.write('model_checkpoint_path: "mine"\n')
    else:
        os.truncate(state, 0 if spoil == "empty" else 20)
    assert Checkpoints(run, LATEST).exist
    with pytest.raises(FileNotFoundError, match="newest: no complete checkpoint"):
        Checkpoints(run, LATEST).find()


def test_no_best_checkpoint_before_an_evaluation(logs):
    run = os.path.join(logs, "a")
    save_run(run, [1], [LATEST])
    with pytest.raises(FileNotFoundError, match="best: no complete checkpoint.*--checkpoint"):
        Checkpoints(run, BEST).find()
    assert BestScore.read(run) is None
    score = {"step": 3, "mean_iou": .5, "held_out_mean_iou": None, "evaluated": 4}
    runs.write_best_score(run, score)
    assert BestScore.read(run) == score


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


def test_a_checkpoint_that_a_kill_left_out_of_the_list_goes_with_the_next_save(logs):
    run = os.path.join(logs, "a")
    save_run(run, [1, 2])
    for ending in (".index", ".data-00000-of-00001"):
        shutil.copy(os.path.join(run, LATEST, "step-2" + ending),
                    os.path.join(run, LATEST, "step-3" + ending))
    save_run(run, [4])
    assert steps_on_disk(run, LATEST) == [2, 4]
    assert restored(run)[2] == 4


def test_files_stay_where_the_list_of_checkpoints_is_lost(logs):
    run = os.path.join(logs, "a")
    save_run(run, [1])
    os.remove(os.path.join(run, LATEST, "checkpoint"))
    save_run(run, [2])
    assert steps_on_disk(run, LATEST) == [1, 2]


def test_a_run_folder_that_cannot_be_written_is_an_oserror(tmp_path):
    (tmp_path / "run").write_text("a file in the way")
    with tf.Graph().as_default(), tf.Session() as session:
        build()
        session.run(tf.global_variables_initializer())
        with pytest.raises(OSError, match="run/newest: checkpoint of step 1 could not be written"):
            runs.save(session, runs.newest_saver(), str(tmp_path / "run"), LATEST, 1)


def test_on_a_full_disk_the_old_checkpoint_stays_whole(small_disk):
    run = str(small_disk / "a")
    save_run(run, [1])
    (small_disk / "filler").write_bytes(bytes(700_000))
    with tf.Graph().as_default(), tf.Session() as session:
        build()
        tf.get_variable("large/weights", [200_000])  # 800 kB
        session.run(tf.global_variables_initializer())
        with pytest.raises(OSError, match="newest: checkpoint of step 2 could not be written "
                                          r"\(No space left on device\); free some space"):
            runs.save(session, runs.newest_saver(), run, LATEST, 2)
    assert restored(run) == [[1, 1, 1], 1.5, 1]
    assert not [name for name in os.listdir(os.path.join(run, LATEST)) if "temp" in name]


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
