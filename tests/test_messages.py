"""What the programs say: help texts, flags without effect, inputs and sizes that cannot be."""

import os

import pytest

import predict
import preprocess
import train
from conftest import write_small_dataset
from deeplab_v3 import ModelConfig
from predict_stand_in import call, logs, samples_of, write_geotiff  # noqa: F401  (fixtures)
from test_docs import parser_of
from utils.classes import read_classes
from utils.data.scene_table import read_scene_table
from utils.inference.predictor import open_predictors
from utils.inference.sliding_window import InferenceOptions
from utils.memory import check_memory
from utils.training.run import find_run

SCRIPTS = ("preprocess", "train", "predict")


@pytest.mark.parametrize("module", [*SCRIPTS, "utils.metrics", "utils.data.scene_table",
                                    "utils.data.demo_scenes", "utils.inference.visualise"])
def test_a_help_shows_examples_groups_and_no_default_that_is_none(module):
    parser = parser_of(module)
    text = parser.format_help()
    name = f"{module}.py" if module in SCRIPTS else f"-m {module}"
    assert f"python {name}" in text.split("examples:\n")[1]
    assert "default: None" not in text and "default: ()" not in text
    if module in SCRIPTS:
        own = [group for group in parser._action_groups if group._group_actions]
        assert [action.dest for action in own[0]._group_actions] == ["help"]  # all else is in a group
        assert len(own) > 3
    assert ("--seed" in text) == (module in ("preprocess", "train", "utils.data.demo_scenes"))


@pytest.mark.parametrize("script, flags, line", [
    (train, "--colour_jitter .3", "--colour_jitter has no effect without --augment_online"),
    (train, "--focal_gamma 3", "--focal_gamma has no effect unless --loss is focal"),
    (train, "--power 1", "--power has no effect unless --schedule is poly"),
    (train, "--momentum .8", "--momentum has no effect unless --optimizer is momentum"),
    (preprocess, "--gamma_range 1 2 --no_augment", "--gamma_range has no effect where --gamma is 0"),
    (predict, "--image a.png --test_scene 5", "--test_scene has no effect with --image"),
    (predict, "--export a --overlap .3", "--overlap has no effect with --export"),
    (predict, "--export a --out b", "--out has no effect with --export"),
    (predict, "--compare --probabilities", "--probabilities has no effect with "),
    (predict, "--compare --min_area 20px", "--min_area has no effect with --export, "),
    (predict, "--export_onnx a --cog", "--cog has no effect with ")])
def test_a_flag_without_effect_is_told(capsys, script, flags, line):
    script.parse_arguments(flags.split())
    assert capsys.readouterr().out.startswith(f"warning: {line}")


@pytest.mark.parametrize("script, flags", [
    (train, "--colour_jitter .3 --augment_online --focal_gamma 3 --loss focal --power 1 --schedule "
     "poly --momentum .8 --optimizer momentum"),
    (preprocess, "--gamma_range 1 2 --origin a"), (predict, "--test_scene 5 --blend uniform"),
    (predict, "--overlap 0 --blend uniform"),  # the last window of a row overlaps all the same
    (predict, "--seed 3 --image a --probabilities")])
def test_a_flag_with_its_effect_is_not(capsys, script, flags):
    script.parse_arguments(flags.split())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", [".", "..", "../../x", "a/../..", "/x", "./"])
def test_a_run_lies_in_the_folder_of_runs(tmp_path, refusal, name):
    folder = tmp_path / "b" / "logs"
    for script in (train, predict):
        line = refusal(script, "--logs", folder, "--run", name)
        assert f"--run {name}: not the name of a folder in --logs ({folder}); " in line
    assert not (tmp_path / "b").exists()


def test_a_run_may_lie_deeper(tmp_path):
    with pytest.raises(FileNotFoundError, match="b/c: no run there"):
        find_run(str(tmp_path), "b/c")


def test_a_band_that_is_not_there_is_named(call, tmp_path):
    path = write_geotiff(tmp_path / "in" / "a.tif", samples_of(64, 64))
    with pytest.raises(ValueError, match=r"a.tif: 3 band\(s\) of uint8; there is no band 99; choose "
                                         "others with --bands$"):
        call("--image", path, "--bands", 1, 2, 99)


@pytest.fixture(params=["fifo", "zero"])
def endless(request, tmp_path):
    """A path, without its extension, of something that has no end or nobody who writes."""
    def make(extension):
        path = str(tmp_path / f"endless{extension}")
        if request.param == "fifo":
            os.mkfifo(path)
        else:
            os.symlink("/dev/zero", path)
        return path
    return make


def test_pipes_and_devices_are_refused(endless, call, tmp_path):
    for extension in (".tif", ".png"):
        path = endless(extension)
        with pytest.raises(ValueError, match=f"endless{extension}: a pipe or a device; give a plain"):
            call("--image", path)
        good = write_geotiff(tmp_path / "in" / "a.tif", samples_of(64, 64))
        with pytest.raises(ValueError, match="a pipe or a device"):
            call("--image", good, "--label", path)
    path = endless(".csv")
    for read in (read_classes, read_scene_table):
        with pytest.raises(ValueError, match="endless.csv: a pipe or a device"):
            read(path)


def test_what_memory_surely_cannot_hold_is_refused_before_it_is_asked_for():
    config = ModelConfig(5)
    check_memory(config, 16, 512, True, "")
    with pytest.raises(MemoryError, match="100000 images of 256 x 256 pixels at once take .* this "
                                          "machine has .*; lower --batch_size$"):
        check_memory(config, 10 ** 5, 256, False, "lower --batch_size")
    with pytest.raises(MemoryError, match="400000 images of 384 .* lower --batch_size, --window or"):
        with open_predictors("none", config, "float32",
                             [InferenceOptions(256, batch_size=100000, rotations=4,
                                               scales=(1, 1.5))]):
            pass


def test_a_batch_that_no_machine_holds_is_refused(tmp_path, refusal):
    write_small_dataset(tmp_path)
    preprocess.cut_tile_set(preprocess.parse_arguments(
        ["--dataset", str(tmp_path), "--tiles", "4", "--tile_size", "64"]))
    line = refusal(train, "--dataset", tmp_path, "--logs", tmp_path / "logs", "--devices", 1,
                   "--pretrained", "none", "--batch_size", 10 ** 15)
    assert f"{10 ** 15} images of 64 x 64 pixels at once" in line and "lower --batch_size" in line
    assert not (tmp_path / "logs").exists()
