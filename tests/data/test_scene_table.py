"""Scenes by folder, by patterns and by a table: the same tiles, splits, one line for a mistake."""

import argparse
import filecmp
import os
import re
import subprocess
import sys

import pytest

import preprocess
from conftest import REPOSITORY, draw_scene
from preprocess_runs import files_below, run_preprocess
from utils.data.scene_table import (named, read_scene_table, scenes_of_patterns,
                                    write_scene_table)
from utils.data.scenes import Scene, write_png
from utils.data.tiles import held_out_scenes, read_tile_list

FLAGS = ("--tile_size", 64, "--tiles", 20, "--no_augment")


@pytest.fixture
def scenes(tmp_path):
    """A data set as such come: train/N_sat.png with N_mask.png, validation/ and test/ likewise."""
    for split, names in (("train", "123"), ("validation", "14"), ("test", "56")):
        for name in names:
            image, label = draw_scene(130, 150, seed=int(name) + len(split))
            write_png(str(tmp_path / split / f"{name}_sat.png"), image)
            write_png(str(tmp_path / split / f"{name}_mask.png"), label)
    return tmp_path


def patterns(folder, **changed):
    flags = {f"{prefix}{kind}s": f"{folder}/{split}/*_{ending}.png"
             for prefix, split in (("", "train"), ("validation_", "validation"), ("test_", "test"))
             for kind, ending in (("image", "sat"), ("label", "mask"))} | changed
    return [part for name, value in flags.items() for part in (f"--{name}", value)]


def test_patterns_and_a_table_give_the_same_tiles(scenes):
    table = scenes / "scenes.csv"
    subprocess.run([sys.executable, "-m", "utils.data.scene_table", *patterns(scenes), "--out",
                    str(table)], cwd=REPOSITORY, check=True, capture_output=True)
    for name, flags in (("one", patterns(scenes)), ("two", ("--scene_table", table))):
        done = run_preprocess(scenes / name, *FLAGS, *flags)
        assert done.returncode == 0, done.stderr
    files = files_below(scenes / "one")
    assert len(files) > 40
    assert filecmp.cmpfiles(scenes / "one", scenes / "two", files, shallow=False)[1:] == ([], [])


def test_validation_scenes_become_tiles_whole_and_training_scenes_lose_nothing(scenes):
    assert run_preprocess(scenes, *FLAGS, *patterns(scenes)).returncode == 0
    validation = read_tile_list(str(scenes), "validation_list.csv")
    # 1 is in both splits, as another picture.
    assert validation["scene"].tolist() == ["validation_1"] * 9 + ["4"] * 9
    assert sorted(set(validation["row"].astype(int))) == [0, 64, 130 - 64]
    assert set(read_tile_list(str(scenes))["scene"]) == {"1", "2", "3"}
    assert [scene.name for scene in held_out_scenes(str(scenes))] == ["5", "6"]


def test_several_scenes_of_a_folder_are_held_out_by_name_or_pattern(small_dataset):
    assert run_preprocess(small_dataset, *FLAGS, "--test_scene", "2", "[5-9]").returncode == 0
    assert [scene.name for scene in held_out_scenes(str(small_dataset))] == ["2", "5"]
    assert set(read_tile_list(str(small_dataset))["scene"]) == {"1"}


def test_test_scene_holds_out_of_patterns_and_of_the_table_in_the_data_set(scenes):
    """A flag that is passed over in silence would let a held-out scene into the training tiles."""
    training = patterns(scenes)[:4]
    write_scene_table(str(scenes / "scenes.csv"), [
        Scene(n, str(scenes / f"train/{n}_sat.png"), str(scenes / f"train/{n}_mask.png"), "train")
        for n in "123"])
    for folder, given in ((scenes / "out", training), (scenes, ())):
        assert run_preprocess(folder, *FLAGS, *given, "--test_scene", "[23]").returncode == 0
        assert set(read_tile_list(str(folder))["scene"]) == {"1"}
        assert [scene.name for scene in held_out_scenes(str(folder))] == ["2", "3"]
    os.remove(scenes / "train" / "1_sat.png")  # tiles outlive the scenes that they were cut from
    assert [scene.name for scene in held_out_scenes(str(scenes / "out"))] == ["2", "3"]


