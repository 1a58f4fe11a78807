"""benchmarks/ccf.py: its checks, its estimate, the commands of the protocol and when they run."""

import argparse
import os
import shutil
import sys

import pandas as pd
import pytest
import tensorflow.compat.v1 as tf

import predict
import preprocess
import train
from benchmarks import ccf, ccf_estimate
from utils.classes import read_classes
from utils.training.evaluation import scalar_summary
from utils.training.tensorboard import EventWriter
from utils.data.scenes import write_png

HEIGHT, WIDTH = 40, 52
# What changes nothing, or not unless another flag is given; where data and results lie.
FREE = {"dataset", "origin", "classes", "logs", "run", "out", "pretrained", "precision",  # chosen
        "processes", "devices", "slurm", "list", "bands", "overwrite", "part",
        "probabilities", "compare", "export", "image", "label", "histograms",
        "power", "momentum", "focal_gamma", "crop_size", "scale_range", "colour_jitter"}
MEASURED = {"tile_seconds": .01, "tile_bytes": 150e3, "validation_bytes": 1e9, "step_seconds": .36,
            "evaluation_seconds": 90, "evaluation_bytes": 2e6, "newest_bytes": 5e8,
            "best_bytes": 2e8, "megapixels": 20., "map_seconds": 1800, "map_bytes": 1e8}


@pytest.fixture(name="origin")
def origin_fixture(tmp_path, draw_scene):
    """A folder of five tiny scenes with their labels."""
    for name in ccf.SCENES:
        image, label = draw_scene(HEIGHT, WIDTH, seed=int(name))
        write_png(str(tmp_path / "origin" / f"{name}.png"), image)
        write_png(str(tmp_path / "origin" / f"{name}_class.png"), label)
    return tmp_path / "origin"


@pytest.fixture(name="table")
def table_fixture(repository):
    return read_classes(str(repository / "dataset" / "classes.csv"))


def test_good_scenes_are_listed_with_their_sizes(origin, table, capsys):
    assert ccf.check_scenes(str(origin), table, (HEIGHT, WIDTH)) == (HEIGHT, WIDTH)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" (")[0] for line in lines] == [
        f"scene {name}: 40 x 52 pixels" for name in ccf.SCENES]
    assert lines[0].endswith("label values 0 1 2 3 4 255")


def test_scenes_that_are_missing_are_named_with_where_to_get_them(origin, table, tmp_path):
    (origin / "3_class.png").unlink()
    (origin / "4.png").unlink()
    with pytest.raises(FileNotFoundError, match="origin: 4.png, 3_class.png of .*"
                                                "dataset/README.md says where"):
        ccf.check_scenes(str(origin), table, (HEIGHT, WIDTH))
    with pytest.raises(FileNotFoundError, match="none: 1.png, 2.png.*dataset/README.md"):
        ccf.check_scenes(str(tmp_path / "none"), table)


def test_scenes_that_are_not_those_of_ccf_are_refused(origin, table):
    with pytest.raises(ValueError, match="5.png: 40 x 52 .*but scene 5 of CCF has 6116 x 3357"):
        ccf.check_scenes(str(origin), table)
    _, label = ccf.read_scene(ccf.find_scenes(str(origin))["2"], table)
    write_png(str(origin / "2_class.png"), label[1:])
    with pytest.raises(ValueError, match="2_class.png: 39 x 52 .*its image .* has 40 x 52"):
        ccf.check_scenes(str(origin), table, (HEIGHT, WIDTH))
    label[7, 7] = 7
    write_png(str(origin / "2_class.png"), label)
    with pytest.raises(ValueError, match="2_class.png: label value 7 is not in the class table"):
        ccf.check_scenes(str(origin), table, (HEIGHT, WIDTH))


def parsed(script, command, monkeypatch):
    monkeypatch.setattr(sys, "argv", command)
    return vars(script.parse_arguments())


