"""utils/training/chief.py: which checkpoint is kept as the best."""

import os
import shutil
import threading
import types

import pytest
import tensorflow.compat.v1 as tf

from deeplab_v3 import ModelConfig
from utils.classes import read_classes
from utils.training.checkpoints import BEST, LATEST, Checkpoints, latest_checkpoints
from utils.training.chief import Chief
from utils.training.evaluation import EvaluationStopped
from utils.training.run import BestScore, RunSettings

ARGS = types.SimpleNamespace(steps=10, batch_size=2, summary_every=1, loss="cross_entropy")


@pytest.fixture
def run(tmp_path):
    return str(tmp_path / "run")


@pytest.fixture
def evaluate(run, repository):
    """The function evaluate([(step, mean-IoU), ...]): a start of the run with these evaluations."""
    table = read_classes(str(repository / "dataset" / "classes.csv"))
    settings = RunSettings(ModelConfig(5), table, 64)

    def begin(scores, save=True, asked_at=None, left_out=None, done=False,
              check_tiles=lambda: None):
        asked = threading.Event()
        given = dict(scores)

        def scores_of(step, _, asked):
            if asked.is_set():
                raise EvaluationStopped
            return {"mean_iou": given[step], "held_out_mean_iou": step / 10}
        tile_set = types.SimpleNamespace(check_unchanged=check_tiles)
        evaluator = types.SimpleNamespace(evaluate=scores_of, tile_set=tile_set)
        with tf.Graph().as_default(), tf.Session() as session:
            tf.get_variable("weights", [3])
            step = tf.train.get_or_create_global_step()
            session.run(tf.global_variables_initializer())
            latest = latest_checkpoints(run)
            settings.write(run)
            if latest.exist:
                latest.restore(session)
            graph = types.SimpleNamespace(step=step, ema={})
            args = types.SimpleNamespace(**vars(ARGS), logs=os.path.dirname(run))
            chief = Chief(args, session, graph, run, settings, latest, evaluator)
            for number, _ in scores:
                session.run(step.assign(number))
                if save:
                    chief.save(number)
                if number == asked_at:
                    asked.set()
                if number != left_out:
                    chief.evaluate(number, asked)
            assert chief.finish(number) == done
        return BestScore.read(run), Checkpoints(run, BEST).find()[1]
    return begin


def test_the_best_is_kept_across_starts_and_the_later_of_equals(evaluate):
    assert evaluate([(1, .3), (2, .5), (3, .4)]) == (BestScore(2, 3, .5, .2), 2)
    assert evaluate([(4, .4), (5, .5), (6, None)]) == (BestScore(5, 6, .5, .5), 5)


def test_without_validation_tiles_the_latest_is_the_best(evaluate):
    assert evaluate([(1, None), (2, None)]) == (BestScore(2, 2, None, .2), 2)


def test_an_evaluation_cut_short_is_made_up_from_the_checkpoint_of_its_step(run, evaluate, capsys):
    """Though several hosts take one more step before all have heard of it."""
    best = BestScore(1, 1, .3, .1)
    assert evaluate([(1, .3), (2, .5), (3, .5)], save=False, asked_at=2) == (best, 1)
    assert Checkpoints(run, LATEST).find()[1] == 2
    assert "stopped and saved at step 2" in capsys.readouterr().out
    assert evaluate([(2, .5)]) == (BestScore(2, 2, .5, .2), 2)
    # That of the last step too: the run is not done before it.
    assert evaluate([(10, .6)], asked_at=10) == (BestScore(2, 2, .5, .2), 2)
    assert evaluate([(10, .6)], left_out=10) == (BestScore(2, 2, .5, .2), 2)
    assert evaluate([(10, .6)], done=True) == (BestScore(10, 10, .6, 1.), 10)


def test_a_best_never_stands_without_a_latest(run, evaluate, monkeypatch):
    """A run killed after its first evaluation would be begun again over it."""
    saved = []
    monkeypatch.setattr(Checkpoints, "save", lambda checkpoints, session, step: saved.append(
        (os.path.basename(checkpoints.folder), step)))
    with pytest.raises(FileNotFoundError):  # nothing was saved
        evaluate([(1, .3)], save=False)
    assert saved == [(LATEST, 1), (BEST, 1)]


def test_a_run_that_was_removed_meanwhile_is_not_begun_again(run, evaluate, monkeypatch):
    save = Chief.save

    def removed_before(chief, step):
        shutil.rmtree(run)
        save(chief, step)
    monkeypatch.setattr(Chief, "save", removed_before)
    with pytest.raises(OSError, match="run: removed or renamed while it was training, so step 1 "):
        evaluate([(1, .3)])
    assert not os.path.exists(run)


def test_steps_on_tiles_that_were_replaced_meanwhile_are_not_kept(run, evaluate):
    states = iter(["the same", "replaced"])

    def check_tiles():
        if next(states) == "replaced":
            raise ValueError("replaced")
    with pytest.raises(ValueError, match="replaced"):
        evaluate([(1, .3), (2, .4)], check_tiles=check_tiles)
    assert Checkpoints(run, LATEST).find()[1] == 1


def test_what_is_not_saved_yet_is_saved_at_the_end(run, evaluate, capsys):
    evaluate([(1, .3)])
    assert Checkpoints(run, LATEST).find()[1] == 1
    assert "stopped and saved at step 1; the same command with --run run" in capsys.readouterr().out
