"""The whole chain as its user runs it: preprocess.py, train.py, predict.py, utils.metrics.

The runs are made once for the file; each costs the start of TensorFlow and of a graph.
"""

import glob
import os
import shutil
import signal
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest
import tensorflow.compat.v1 as tf

import train
from conftest import REPOSITORY, read_settings, write_small_dataset
from utils.classes import DEFAULT_TABLE, read_classes
from utils.training.checkpoints import BEST, LATEST, Checkpoints
from utils.training.run import BestScore, read_starts

STEPS = 6
TILE, CROP = 64, 48
# A checkpoint of the whole network is half a gigabyte; an eighth of its width takes every path too.
RECIPE = ("--pretrained", "none", "--batch_size", "2", "--multi_grid", "1", "1", "1", "--width",
          "0.125", "--summary_every", "1", "--seed", "3")
TIMEOUT = 600  # only to end a process that hangs; a busy machine may take minutes


def command(script, *arguments):
    return [sys.executable, *script.split(), *map(str, arguments)]


def call(script, *arguments, status=0):
    """(stdout, stderr) of a script that must end with `status`."""
    done = subprocess.run(command(script, *arguments), cwd=REPOSITORY, text=True,
                          capture_output=True, timeout=TIMEOUT)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


def read_events(run):
    """{tag: {step: value}} of all event files; pictures as encoded strings."""
    values = {}
    for path in sorted(glob.glob(os.path.join(run, "events.out.*"))):
        for event in tf.train.summary_iterator(path):
            for value in event.summary.value:
                content = getattr(value, value.WhichOneof("value"))
                values.setdefault(value.tag, {})[event.step] = content
    return values


def read_checkpoint(run, which=LATEST):
    """(reader of the run's latest or best checkpoint, its step)."""
    path, step = Checkpoints(str(run), which).find()
    return tf.train.load_checkpoint(path), step


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = write_small_dataset(tmp_path_factory.mktemp("data"))
    call("preprocess.py", "--dataset", folder, "--tiles", 12, "--tile_size", TILE, "--no_augment",
         "--processes", 2)
    assert len(pd.read_csv(folder / "validation_list.csv")) > 0
    return folder


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    return tmp_path_factory.mktemp("logs")


def training_flags(dataset, logs, name, *arguments):
    return ("--dataset", dataset, "--logs", logs, "--run", name, "--steps", STEPS, "--save_every",
            3, "--test_display", 3, "--augment_online", "--crop_size", CROP,
            "--scale_range", 0.5, 2, *RECIPE, *arguments)


@pytest.fixture(scope="module")
def trained(dataset, logs):
    """(run folder, screen output) of a run that was not interrupted."""
    output, errors = call("train.py", *training_flags(dataset, logs, "whole", "--histograms"))
    assert errors == ""
    return str(logs / "whole"), output


def test_a_run_leaves_settings_and_both_checkpoints(trained, dataset):
    run, output = trained
    settings = read_settings(run)
    table = read_classes(str(REPOSITORY / DEFAULT_TABLE))
    assert settings["model"]["num_classes"] == len(table)
    assert settings["classes"] == table.to_settings()
    assert settings["tile_size"] == CROP
    assert settings["training"]["seed"] == 3 and settings["training"]["pretrained"] == "none"
    latest = read_checkpoint(run)[0].get_variable_to_shape_map()
    assert any(name.endswith("weights/Adam") for name in latest)
    reader, step = read_checkpoint(run, BEST)
    assert not [name for name in reader.get_variable_to_shape_map() if "Adam" in name]
    best, events = BestScore.read(run), read_events(run)
    assert best.step == step == max(events["best/mean_iou"]) and best.evaluated == STEPS
    assert best.mean_iou == pytest.approx(max(events["validation/mean_iou"].values()))
    assert best.held_out_mean_iou == pytest.approx(events["held_out/mean_iou"][step])
    [start] = read_starts(run)
    assert start["step"] == 0 and "--run whole" in start["command"]
    assert f"best mean-IoU on the validation tiles {best.mean_iou:.4f}" in output


def test_training_moves_the_weights_and_the_moving_statistics(trained):
    reader, step = read_checkpoint(trained[0])
    assert reader.get_tensor("global_step") == step == STEPS
    assert (reader.get_tensor("resnet_v2_50/postnorm/moving_mean") != 0).any()
    assert (reader.get_tensor("resnet_v2_50/postnorm/gamma") != 1).any()