@pytest.mark.parametrize("number, script", [(0, preprocess), (1, train), (2, predict)])
def test_the_scripts_know_every_flag_and_none_that_matters_is_left_to_a_default(
        number, script, monkeypatch):
    args = argparse.Namespace(dataset="D", origin="O", logs="L", out="M", pretrained="W",
                              precision="bfloat16")
    command = ccf.commands(args)[number]
    chosen = parsed(script, command, monkeypatch)
    switches = {name for name, value in chosen.items() if value is False}
    said = {flag[2:] for flag in command if flag.startswith("--")}
    if script is predict:
        switches.add("seed")  # nothing in it is random
    assert set(chosen) - said - switches <= FREE
    assert said <= set(chosen) and not [name for name, value in chosen.items() if value is True]
    # Today's defaults are the protocol, but for those whose default depends on something else.
    defaults = parsed(script, command[:1], monkeypatch)
    for name in said - FREE - {"scenes", "window", "multi_grid", "test_scene"}:
        assert list(defaults[name]) == list(chosen[name]) if isinstance(
            defaults[name], (list, tuple)) else defaults[name] == chosen[name], name
    expected = {preprocess: {"tiles": 100000, "tile_size": 256, "test_scene": "5"},
                train: {"steps": 50000, "batch_size": 16, "pretrained": "W", "test_scene": "5"},
                predict: {"rotations": 4, "test_scene": "5", "run": "ccf", "out": "M"}}[script]
    assert {name: chosen[name] for name in expected} == expected


def test_the_estimate_adds_up():
    table = ccf_estimate.estimate(MEASURED, tiles=100000, steps=50000, interval=500)
    assert table["hours"].tolist() == pytest.approx(
        [1000 / 3600, (18000 + 100 * 90) / 3600, .5, (1000 + 27000 + 1800) / 3600])
    assert table["GB"].tolist() == pytest.approx([15 + 1, 1.5 + .4 + .2, .1, 18.2])
    assert table["measured"].tolist() == [
        "100.0 tiles/s, 150 kB each", "0.36 s a step; each 500 steps 90 s; checkpoint 500 MB",
        "0.0111 megapixels/s", ""]


def test_a_disk_that_is_too_small_is_named_with_what_it_has_to_hold(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: argparse.Namespace(free=17.5e9))
    folders = [str(tmp_path / name) for name in ("tiles", "runs/here")]
    ccf_estimate.check_disk(dict(zip(folders, (16, 1))))
    assert capsys.readouterr().out == f"{tmp_path}: 17.0 GB needed, 17.5 GB free\n"
    with pytest.raises(OSError, match="18.0 GB are needed and 17.5 GB free; free some space"):
        ccf_estimate.check_disk(dict(zip(folders, (16, 2))))


def test_tiles_and_training_are_measured_from_what_they_leave(tmp_path):
    for part, files in (("train", 3), ("validation", 1)):
        for kind, size in (("images", 5000), ("labels", 10)):
            (tmp_path / part / kind).mkdir(parents=True)
            for number in range(files):
                path = tmp_path / part / kind / f"{number}.png"
                path.write_bytes(bytes(size))
                os.utime(path, (0, 1000 + 3 * number))
    assert ccf_estimate.measure_tiles(str(tmp_path)) == {
        "tile_seconds": 3, "tile_bytes": 3 * 4096, "validation_bytes": 3 * 4096}

    run = tmp_path / "run"
    for name, size in (("newest", 9000), ("best", 1)):
        (run / name).mkdir(parents=True)
        (run / name / "step-20").write_bytes(bytes(size))
    with tf.Graph().as_default():
        writer = EventWriter(str(run), 1)
    # The first point has the start of the graph in it.
    clock = iter(range(100, 200, 10))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.training.tensorboard.time.time", lambda: next(clock))
        for step, rate in ((5, 1), (10, 4), (15, 5), (20, 8)):
            writer.add_summary(scalar_summary({"training/images_per_second": rate}), step)
        writer.add_summary(scalar_summary({"validation/mean_iou": .5}), 20)
        writer.add_summary(scalar_summary({"best/mean_iou": .5}), 20)
    writer.close()
    measured = ccf_estimate.measure_training(str(run), 16)
    assert 40 < measured.pop("evaluation_bytes") < 200
    assert measured == {"step_seconds": 16 / 5, "evaluation_seconds": 20, "newest_bytes": 3 * 4096,
                        "best_bytes": 4096}


@pytest.fixture(name="run_main")
def run_main_fixture(origin, tmp_path, monkeypatch):
    """Function(*flags) -> what ran, by stand-ins: trial and scripts, 'again' for --overwrite."""
    monkeypatch.setattr(ccf.check_scenes, "__defaults__", ((HEIGHT, WIDTH),))
    monkeypatch.setattr(ccf, "read_classes", lambda path: read_classes(
        os.path.join(os.path.dirname(ccf.__file__), "..", path)))
    (tmp_path / "step-9.index").touch()
    os.utime(tmp_path / "step-9.index", (1000, 1000))
    monkeypatch.setattr(ccf, "find_checkpoint", lambda *_: (str(tmp_path / "step-9"), 9))

    def run(*flags):
        run.ran = ran = []
        monkeypatch.setattr(ccf, "run_trial", lambda *_: ran.append("trial") or MEASURED)
        monkeypatch.setattr(ccf, "call", lambda command, **_: ran.append(
            command[0].removesuffix(".py") + " again" * ("--overwrite" in command)))
        monkeypatch.setattr(sys, "argv", [
            "ccf", "--origin", str(origin), "--dataset", str(tmp_path / "tiles"),
            "--logs", str(tmp_path / "logs"), "--out", str(tmp_path / "map"), *flags])
        ccf.main()
        return ran
    return run


