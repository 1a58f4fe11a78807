"""benchmarks/ablation.py: its table, what it runs again, the scores it reads."""

import os

import pandas as pd
import pytest
import tensorflow.compat.v1 as tf

from benchmarks import ablation
from utils.training.evaluation import scalar_summary


@pytest.fixture
def run_main(monkeypatch, tmp_path):
    """Function(*flags) -> [(run, flags, seed)] that a stand-in trained; the option 'bad' fails."""
    monkeypatch.chdir(tmp_path)

    def run(*flags):
        trained = []

        def train(arguments, name, flags, seed):
            trained.append((name, flags, seed))
            if name.startswith("bad"):
                raise ValueError(f"{name}.txt: train.py ended with status 2")
            os.makedirs(os.path.join(arguments.logs, name, "latest"))
            score = (.5 if "--ema" in flags else .4) + seed / 10
            return dict.fromkeys(ablation.SCORES, score)

        ablation.main(["--steps", "7", *flags], train)
        return trained
    return run


def test_finished_runs_are_not_run_again_and_seeds_come_one_after_the_other(run_main, tmp_path):
    flags = ("--common", "--batch_size 2", "--only", "baseline", "ema")
    first = [("baseline-seed0", "--steps 7 --batch_size 2", 0),
             ("ema-seed0", "--steps 7 --batch_size 2 --ema 0.99", 0)]
    assert run_main(*flags) == first
    assert run_main(*flags) == []
    trained = run_main(*flags, "mine", "--seeds", "0", "1", "--option", "mine=--learning_rate .1")
    assert [name for name, _, _ in trained] == ["mine-seed0", "baseline-seed1", "ema-seed1",
                                                "mine-seed1"]
    assert trained[0][1].endswith("--batch_size 2 --learning_rate .1")
    assert len(pd.read_csv(tmp_path / "ablation.csv")) == 6
    assert not any("latest" in folders for _, folders, _ in os.walk(tmp_path))


def test_other_flags_under_the_same_name_are_refused(run_main):
    run_main("--only", "ema")
    with pytest.raises(ValueError, match="ablation.csv: ema, seed 0, was run with '.*--ema 0.99'"):
        run_main("--only", "ema", "--option", "ema=--ema 0.9")


def test_a_run_that_fails_is_named_after_the_others_were_run(run_main, tmp_path):
    with pytest.raises(ValueError, match="bad-seed0.txt: train.py ended with status 2"):
        run_main("--only", "bad", "later", "--option", "bad=--nonsense", "--option", "later=")
    assert pd.read_csv(tmp_path / "ablation.csv")["option"].tolist() == ["later"]


def test_an_unknown_option_is_named(run_main):
    with pytest.raises(ValueError, match="--only dropout: there are baseline, focal"):
        run_main("--only", "dropout")


@pytest.mark.parametrize("flags, message", [
    (["--option", "ema"], "--option 'ema': not NAME=FLAGS"),
    (["--option", "a/b=--ema .9"], "--option 'a/b=--ema .9': not NAME=FLAGS"),
    (["--common", "--loss 'focal"], "--common --loss 'focal: cannot be split .*No closing"),
    (["--option", "x=--ema .9 --run=y"], "--option --ema .9 --run=y: --run is set for each run"),
    (["--out", "file/t.csv"], "file: the table cannot be written there .*another --out")])
def test_flags_that_would_fail_after_hours_are_named_before(run_main, tmp_path, flags, message):
    (tmp_path / "file").touch()
    with pytest.raises((ValueError, OSError), match=message):
        run_main(*flags)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("text, message", [
    ("", "not a table .No columns"), ("option,seed\nema,0\n", "no table of .* .no column flags"),
    ("option,seed,flags,mean-IoU\nema,0,--steps 7,x\n", "column mean-IoU has something other"),
    ("option,seed,flags,mean-IoU\n" + "ema,0,--steps 7,.5\n" * 2, ".*an option twice with one")])
def test_a_damaged_table_is_named_before_anything_runs(run_main, tmp_path, text, message):
    (tmp_path / "ablation.csv").write_text(text)
    with pytest.raises(ValueError, match=f"ablation.csv: {message}.*; choose another --out"):
        run_main()


def test_the_table_has_means_spreads_and_gains_of_the_same_seeds():
    rows = pd.DataFrame([
        {"option": option, "seed": seed, "mean-IoU": score, "boundary F1": score / 2,
         "accuracy": .9, "validation mean-IoU": .3}
        for option, seed, score in (("baseline", 0, .40), ("baseline", 1, .50),
                                    ("baseline", 2, .60), ("ema", 1, .53), ("ema", 2, .65))])
    table = ablation.summary(rows)
    assert table.index.tolist() == ["baseline", "ema"] and table["seeds"].tolist() == [3, 2]
    assert table["mean-IoU"].tolist() == pytest.approx([.5, .59])
    assert table["mean-IoU +-"].tolist() == pytest.approx([.1, .12 / 2 ** .5])
    assert table["gain"].tolist() == pytest.approx([0, .04])
    assert table["F1 gain"].tolist() == pytest.approx([0, .02])
    assert table["boundary F1"].tolist() == pytest.approx([.25, .295])
    assert table.loc["ema", "gain +-"] == pytest.approx(.02 / 2 ** .5)
    assert ablation.summary(rows[rows["option"] == "ema"])["seeds"].tolist() == [2]


def test_scores_are_read_from_the_last_of_several_event_files_of_which_one_was_cut_short(tmp_path):
    for number, score in enumerate((.1, .2)):
        with tf.Graph().as_default():
            writer = tf.summary.FileWriter(str(tmp_path), filename_suffix=f".{number}")
        for step in (3, 7):
            writer.add_summary(scalar_summary(
                {tag: score + step for tag in ablation.SCORES.values()}), step)
        writer.close()
        [path] = tmp_path.glob(f"*.{number}")
        if number == 0:
            os.truncate(path, path.stat().st_size - 5)
    assert ablation.final_scores(str(tmp_path), 7) == pytest.approx(
        dict.fromkeys(ablation.SCORES, 7.2))
    with pytest.raises(ValueError, match="no held_out/accuracy, held_out/bound.* of step 8"):
        ablation.final_scores(str(tmp_path), 8)