def test_tensorboard_is_shown_what_was_promised(trained):
    values = read_events(trained[0])
    every_step, evaluated = set(range(1, STEPS + 1)), {3, 6}
    for tag in ("loss/cross_entropy", "loss/with_weight_decay", "training/learning_rate",
                "training/images_per_second"):
        assert set(values[tag]) == every_step and np.isfinite(list(values[tag].values())).all()
    assert all(values["loss/with_weight_decay"][s] > values["loss/cross_entropy"][s]
               for s in every_step)
    rates = [values["training/learning_rate"][s] for s in sorted(every_step)]
    # 60% and 80% of 6 steps are 4 and 5: after so many steps the rate is divided.
    np.testing.assert_allclose(rates, [2e-4] * 4 + [2e-5, 2e-6], rtol=1e-5)
    for tag in ("validation/mean_iou", "validation/accuracy", "held_out/mean_iou",
                "held_out/accuracy", "held_out/boundary_f1"):
        assert set(values[tag]) == evaluated
        assert all(0 <= value <= 1 for value in values[tag].values())
    for group in ("validation", "held_out"):
        assert set(values[f"confusion_matrix/{group}"]) == evaluated
        assert {tag for tag in values if tag.startswith(f"{group}_iou/")} == {
            f"{group}_iou/{name}" for name in read_classes(str(REPOSITORY / DEFAULT_TABLE)).names}
    # Three steps pay for one batch of windows of the held-out scene, which are two.
    pictures = {tag: shown for tag, shown in values.items() if tag.startswith("held_out/part_")}
    assert len(pictures) == 2
    for shown in pictures.values():
        assert set(shown) == evaluated
        picture = cv2.imdecode(np.frombuffer(shown[6].encoded_image_string, np.uint8), 1)
        assert picture.shape == (CROP, shown[6].width, 3) and picture.shape[1] >= 3 * CROP
    for group in ("weights", "gradients"):
        assert set(values[f"{group}/resnet_v2_50/conv1/weights"]) == evaluated
        assert values[f"{group}/resnet_v2_50/conv1/weights"][6].num == 7 * 7 * 3 * 8


def test_ctrl_c_saves_and_leaves(dataset, logs):
    """Before its first save."""
    flags = training_flags(dataset, logs, "interrupted", "--test_display", 2, "--save_every", 100)
    output = ""
    with subprocess.Popen(command("train.py", *flags), cwd=REPOSITORY, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for line in process.stdout:
            output += line
            if line.startswith("step 2:"):
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130, output
    _, step = read_checkpoint(logs / "interrupted")
    assert 2 <= step < STEPS
    assert f"stopped and saved at step {step}" in output and "Traceback" not in output


def test_a_resumed_run_goes_on_as_if_never_interrupted(trained, dataset, logs):
    """Losses equal those of the run that went on, bit for bit, although that drew histograms.

    It was killed after it had saved step 3 and before it evaluated it.
    """
    run = str(logs / "resumed")
    shutil.copytree(trained[0], run, ignore=shutil.ignore_patterns("events.*", "step-6*", BEST))
    (logs / "resumed" / LATEST / "checkpoint").write_text(
        'model_checkpoint_path: "step-3"\nall_model_checkpoint_paths: "step-3"\n')
    # --pretrained is left out: a checkpoint takes precedence over it.
    flags = list(training_flags(dataset, logs, "resumed"))
    del flags[flags.index("--pretrained"):flags.index("--pretrained") + 2]
    output, _ = call("train.py", *flags)
    assert "resumed at step 3" in output
    assert read_settings(run) == read_settings(trained[0])
    whole, resumed = read_events(trained[0]), read_events(run)
    for tag in ("loss/cross_entropy", "training/learning_rate"):
        assert resumed[tag] == {step: whole[tag][step] for step in (4, 5, 6)}
    assert read_checkpoint(run)[1] == STEPS
    for tag in ("validation/mean_iou", "held_out/mean_iou", "best/mean_iou"):
        assert resumed[tag] == whole[tag]
    assert BestScore.read(run) == BestScore.read(trained[0])
    assert [start["step"] for start in read_starts(run)] == [0, 3]
    assert not any(tag.startswith(("weights/", "gradients/")) for tag in resumed)


def test_other_settings_are_refused_by_name(trained, dataset, logs, refusal):
    line = refusal(train, *training_flags(dataset, logs, "whole", "--learning_rate", ".001",
                                          "--batch_size", 3, "--output_stride", 8))
    for change in ("output_stride was 16, is 8", "batch_size was 2, is 3",
                   "learning_rate was 0.0002, is 0.001", "another --run"):
        assert change in line
    assert "seed was" not in line


def test_without_tiles_the_way_on_is_said(tmp_path, refusal):
    assert "preprocess.py" in refusal(train, "--dataset", tmp_path, "--pretrained", "none")


def test_tiles_of_another_class_table_are_refused(dataset, tmp_path, refusal):
    classes = tmp_path / "classes.csv"
    classes.write_text("id,name,colour\n" + "".join(f"{i},c{i},#0000{i}0\n" for i in range(5)))
    line = refusal(train, "--dataset", dataset, "--logs", tmp_path, "--classes", classes,
                   "--pretrained", "none")
    assert "cut with another class table (0 is other, not c0)" in line


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(dataset, logs):
    _, line = call("train.py", *training_flags(dataset, logs, "diverged", "--learning_rate", "1e30",
                                               "--save_every", 1, "--test_display", 100), status=2)
    assert line.count("\n") == 1 and line.startswith("train.py: error: ")
    reader, step = read_checkpoint(logs / "diverged")
    assert f"not finite at step {step + 1} of " in line and f"of step {step} is kept" in line
    assert reader.get_tensor("global_step") == step
    assert all(np.isfinite(reader.get_tensor(name)).all()
               for name in reader.get_variable_to_shape_map())


def test_the_scores_of_predict_are_those_of_its_written_map(trained, dataset, logs, tmp_path):
    call("predict.py", "--dataset", dataset, "--logs", logs, "--run", "whole", "--out", tmp_path,
         "--rotations", 1, "--overlap", 0)
    call("-m utils.metrics", "--label", dataset / "origin" / "5_class.png",
         "--prediction", tmp_path / "5_class.png", "--csv", tmp_path / "again.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "5_scores.csv"),
                                  pd.read_csv(tmp_path / "again.csv"))
