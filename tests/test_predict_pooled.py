"""predict.py on many labelled scenes: scores by scene, pooled, after a kill, and of parts."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

import predict
from conftest import read_settings
from predict_stand_in import (  # noqa: F401  (fixtures)
    TABLE, call, logs, samples_of, write_run)
from utils.boundary_f1 import BoundaryF1
from utils.data.scenes import read_label, write_png

NUMBERS = (1, 2, 3)


@pytest.fixture
def tiles(tmp_path):
    """A folder of N_sat.png and N_mask.png of three sizes; the stand-in is right more or less."""
    for number in NUMBERS:
        _write_tile(tmp_path / "in", number)
    return tmp_path / "in"


def _write_tile(folder, number):
    image = samples_of(70 + 20 * number, 60, seed=number).transpose(1, 2, 0)
    label = image.argmax(-1).astype(np.uint8)
    label[:30 * number] = np.random.default_rng(number).integers(0, 3, label[:30 * number].shape)
    label[:, :5] = 255
    write_png(str(folder / f"{number}_sat.png"), image)
    write_png(str(folder / f"{number}_mask.png"), label)


def _flags(tiles):
    return "--image", f"{tiles}/*_sat.png", "--label", f"{tiles}/*_mask.png"


def _valid(tiles, out, numbers=NUMBERS):
    """Label and map of all valid pixels, as two flat arrays."""
    label = np.concatenate([read_label(f"{tiles}/{n}_mask.png", TABLE).ravel() for n in numbers])
    classes = np.concatenate(
        [read_label(f"{out}/{n}_sat_class.png", TABLE).ravel() for n in numbers])
    return label[label != 255], classes[label != 255]


def _read(out, ending=""):
    return (pd.read_csv(out / f"scores_by_scene{ending}.csv", index_col="scene"),
            pd.read_csv(out / f"scores{ending}.csv", index_col="class"))


def _check(scores, label, classes):
    """The pooled table is scikit-learn's."""
    matrix = confusion_matrix(label, classes, labels=range(3))
    iou = jaccard_score(label, classes, labels=range(3), average=None)
    np.testing.assert_allclose(scores["IoU"], [*iou, iou.mean()])
    assert scores.loc["all", "accuracy"] == pytest.approx(accuracy_score(label, classes))
    assert scores["label_pixels"].tolist() == [*matrix.sum(1), matrix.sum()]
    assert scores["predicted_pixels"].tolist() == [*matrix.sum(0), matrix.sum()]


def test_pooled_scores_are_of_all_valid_pixels(call, tiles, capsys):
    status, out = call(*_flags(tiles))
    assert status == 0
    by_scene, scores = _read(out)
    _check(scores, *_valid(tiles, out))
    assert by_scene.index.tolist() == ["1_sat", "2_sat", "3_sat"]
    for number in NUMBERS:
        label, classes = _valid(tiles, out, [number])
        row = by_scene.loc[f"{number}_sat"]
        iou = jaccard_score(label, classes, labels=range(3), average=None)
        assert row[[f"IoU {name}" for name in TABLE.names]].tolist() == pytest.approx(iou)
        assert row["mean-IoU"] == pytest.approx(iou.mean())
        assert (row["pixels"], row["state"], row["run"], row["step"]) == (
            label.size, "scored", "stand-in", 7)
    assert by_scene["mean-IoU"].mean() != pytest.approx(scores.loc["all", "IoU"], abs=1e-4)
    printed = capsys.readouterr().out
    assert "pooled over the valid pixels of 3 of 3 scenes:" in printed
    assert f"mean-IoU {scores.loc['all', 'IoU']:.4f}" in printed.split("pooled over")[1]


def test_of_many_scenes_each_has_one_line(call, tiles, capsys, monkeypatch):
    call(*_flags(tiles))
    before = capsys.readouterr().out
    monkeypatch.setattr(predict, "SCENES_IN_DETAIL", 2)
    status, out = call(*_flags(tiles), "--overwrite")
    after = capsys.readouterr().out
    assert status == 0 and before.count("recall") == 4 and after.count("recall") == 1  # pooled
    by_scene, _ = _read(out)
    for number in NUMBERS:
        line, = (line for line in after.splitlines()
                 if line.startswith("written in ") and f"{number}_sat_class.png" in line)
        row = by_scene.loc[f"{number}_sat"]
        assert f"mean-IoU {row['mean-IoU']:.4f}, accuracy {row['accuracy']:.4f}" in line


