"""utils/training/checkpoints.py: whole, damaged and unfinished checkpoints."""

import os
import shutil

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from utils.training.checkpoints import (BEST, LATEST, OLD_LATEST, Checkpoints, best_checkpoints,
                                        latest_checkpoints, restore_model)


@pytest.fixture
def logs(tmp_path):
    return str(tmp_path / "logs")


def build(channels=3):
    """A model's weight, its moving statistic and a step that only the latest keeps."""
    weights = tf.get_variable("weights", [channels], initializer=tf.zeros_initializer())
    moving = tf.get_variable("bn/moving_mean", [], initializer=tf.zeros_initializer(),
                             trainable=False)
    step = tf.train.get_or_create_global_step()
    return weights, moving, step


def save_run(run, values, which=(LATEST, BEST)):
    """A process's life: saves a checkpoint at each step in `values` with that weight."""
    with tf.Graph().as_default(), tf.Session() as session:
        weights, moving, step = build()
        checkpoints = {LATEST: latest_checkpoints(run), BEST: best_checkpoints(run)}
        session.run(tf.global_variables_initializer())
        for value in values:
            weights.load(np.full(3, value, np.float32), session)
            moving.load(value + .5, session)
            step.load(value, session)
            for name in which:
                checkpoints[name].save(session, value)


def restored(run, which=LATEST, channels=3, extra=None):
    """(weights, moving, step) after restoring."""
    with tf.Graph().as_default(), tf.Session() as session:
        variables = build(channels)
        if extra:
            tf.get_variable(extra, [2])
        session.run(tf.global_variables_initializer())
        if which == BEST:
            restore_model(session, Checkpoints(run, which).find()[0])
        else:
            latest_checkpoints(run).restore(session)
        return [value.tolist() for value in session.run(variables)]


def steps_on_disk(run, which):
    return sorted(int(name[5:-6]) for name in os.listdir(os.path.join(run, which))
                  if name.startswith("step-") and name.endswith(".index"))


def test_a_saved_run_is_restored_and_best_keeps_the_model_alone(logs):
    run = os.path.join(logs, "a")
    save_run(run, [7])
    assert restored(run) == [[7, 7, 7], 7.5, 7]
    assert restored(run, BEST) == [[7, 7, 7], 7.5, 0]
    names = dict(tf.train.list_variables(Checkpoints(run, BEST).find()[0]))
    assert set(names) == {"weights", "bn/moving_mean"}
    assert Checkpoints(run, LATEST).find()[1] == 7


def test_latest_and_best_do_not_touch_each_other(logs):
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


def test_a_checkpoint_of_another_model_is_refused_by_variable(logs):
    run = os.path.join(logs, "a")
    save_run(run, [1])
    with pytest.raises(ValueError, match=r"another model: weights has shape \[3\], not \[4\]"):
        restored(run, channels=4)
    with pytest.raises(ValueError, match="another model: aspp/weights is missing"):
        restored(run, BEST, extra="aspp/weights")


@pytest.mark.parametrize("which", [LATEST, BEST])
def test_a_run_that_was_moved_to_a_name_with_a_bracket_says_so(logs, which):
    save_run(logs, [1])
    os.rename(logs, f"{logs} [old]")
    with pytest.raises(ValueError, match="old.*: TensorFlow reads no checkpoint .*rename the"):
        restored(f"{logs} [old]", which)


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


def test_a_run_whose_checkpoints_are_lost_is_not_begun_again(logs):
    """`exist` stays true, so train.py stops instead of training over what is left."""
    run = os.path.join(logs, "a")
    assert not Checkpoints(run, LATEST).exist
    save_run(run, [1])
    os.remove(os.path.join(run, LATEST, "step-1.index"))
    assert Checkpoints(run, LATEST).exist
    with pytest.raises(FileNotFoundError, match="latest: no complete checkpoint there; what is"):
        restored(run)


@pytest.mark.parametrize("spoil", ["lost", "empty", "half", "of another"])
def test_checkpoints_are_found_without_tensorflow_s_list_of_them(logs, spoil):
    run = os.path.join(logs, "a")
    save_run(run, [9, 10])  # not in the order of their names
    state = os.path.join(run, LATEST, "checkpoint")
    if spoil == "lost":
        os.remove(state)
    elif spoil == "of another":
        with open(state, "w") as file:
            file.write('model_checkpoint_path: "step-9"\n')
    else:
        os.truncate(state, 0 if spoil == "empty" else 20)
    assert restored(run)[2] == 10
    save_run(run, [11])
    assert steps_on_disk(run, LATEST) == [10, 11]