@pytest.mark.parametrize("images, labels, files, names", [
    ("top_*_*_RGB.png", "top_*_*_label.png",
     ["top_potsdam_2_10_RGB.png", "top_potsdam_2_11_RGB.png", "top_potsdam_2_10_label.png",
      "top_potsdam_2_11_label.png"], ["potsdam_2_10", "potsdam_2_11"]),
    ("*/image.png", "*/label.png",
     ["a/image.png", "a/label.png", "b/image.png", "b/label.png"], ["a", "b"]),
    ("*.png", "*_mask.png", ["1.png", "1_mask.png", "2.png", "2_mask.png"], ["1", "2"]),
])
def test_names_are_what_the_stars_stand_for(tmp_path, images, labels, files, names):
    for file in files:
        os.makedirs(os.path.dirname(tmp_path / file), exist_ok=True)
        (tmp_path / file).touch()
    none = {f"{split}_{kind}": None for split in ("validation", "test")
            for kind in ("images", "labels")}
    found = scenes_of_patterns(argparse.Namespace(
        images=f"{tmp_path}/{images}", labels=f"{tmp_path}/{labels}", **none))
    assert [scene.name for scene in found] == names


def test_a_table_is_read_as_it_was_written(scenes):
    given = [Scene("a", str(scenes / "train/1_sat.png"), str(scenes / "train/1_mask.png"), "train"),
             Scene("b", str(scenes / "test/5_sat.png"), None, "test")]
    path = str(scenes / "elsewhere" / "scenes.csv")
    write_scene_table(path, given)
    read = read_scene_table(path)
    assert [(s.name, os.path.realpath(s.image_path), s.split) for s in read] == [
        (s.name, s.image_path, s.split) for s in given]
    assert read[1].label_path is None


def nothing(folder):
    pass


def table(text):
    return lambda folder: (folder / "scenes.csv").write_text("image,label,split\n" + text)


ROW = "train/1_sat.png,train/1_mask.png,train\n"


@pytest.mark.parametrize("spoil, flags, complaint", [
    (lambda folder: os.remove(folder / "train" / "2_mask.png"), patterns,
     "2_mask.png: the label of .*2_sat.png is missing"),
    (table(ROW + "train/1_sat.png,train/1_mask.png,test\n"), None,
     "1_sat.png: it is there twice, in split train and test"),
    (table(ROW + "validation/1_sat.png,validation/1_mask.png,train\n"), None,
     "1_sat.png: another scene is called 1_sat too"),
    (table(ROW + "train/9_sat.png,train/1_mask.png,train\n"), None,
     "9_sat.png: the image is missing"),
    (table(ROW + "train/2_sat.png,,train\n"), None, "2_sat.png: it has no label, and split train"),
    (table(ROW + "train/2_sat.png,train/2_mask.png,val\n"), None, "split 'val' of image"),
    (table("test/5_sat.png,,test\n"), None, "no scene of split train"),
    (lambda folder: (folder / "scenes.csv").write_text("image,split\na,train\n"), None,
     "column label is missing"),
    (nothing, lambda folder: ["--images", f"{folder}/train/*_sat.png"],
     "--images and --labels go together"),
    (nothing, lambda folder: patterns(folder, images=f"{folder}/no/*.png"),
     "no file matches that pattern; check --images"),
    (nothing, lambda folder: patterns(folder, scene_table="x.csv"), "both say which"),
    (nothing, lambda folder: patterns(folder)[4:], "--images and --labels are missing"),
    (nothing, lambda folder: [*patterns(folder), "--test_scene", "9"],
     "--images .--test_scene.: there is no scene 9"),
    (nothing, lambda folder: [*patterns(folder), "--test_scene", "[123]"],
     "no scene of split train"),
    (nothing, lambda folder: [*patterns(folder), "--scenes", "1"], "--scenes chooses among"),
    # The same files by patterns: in two splits, and two of one name.
    (nothing, lambda folder: patterns(folder, validation_images=f"{folder}/train/*_sat.png",
                                      validation_labels=f"{folder}/train/*_mask.png"),
     "1_sat.png: it is there twice, in split train and validation"),
    (nothing, lambda folder: [
        "--images", f"{folder}/*/*_sat.png", "--labels", f"{folder}/*/*_mask.png"],
     "1_sat.png: another scene is called 1 too"),
])
def test_a_mistake_is_one_line_that_names_it(scenes, refusal, spoil, flags, complaint):
    spoil(scenes)
    given = flags(scenes) if flags else ["--scene_table", scenes / "scenes.csv"]
    line = refusal(preprocess, "--dataset", scenes / "out", *FLAGS, *given)
    assert re.search(complaint, line), line
    assert not (scenes / "out" / "path_list.csv").exists()


def test_many_names_are_told_short():
    assert named("1") == "scene 1" and named("123") == "scenes 1, 2, 3"
    assert named(map(str, range(2000))) == "2,000 scenes (0, 1, ... 1999)"
