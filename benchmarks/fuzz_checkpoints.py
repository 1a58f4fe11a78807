"""The cases of benchmarks.fuzz that damage a file of a real run."""

import atexit
import functools
import glob
import os
import shutil
import subprocess
import sys
import tempfile

import cv2
import numpy as np

import predict
import train
from benchmarks.fuzz_inputs import damage
from benchmarks.fuzz_property import OK, REFUSED, Fault, call, check_refusal
from benchmarks.shared import python, read_variables
from utils.training.checkpoints import LATEST, Checkpoints

@functools.cache
def trained():
    """A folder with a tile set and a run of four steps, which are trained once; its map of a scene
    in maps/, and the weights that it ended with."""
    folder = tempfile.mkdtemp(prefix="fuzz-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for command in (["-m utils.data.demo_scenes", "--out", f"{folder}/data/origin", "--size", 300],
                    ["preprocess.py", "--tiles", 8, "--tile_size", 48, "--dataset",
                     f"{folder}/data"],
                    ["train.py", *train_flags(folder)], ["predict.py", *map_flags(folder)]):
        subprocess.run(python(*command), check=True, capture_output=True)
    return folder, read_variables(Checkpoints(f"{folder}/logs/run", LATEST))


def train_flags(folder):
    return ["--dataset", f"{folder}/data", "--logs", f"{folder}/logs", "--run", "run", "--width",
            ".1", "--pretrained", "none", "--multi_grid", "1", "1", "1", "--steps", "4",
            "--save_every", "1", "--test_display", "2", "--batch_size", "2", "--precision",
            "float32"]


def map_flags(folder, out="maps"):
    return ["--logs", f"{folder}/logs", "--run", "run", "--image", f"{folder}/data/origin/5.png",
            "--precision", "float32", "--out", f"{folder}/{out}"]


def checkpoint_case(random, folder):
    """A file of a trained run is damaged: what is mapped, or trained from it, is as it was."""
    whole, expected = trained()
    shutil.copytree(f"{whole}/logs", f"{folder}/logs")
    os.symlink(f"{whole}/data", f"{folder}/data")
    files = [path for path in glob.glob(f"{folder}/logs/run/**", recursive=True)
             if os.path.isfile(path) and not path.endswith("settings.json")]  # see predict_case
    damage(random, random.choice(sorted(files)))
    if random.random() < .5:
        status, _, errors = call(predict.main, map_flags(folder))
    else:
        sys.argv[1:] = flags = train_flags(folder)
        status, _, errors = call(lambda _: train.main(), flags)
    if status:
        check_refusal(status, errors, folder)
        return REFUSED
    if os.path.isdir(f"{folder}/maps"):
        maps = [cv2.imread(f"{one}/maps/5_class.png", -1) for one in (whole, folder)]
        if not np.array_equal(*maps):
            raise Fault("another map")
    else:
        found = read_variables(Checkpoints(f"{folder}/logs/run", LATEST))
        if found.keys() != expected.keys() or not all(
                np.array_equal(found[name], expected[name]) for name in found):
            raise Fault("other weights")
    return OK