@pytest.mark.parametrize("part", [".data-00000-of-00001", ".index"])
def test_a_damaged_latest_gives_way_to_the_one_before_it_and_is_kept(logs, part, capsys):
    run = os.path.join(logs, "a")
    save_run(run, [1, 2])
    path = Checkpoints(run, LATEST).find()[0] + part
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 16]))
    with open(path, "rb") as file:
        damaged = file.read()
    assert restored(run) == [[1, 1, 1], 1.5, 1]
    line = capsys.readouterr().out
    assert line.startswith(f"warning: {run}/latest/step-2: checkpoint is damaged (")
    assert line.endswith(f"it is now {run}/latest/damaged-step-2, and the one before it is taken\n")
    save_run(run, [2, 3])
    assert steps_on_disk(run, LATEST) == [2, 3] and restored(run)[2] == 3
    with open(os.path.join(run, LATEST, "damaged-step-2" + part), "rb") as file:
        assert file.read() == damaged


def test_another_model_s_checkpoint_is_no_damaged_one(logs):
    """Going on from the one before would hide that the flags are others."""
    run = os.path.join(logs, "a")
    save_run(run, [1, 2])
    with pytest.raises(ValueError, match="step-2: checkpoint of another model"):
        restored(run, channels=4)
    assert steps_on_disk(run, LATEST) == [1, 2]


def test_a_best_of_a_step_that_was_undone_is_replaced(logs):
    run = os.path.join(logs, "a")
    save_run(run, [4], [BEST])
    save_run(run, [3], [BEST])
    assert steps_on_disk(run, BEST) == [3]


def test_no_best_checkpoint_before_an_evaluation(logs):
    run = os.path.join(logs, "a")
    save_run(run, [1], [LATEST])
    with pytest.raises(FileNotFoundError, match="best: no complete checkpoint.*--checkpoint"):
        Checkpoints(run, BEST).find()


def test_a_checkpoint_that_a_kill_left_out_of_the_list_counts_and_does_not_stay(logs):
    run = os.path.join(logs, "a")
    save_run(run, [1, 2])
    for ending in (".index", ".data-00000-of-00001"):
        shutil.copy(os.path.join(run, LATEST, "step-2" + ending),
                    os.path.join(run, LATEST, "step-3" + ending))
    assert Checkpoints(run, LATEST).find()[1] == 3
    save_run(run, [4])
    assert steps_on_disk(run, LATEST) == [3, 4]
    assert restored(run)[2] == 4


def test_a_run_folder_that_cannot_be_written_is_an_oserror(tmp_path):
    (tmp_path / "run").write_text("a file in the way")
    with tf.Graph().as_default(), tf.Session() as session:
        build()
        session.run(tf.global_variables_initializer())
        with pytest.raises(OSError, match="run/latest: checkpoint of step 1 could not be written"):
            latest_checkpoints(str(tmp_path / "run")).save(session, 1)


def test_on_a_full_disk_the_old_checkpoint_stays_whole(small_disk):
    run = str(small_disk / "a")
    save_run(run, [1])
    (small_disk / "filler").write_bytes(bytes(700_000))
    with tf.Graph().as_default(), tf.Session() as session:
        build()
        tf.get_variable("large/weights", [200_000])  # 800 kB
        session.run(tf.global_variables_initializer())
        with pytest.raises(OSError, match="latest: checkpoint of step 2 could not be written "
                                          r"\(No space left on device\); free some space"):
            latest_checkpoints(run).save(session, 2)
    assert restored(run) == [[1, 1, 1], 1.5, 1]
    assert not [name for name in os.listdir(os.path.join(run, LATEST)) if "temp" in name]


def test_a_run_of_an_earlier_version_goes_on_in_its_own_folder(logs):
    run = os.path.join(logs, "a")
    save_run(run, [1])
    os.rename(os.path.join(run, LATEST), os.path.join(run, OLD_LATEST))
    assert restored(run)[2] == 1
    save_run(run, [2])
    assert steps_on_disk(run, OLD_LATEST) == [1, 2]
    assert not os.path.exists(os.path.join(run, LATEST))