def test_what_is_there_already_is_not_made_again(run_main, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: argparse.Namespace(free=1e15))
    assert run_main("--trial_only") == ["trial"]
    assert "together" in capsys.readouterr().out
    assert run_main() == ["trial", "preprocess", "train", "predict again"]
    tiles = pd.DataFrame({"image": ["a", "b"], "label": ["a", "b"]})
    tiles.to_csv(tmp_path / "tiles" / "path_list.csv")
    assert run_main() == ["trial", "preprocess", "train", "predict again"]
    monkeypatch.setattr(ccf, "TILES", 2)
    assert run_main() == ["train", "predict again"]
    assert run_main("--trial_only") == ["trial"]
    # A map of an earlier run is made anew, this run's is not.
    (tmp_path / "map").mkdir()
    (tmp_path / "map" / "5_class.png").touch()
    assert run_main() == ["train", "predict"]
    os.utime(tmp_path / "map" / "5_class.png", (0, 0))
    assert run_main() == ["train", "predict again"]


def test_nothing_begins_where_the_disk_is_too_small_or_another_is_at_work(
        run_main, tmp_path, monkeypatch):
    with ccf.only_one(str(tmp_path / "tiles")):
        with pytest.raises(OSError, match="tiles: this protocol is at work there already"):
            run_main()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: argparse.Namespace(free=1e9))
    with pytest.raises(OSError, match="18.2 GB are needed and 1.0 GB free"):
        run_main()
    assert run_main.ran == ["trial"]


@pytest.mark.parametrize("flag", ["dataset", "logs", "out"])
def test_folders_that_cannot_be_written_are_named_before_days_of_work(
        run_main, origin, tmp_path, flag):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=f"file/a: .* choose another --{flag}"):
        run_main(f"--{flag}", str(tmp_path / "file" / "a"))
    with pytest.raises(ValueError, match="origin/: .*choose another --out"):
        run_main("--out", f"{origin}/")
    assert run_main.ran == []


def test_what_a_killed_preprocess_left_goes_before_the_disk_is_measured(
        run_main, tmp_path, monkeypatch):
    left = tmp_path / "tiles" / ".partial-tiles-1"
    left.mkdir(parents=True)
    (tmp_path / "tiles" / "path_list.csv").write_text('image,label\n"cut, short')
    monkeypatch.setattr(shutil, "disk_usage", lambda path: argparse.Namespace(
        free=1 if left.exists() else 1e15))
    assert run_main() == ["trial", "preprocess", "train", "predict again"]


def test_every_script_of_the_trial_holds_the_lock(origin, tmp_path, monkeypatch):
    """One that outlives this process keeps the next from removing the folder that it works in."""
    ran = []

    def call(command, pass_fds, stdout=None):
        ran.append((command[0], pass_fds))
        if stdout:
            stdout.write("2.5 s, 1 megapixels\n")

    monkeypatch.setattr(ccf, "call", call)
    monkeypatch.setattr(ccf, "measure_tiles", lambda folder: {})
    monkeypatch.setattr(ccf, "measure_training", lambda run, batch: {})
    args = argparse.Namespace(origin=str(origin), dataset=str(tmp_path / "tiles"), logs="L",
                              out="M", pretrained="none", precision="float32")
    with ccf.only_one(args.dataset) as lock:
        measured = ccf.run_trial(args, (HEIGHT, WIDTH), lock)
        held = [lock.fileno()]
    assert ran == [("preprocess.py", held), ("train.py", held), ("predict.py", held)]
    assert measured["map_seconds"] == 2.5 and os.listdir(args.dataset) == [".lock"]


def test_a_script_that_fails_ends_the_protocol_with_its_status():
    with pytest.raises(SystemExit) as ended:
        ccf.call(["-c", "raise SystemExit(2)"])
    assert ended.value.code == 2
    with pytest.raises(OSError, match="ended by SIGKILL from outside"):
        ccf.call(["-c", "import os; os.kill(os.getpid(), 9)"])
