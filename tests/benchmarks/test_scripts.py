"""benchmarks/*.sh as bash runs them, with a stand-in for Python: their flags, what runs again."""

import json
import os
import subprocess
import sys

import pytest

import predict
import preprocess
import train
from utils.data.scenes import write_png

SCRIPTS = {"preprocess.py": preprocess, "train.py": train, "predict.py": predict}
# benchmarks/ccf.sh: what chooses a place or a machine's way, and what has no effect unless another
# flag is given. All others must be said there, whatever their default is.
FREE = {"images", "labels", "validation_images", "validation_labels", "test_images", "test_labels",
        "scene_table", "origin", "dataset", "logs", "run", "out", "classes", "pretrained", "precision", "processes",
        "workers", "devices", "slurm", "list", "bands", "part", "probabilities", "compare",
        "export", "export_onnx", "min_area", "polygons", "simplify", "memory", "resample",
        "image", "label", "quality", "power", "momentum", "focal_gamma", "crop_size", "scale_range",
        "label_attribute", "label_background", "aoi",
        "colour_jitter"}
# The original's protocol.
CUT = {"scenes": list("1234"), "test_scene": ["5"], "seed": 0, "tiles": 100000, "tile_size": 256,
       "crops_per_scene": "area", "rare_class_weight": 0, "validation_fraction": 0.1,
       "rotate_90": 0.25, "rotate_180": 0.25, "rotate_270": 0.25, "flip_horizontal": 0.25,
       "flip_vertical": 0.25, "gamma": 0.25, "gamma_range": [0.67, 1.5], "blur": 0.25,
       "bilateral": 0.25, "gaussian_blur": 0.25, "noise": 0.2}
TRAIN = {"test_scene": ["5"], "seed": 0, "steps": 50000, "batch_size": 16, "optimizer": "adam",
         "learning_rate": 2e-4, "schedule": "step", "weight_decay": 5e-4, "loss": "cross_entropy",
         "class_weights": "none", "hard_pixels": 1, "label_smoothing": 0, "ema": 0,
         "backbone_lr_factor": 1, "backbone": "resnet_v2_50", "width": 1, "output_stride": 16,
         "multi_grid": [1, 2, 4], "batch_norm_decay": 0.99, "test_display": 500,
         "save_every": 500, "summary_every": 20, "pretrained": "imagenet", "precision": "float32",
         "run": "ccf"}
PREDICT = {"test_scene": ["5"], "checkpoint": "best", "window": 256, "overlap": 0.5,
           "blend": "cosine", "batch_size": 4, "rotations": 4, "scales": [1], "run": "ccf",
           "precision": "float32", "overwrite": True}


@pytest.fixture
def run_shell(repository, tmp_path):
    """Function(script, **environment) -> (exit status, stderr, [command lines]); scenes in origin/.
    """
    record = tmp_path / "commands"
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!{sys.executable}\nimport json, sys\n"
                        f"print(json.dumps(sys.argv[1:]), file=open({str(record)!r}, 'a'))\n")
    stand_in.chmod(0o755)
    (tmp_path / "origin").mkdir()
    for name in "12345":
        (tmp_path / "origin" / f"{name}.png").touch()
        (tmp_path / "origin" / f"{name}_class.png").touch()

    def run(script, **environment):
        record.write_text("")
        done = subprocess.run(
            [repository / "benchmarks" / script], text=True, capture_output=True, env={
                "PATH": os.environ["PATH"], "PYTHON": str(stand_in),
                "ORIGIN": str(tmp_path / "origin"), "WORK": str(tmp_path / "tiles"),
                "OUT": str(tmp_path / "map"), **environment})
        return done.returncode, done.stderr, list(map(json.loads, record.read_text().splitlines()))
    return run


def parsed(command):
    """Flags of a command line as its script reads them, by name."""
    args = SCRIPTS[command[0]].parse_arguments(command[1:])
    return vars(args[0] if isinstance(args, tuple) else args)  # train.py gives its defaults too


@pytest.mark.parametrize("script, count", [("ccf.sh", 3), ("dubai.sh", 4), ("deepglobe.sh", 24)])
def test_the_scripts_know_every_flag(run_shell, script, count):
    status, errors, commands = run_shell(script)
    commands = [command for command in commands if command[0] in SCRIPTS]
    assert (status, errors) == (0, "") and len(commands) == count
    for command in commands:  # an unknown or shortened flag leaves, or is missing among the names
        assert {word[2:] for word in command if word.startswith("--")} <= set(parsed(command))


@pytest.mark.parametrize("number, protocol", list(enumerate((CUT, TRAIN, PREDICT))))
def test_the_protocol_is_said_and_not_left_to_defaults(run_shell, number, protocol):
    command = run_shell("ccf.sh")[2][number]
    chosen = parsed(command)
    assert {name: list(chosen[name]) if isinstance(chosen[name], tuple) else chosen[name]
            for name in protocol} == protocol
    said = {word[2:] for word in command if word.startswith("--")}
    switches = {name for name, value in chosen.items() if value is False}
    if command[0] == "predict.py":
        switches.add("seed")  # nothing in it is random
    assert said - FREE <= set(protocol) and set(chosen) - said - switches <= FREE


def test_complete_tiles_are_not_cut_again(run_shell, tmp_path):
    (tmp_path / "tiles").mkdir()
    for lines, scripts in ((6, ["train.py", "predict.py"]), (5, list(SCRIPTS))):
        (tmp_path / "tiles" / "path_list.csv").write_text("line\n" * lines)
        commands = run_shell("ccf.sh", TILES="5", STEPS="7")[2]
        assert [command[0] for command in commands] == scripts
    assert parsed(commands[0])["tiles"] == 5 and parsed(commands[1])["steps"] == 7


def test_the_protocol_cuts_its_tiles(run_shell, tmp_path, draw_scene):
    """With the real preprocess.py, which locks the folder too; the other scripts fail."""
    for name in "12345":
        image, label = draw_scene(300, 300, seed=int(name))
        write_png(str(tmp_path / "origin" / f"{name}.png"), image)
        write_png(str(tmp_path / "origin" / f"{name}_class.png"), label)
    python = tmp_path / "preprocess_only"
    python.write_text('#!/bin/sh\n'
                      f'[ "$1" = preprocess.py ] && exec {sys.executable} "$@"\nexit 7\n')
    python.chmod(0o755)
    status, errors, _ = run_shell("ccf.sh", PYTHON=str(python), TILES="4")
    assert (status, errors) == (7, "")
    assert len((tmp_path / "tiles" / "path_list.csv").read_text().splitlines()) == 5


def test_a_script_that_fails_ends_the_protocol_with_its_status(run_shell, tmp_path):
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho once >&2\nexit 2\n")
    failing.chmod(0o755)
    assert run_shell("ccf.sh", PYTHON=str(failing))[:2] == (2, "once\n")


def test_nothing_runs_without_a_scene_or_where_the_protocol_already_runs(run_shell, tmp_path):
    (tmp_path / "tiles").mkdir()
    lock = tmp_path / "tiles" / ".ccf.lock"
    with subprocess.Popen(["flock", lock, "sh", "-c", "echo; read line"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        status, errors, commands = run_shell("ccf.sh")
        holder.communicate(b"\n")
    assert (status, commands) == (2, []) and "tiles: this protocol already runs there" in errors
    (tmp_path / "origin" / "3_class.png").unlink()
    status, errors, commands = run_shell("ccf.sh")
    assert (status, commands) == (2, []) and "3_class.png of the CCF" in errors
    assert "dataset/README.md says where" in errors and errors.count("\n") == 1