def test_killed_after_the_first_scene_it_ends_with_the_same_tables(logs, tiles, tmp_path,
                                                                   repository):
    script = tmp_path / "stand_in.py"
    script.write_text(textwrap.dedent("""
        import contextlib, os, signal, sys
        sys.path.insert(0, "tests")
        import predict
        from predict_stand_in import brightest
        from utils.cli import run_script
        from utils.inference import map_writer

        def kill_where(name, exists):
            if out.endswith(name) and os.path.exists(f"{out}/{exists}"):
                os.kill(os.getpid(), signal.SIGKILL)

        def brightest_or_killed(windows):
            kill_where("early", "1_sat_class.png")
            return brightest(windows)

        def colours_or_killed(*arguments):
            kill_where("late", "2_sat_confusion.json")
            return colour_map(*arguments)

        out, colour_map = sys.argv[-1], map_writer.colour_map
        map_writer.colour_map = colours_or_killed
        run_script(lambda: predict.main(None, lambda *_: contextlib.nullcontext(
            [brightest_or_killed])))
    """))

    def run(out):
        return subprocess.run(
            [sys.executable, str(script), "--logs", str(logs), "--run", "stand-in",
             *_flags(tiles), "--out", str(out)], cwd=repository, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(repository)})

    killed, whole = tmp_path / "early", tmp_path / "whole"
    assert run(killed).returncode == -signal.SIGKILL
    assert (killed / "1_sat_class.png").exists()
    assert not (killed / "2_sat_confusion.json").exists()
    # Again, between the scores of the second scene and its map.
    killed = killed.rename(tmp_path / "late")
    assert run(killed).returncode == -signal.SIGKILL
    assert (killed / "2_sat_confusion.json").exists()
    assert not list(killed.glob("2_sat_class*")) and not (killed / "scores.csv").exists()
    killed = killed.rename(tmp_path / "goes_on")
    result = run(killed)
    assert result.returncode == 0, result.stderr
    assert "1_sat_class.png is there already" in result.stdout and "2 scene(s)" in result.stdout
    assert run(whole).returncode == 0
    for name in ("scores.csv", "scores_by_scene.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_a_failed_scene_is_named_and_left_out(call, tiles, capsys):
    picture = (tiles / "2_sat.png").read_bytes()
    (tiles / "2_sat.png").write_bytes(picture[:900])
    status, out = call(*_flags(tiles))
    assert status == 2
    by_scene, scores = _read(out)
    assert by_scene["state"].tolist() == ["scored", "failed", "scored"]
    assert by_scene.loc["2_sat"].drop("state").isna().all()
    _check(scores, *_valid(tiles, out, (1, 3)))
    printed = capsys.readouterr()
    assert "pixels of 2 of 3 scenes; failed and left out: 2_sat:" in printed.out
    assert printed.err.count("\n") == 1 and "2_sat.png: truncated" in printed.err
    # Mended, it is all that is left to do.
    (tiles / "2_sat.png").write_bytes(picture)
    assert call(*_flags(tiles))[0] == 0
    assert "; 1 scene(s); " in capsys.readouterr().out
    _check(_read(out)[1], *_valid(tiles, out))


def test_where_all_fail_the_scores_of_before_stay(call, tiles, capsys):
    _, out = call(*_flags(tiles))
    before = {name: (out / name).read_bytes() for name in ("scores.csv", "scores_by_scene.csv")}
    for number in NUMBERS:
        path = tiles / f"{number}_sat.png"
        path.write_bytes(path.read_bytes()[:900])
    assert call(*_flags(tiles), "--overwrite")[0] == 2
    assert "pooled over the valid pixels of 0 of 3 scenes" in capsys.readouterr().out
    assert {name: (out / name).read_bytes() for name in before} == before


def test_each_part_pools_its_own_and_the_call_without_part_all(call, tiles, capsys):
    for part, numbers in ((1, (1, 3)), (2, (2,))):
        _, out = call(*_flags(tiles), "--part", f"{part}/2")
        by_scene, scores = _read(out, f"_{part}_of_2")
        assert by_scene.index.tolist() == [f"{number}_sat" for number in numbers]
        _check(scores, *_valid(tiles, out, numbers))
    assert not (out / "scores.csv").exists()
    assert call(*_flags(tiles))[0] == 0 and len(call.models) == 2  # nothing is mapped
    _check(_read(out)[1], *_valid(tiles, out))
    assert "1_sat_class.png and 2 more are there already" in capsys.readouterr().out


def test_a_pool_of_several_runs_says_so(call, tiles, logs, capsys):
    _, out = call("--image", tiles / "1_sat.png", "--label", tiles / "1_mask.png")
    write_run(logs / "later", read_settings(str(logs / "stand-in")))
    call(*_flags(tiles), "--run", "later")
    assert ("not of one model: 2 of run later, step 7, 1 of run stand-in, step 7; --overwrite"
            in capsys.readouterr().out)
    assert _read(out)[0]["run"].tolist() == ["stand-in", "later", "later"]
    call(*_flags(tiles), "--run", "later", "--overwrite")
    assert _read(out)[0]["run"].tolist() == ["later"] * 3
    assert "not of one model" not in capsys.readouterr().out


def test_scores_of_other_classes_or_damaged_are_refused_before_the_work(call, tiles, logs):
    _, out = call("--image", tiles / "1_sat.png", "--label", tiles / "1_mask.png")
    settings = read_settings(str(logs / "stand-in"))
    settings["classes"][2]["name"] = "sea"
    write_run(logs / "other", settings)
    with pytest.raises(ValueError, match="1_sat_confusion.json: of a map of other classes .red, "
                       "green, blue. than this run's; choose another --out"):
        call(*_flags(tiles), "--run", "other")
    for text in ("", "{}", '{"run": "a", "step": "1", "classes": ["red"], "matrix": [[1, 2]]}'):
        (out / "1_sat_confusion.json").write_text(text)
        with pytest.raises(ValueError, match="1_sat_confusion.json: damaged; --overwrite maps"):
            call(*_flags(tiles))
    assert len(call.models) == 1


def test_an_overwritten_map_never_stands_beside_the_new_scores(call, tiles, monkeypatch):
    flags = "--image", tiles / "1_sat.png", "--label", tiles / "1_mask.png"
    _, out = call(*flags)
    monkeypatch.setattr("utils.inference.map_writer.overlay", lambda *_: 1 / 0)
    with pytest.raises(ValueError, match="1_sat.png: ZeroDivisionError"):
        call(*flags, "--overwrite")
    assert (out / "1_sat_class.png").exists()  # nothing is replaced yet
    monkeypatch.setattr("utils.inference.map_writer.colour_map", lambda *_: 1 / 0)
    monkeypatch.setattr("utils.inference.map_writer.overlay", lambda scene, *_: scene)
    with pytest.raises(ValueError, match="1_sat.png: ZeroDivisionError"):
        call(*flags, "--overwrite")
    assert not (out / "1_sat_class.png").exists()


def test_compare_pools_what_single_comparisons_count(call, tiles, monkeypatch, capsys):
    counts = []
    of_scene = BoundaryF1.counts
    monkeypatch.setattr(BoundaryF1, "counts",
                        lambda self: counts.append(of_scene(self)) or counts[-1])
    singles = []
    for number in NUMBERS:
        _, out = call("--image", tiles / f"{number}_sat.png", "--label",
                      tiles / f"{number}_mask.png", "--compare")
        assert not (out / "compare.csv").exists()
        singles.append(pd.read_csv(out / f"{number}_sat_compare.csv", index_col="method"))
    assert call(*_flags(tiles), "--compare")[0] == 0
    pooled = pd.read_csv(out / "compare.csv", index_col="method")
    assert pooled.index.tolist() == singles[0].index.tolist()
    # The stand-in's map is the same by every method but that of other scales.
    call(*_flags(tiles))
    label, classes = _valid(tiles, out)
    expected = jaccard_score(label, classes, average="macro"), accuracy_score(label, classes)
    assert pooled.loc["single pass", ["mean-IoU", "accuracy"]].tolist() == pytest.approx(expected)
    pixels = [np.count_nonzero(read_label(f"{tiles}/{n}_mask.png", TABLE) != 255) for n in NUMBERS]
    right = sum(one["accuracy"] * count for one, count in zip(singles, pixels))
    np.testing.assert_allclose(pooled["accuracy"], right / sum(pixels))
    # F1 of the first method's boundaries, from the sums of the single scenes' counts.
    methods = len(pooled)
    predicted, near, labelled, found = sum(counts[0:3 * methods:methods]).T
    f1 = 2 * (near / predicted) * (found / labelled) / (near / predicted + found / labelled)
    assert pooled["boundary F1"].iloc[0] == pytest.approx(f1.mean())
    assert "pooled over the valid pixels of 3 of 3 scenes:" in capsys.readouterr().out
