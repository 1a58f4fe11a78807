"""utils/training/run_list.py and train.py --list."""

import os
import sys

import pandas as pd
import pytest
import tensorflow.compat.v1 as tf

import train
from conftest import write_settings
from utils.training.checkpoints import BEST, LATEST, latest_checkpoints
from utils.training.run import SETTINGS, SCORE, BestScore
from utils.training.run_list import format_runs, list_runs

PLAIN = {"model": {"num_classes": 2, "backbone": "resnet_v2_50"}, "tile_size": 64, "classes": [
    {"name": "land", "colour": "#00ff00"}, {"name": "sea", "colour": "#0000ff"}],
    "training": {"seed": 2 ** 63 - 1, "steps": 6}}


def write_run(run, step=None, score=None):
    """A run with a checkpoint of `step` and a best `score`, where they are given."""
    write_settings(run, PLAIN)
    if step is not None:
        with tf.Graph().as_default(), tf.Session() as session:
            tf.get_variable("weights", [3])
            session.run(tf.global_variables_initializer())
            latest_checkpoints(run).save(session, step)
    if score is not None:
        BestScore(4, step, score, score - .1).write(run)


@pytest.fixture
def logs(tmp_path):
    """Runs in every state, and a folder that is none."""
    folder = tmp_path / "logs"
    write_run(str(folder / "finished"), 6, .5)
    write_run(str(folder / "better"), 5, .7)
    write_run(str(folder / "begun"))
    write_run(str(folder / "torn_settings"), 6, .9)
    os.truncate(folder / "torn_settings" / SETTINGS, 20)
    write_run(str(folder / "no_settings"), 6)
    os.remove(folder / "no_settings" / SETTINGS)
    write_run(str(folder / "torn_index"), 6)
    os.truncate(folder / "torn_index" / LATEST / "step-6.index", 30)
    write_run(str(folder / "torn_score"), 6, .9)
    os.truncate(folder / "torn_score" / BEST / SCORE, 5)
    write_run(str(folder / "words_for_numbers"), 6)
    write_settings(str(folder / "words_for_numbers"),
                   PLAIN | {"training": {"seed": "three", "steps": 6}})
    (folder / "pictures").mkdir()
    return str(folder)


def test_runs_come_with_their_scores_best_first_and_damaged_last(logs):
    table = list_runs(logs).set_index("run")
    assert table.index.tolist() == ["better", "finished", "begun", "no_settings", "torn_index",
                                    "torn_score", "torn_settings", "words_for_numbers"]
    assert table["state"].tolist()[:3] == ["unfinished", "done", "unfinished"]
    assert table["step"].tolist()[:3] == [5, 6, 0] and table["of"].tolist()[:3] == [6, 6, 6]
    assert table.loc["better", "validation"] == .7
    assert table.loc["better", "held_out"] == pytest.approx(.6)
    assert table.loc["better", "best_step"] == 4 and table.loc["better", "seed"] == 2 ** 63 - 1
    assert pd.isna(table.loc["begun", "validation"]) and pd.isna(table.loc["begun", "saved"])
    for name, reason in (("torn_settings", "settings.json: not JSON"),
                         ("torn_index", "latest/step-6: "),
                         ("torn_score", "score.json: not JSON"),
                         ("words_for_numbers", "three"),
                         ("no_settings", "settings.json: could not be read")):
        assert table.loc[name, "state"].startswith("damaged: ")
        assert reason in table.loc[name, "state"]


def test_train_lists_without_data_or_graph(logs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--list", "--logs", logs, "--dataset", "nowhere",
                                      "--classes", "nowhere"])
    with tf.Graph().as_default() as graph:
        assert train.main() == 0
        assert not graph.get_operations()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert lines[1].split()[:8] == ["better", "resnet_v2_50", str(2 ** 63 - 1), "5", "6", "4",
                                    "0.7000", "0.6000"]
    assert lines[3].split()[5:8] == ["-", "-", "-"]


@pytest.mark.parametrize("folder", ["", "missing"])
def test_without_runs_a_line_says_so(tmp_path, folder):
    line = format_runs(str(tmp_path / folder))
    assert "no runs there" in line and "--logs" in line and "\n" not in line


@pytest.mark.parametrize("flag", ["--weight_decay", "--power"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "x"])
def test_settings_that_are_no_finite_number_from_0_are_refused(capsys, flag, value):
    with pytest.raises(SystemExit):
        train.parse_arguments([f"{flag}={value}"])
    assert f"argument {flag}" in capsys.readouterr().err
