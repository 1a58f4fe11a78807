"""Kills preprocess.py, train.py and predict.py at random moments, and fills the disk under them.

    python -m benchmarks.kill_anywhere > benchmarks/kill_anywhere.txt

Each script runs once undisturbed on made-up scenes. Then it is killed with SIGKILL, --kills times
in all, at moments drawn uniformly over its undisturbed time, and started again. After every kill
each file under a final name must be that of the undisturbed run; every few kills the script runs to
its end, and then all files must be the same and nothing else be there. Of train.py the losses of
all steps and all variables of the last checkpoint must be the same, bit for bit. After that the
scripts write to a disk (tmpfs, which only root can make) that is filled up at random moments,
--disks times in all. They must end with status 2 and a line that names the file, leave nothing
unfinished, and make the same files once there is space. Processes are forked from one that has
loaded TensorFlow, so that nobody waits for that. Needs Linux.
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import contextlib
import filecmp
import importlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import cv2
import numpy as np
import pyogrio
import rasterio

from benchmarks.shared import read_variables, scalars
from utils.cli import argument_parser, leave_on_signals, natural, positive, run_script
from utils.data.demo_scenes import write_demo_scenes
from utils.training.checkpoints import BEST, LATEST, Checkpoints

# Of each script the folder that it writes to.
OUTPUTS = {"preprocess": "data", "train": "logs", "predict": "maps"}
SCENE_SIZE = 300
KILLS_A_RUN = 5  # then the script may end
LOSS = "loss/with_weight_decay"
PATIENCE = 600  # seconds
DISK = 1 << 28  # bytes
POOLED = ("maps/scores.csv", "maps/scores_by_scene.csv")


class Trial(NamedTuple):
    """A script, its command's flags as function(folder to write to), what it did undisturbed."""

    script: str
    flags: object
    folder: str
    seconds: float = 0.0


def parse_arguments():
    parser = argument_parser(__doc__)
    parser.add_argument("--kills", type=natural, default=100, help="of all scripts together")
    parser.add_argument("--disks", type=natural, default=20, help="that fill up")
    parser.add_argument("--steps", type=positive, default=12, help="of train.py")
    return parser.parse_args()


def main():
    args = parse_arguments()
    leave_on_signals()
    multiprocessing.set_start_method("forkserver")
    multiprocessing.set_forkserver_preload([*OUTPUTS])
    random = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory(prefix="kill_anywhere-") as folder:
        trials = []
        for script, flags in commands(args, draw_scenes(folder), folder).items():
            trial = Trial(script, flags, os.path.join(folder, "undisturbed"))
            finish(trial, os.path.join(folder, "first"))  # loads what the next ones have loaded
            began = time.perf_counter()
            finish(trial, trial.folder)
            trials.append(trial._replace(seconds=time.perf_counter() - began))
            print(f"{script}.py undisturbed: {trials[-1].seconds:.1f} s, "
                  f"{len(names_of(trial, trial.folder))} files", flush=True)
        for number, trial in enumerate(trials):
            kill_often(trial, args.kills // 3 + (number < args.kills % 3), random)
        if args.disks and os.geteuid():
            print("full disks: left out; only root can make a disk of some size (tmpfs)")
            return
        for number in range(args.disks):
            while not fill_disk(trials[number % 3], random):
                pass
    print(f"{args.kills} kills and {args.disks} full disks: nothing half-written, nothing lost, "
          "nothing left over")


def draw_scenes(folder):
    """A folder of five georeferenced scenes with labels; the last one is to be held out."""
    drawn, origin = os.path.join(folder, "drawn"), os.path.join(folder, "origin")
    os.makedirs(origin)
    with contextlib.redirect_stderr(open(os.devnull, "w")):
        write_demo_scenes(drawn, 0, SCENE_SIZE)
    for name in "12345":
        image = cv2.imread(os.path.join(drawn, f"{name}.png"))[..., ::-1]
        with rasterio.open(os.path.join(origin, f"{name}.tif"), "w", driver="GTiff", count=3,
                           height=image.shape[0], width=image.shape[1], dtype="uint8",
                           crs="EPSG:32640",
                           transform=rasterio.Affine(.5, 0, 325000, 0, -.5, 2785000)) as file:
            file.write(np.moveaxis(image, -1, 0))
        shutil.copy(os.path.join(drawn, f"{name}_class.png"), origin)
    return origin


def commands(args, origin, folder):
    """{script: function(folder to write to) -> its flags}; what a script reads was made before."""
    data, logs = (os.path.join(folder, "undisturbed", name) for name in ("data", "logs"))
    maps = [os.path.join(origin, f"{name}.tif") for name in "45"]
    labels = [os.path.join(origin, f"{name}_class.png") for name in "45"]
    return {
        "preprocess": lambda place: [
            "--dataset", os.path.join(place, "data"), "--origin", origin, "--tiles", "120",
            "--tile_size", "48"],
        "train": lambda place: [
            "--dataset", data, "--origin", origin, "--logs", os.path.join(place, "logs"), "--run",
            "run", "--pretrained", "none", "--width", ".1", "--multi_grid", "1", "1", "1",
            "--steps", str(args.steps), "--save_every", "3", "--test_display", "6",
            "--summary_every", "1", "--batch_size", "2", "--ema", ".9", "--precision", "float32"],
        "predict": lambda place: [
            "--logs", logs, "--run", "run", "--image", *maps, "--label", *labels, "--out",
            os.path.join(place, "maps"), "--polygons", "gpkg", "--min_area", "20px", "--simplify",
            "1px", "--probabilities", "--confidence", "--precision", "float32"]}


def run_child(script, flags, output):
    """A script from its start to its end, as the whole of this process."""
    os.setsid()
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = [f"{script}.py", *flags]
    run_script(importlib.import_module(script).main)


@contextlib.contextmanager
def started(trial, place):
    """(its process, function that gives all that it said); it is ended in any case."""
    output = os.path.join(os.path.dirname(trial.folder), "output.txt")
    process = multiprocessing.Process(target=run_child,
                                      args=(trial.script, trial.flags(place), output))

    def said():
        with open(output, encoding="utf-8") as file:
            return file.read()
    process.start()
    try:
        yield process, said
    finally:
        kill(process)


def kill(process):
    """Ends a process and all that it started, at once."""
    for end in (os.killpg, os.kill):  # the former once it leads a group of its own
        with contextlib.suppress(ProcessLookupError):
            end(process.pid, signal.SIGKILL)
    process.join()


def finish(trial, place):
    """Runs the script to its end. Raises ValueError where that is no success."""
    with started(trial, place) as (process, said):
        process.join(PATIENCE)
        if process.exitcode != 0:
            raise ValueError(f"{trial.script}.py ended with {process.exitcode}: {said()}")


def kill_often(trial, kills, random):
    """Kills the script so many times, and looks at what stands each time."""
    done = 0
    while done < kills:
        with tempfile.TemporaryDirectory(dir=os.path.dirname(trial.folder)) as place:
            for _ in range(min(KILLS_A_RUN, kills - done)):
                moment = random.uniform(0, trial.seconds)
                with started(trial, place) as (process, said):
                    process.join(moment)
                    running = process.exitcode is None
                    kill(process)
                    if not running and process.exitcode:
                        raise ValueError(f"{trial.script}.py ended with {process.exitcode}: "
                                         f"{said()}")
                done += running
                whole, unfinished = check_standing(trial, place)
                print(f"{trial.script}.py {'killed' if running else 'had ended'} after "
                      f"{moment:.2f} s: {whole} whole files, {unfinished} unfinished", flush=True)
            finish(trial, place)
            check_same(trial, place)


def fill_disk(trial, random):
    """Fills the script's disk at a random moment, and frees it again. Returns whether the script
    had still something to write."""
    place = tempfile.mkdtemp(dir=os.path.dirname(trial.folder))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", place], check=True)
    try:
        with started(trial, place) as (process, said):
            moment = random.uniform(0, trial.seconds)
            process.join(moment)
            ballast = os.path.join(place, "ballast")
            with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
                while True:  # until the disk is full
                    file.write(bytes(DISK // 64))
            process.join(PATIENCE)
            status, text = process.exitcode, said()
        lines = text.splitlines()
        told = [line for line in lines if "error: " in line]
        if status not in (0, 2) or "Traceback" in text or status and not (
                told and lines[-len(told):] == told and all(place in line for line in told)):
            raise ValueError(f"{trial.script}.py on a full disk: status {status}: {text}")
        os.remove(ballast)
        if status:
            for name in POOLED:  # of the scenes that were mapped
                with contextlib.suppress(FileNotFoundError):
                    os.remove(os.path.join(place, name))
            whole, unfinished = check_standing(trial, place)
            if unfinished:
                raise ValueError(f"{trial.script}.py left {names_of(trial, place)}: {text}")
            print(f"{trial.script}.py, disk full after {moment:.2f} s: {whole} whole files; "
                  + "; ".join(told).replace(place, "DISK"), flush=True)
            finish(trial, place)
        check_same(trial, place)
        return status != 0
    finally:
        subprocess.run(["umount", place], check=True)
        os.rmdir(place)


def names_of(trial, place):
    """Names of all files that the script wrote in `place`, relative to it."""
    return sorted(os.path.relpath(os.path.join(folder, name), place)
                  for folder, _, names in os.walk(os.path.join(place, OUTPUTS[trial.script]))
                  for name in names)


def is_unfinished(name):
    """Whether a file's name, or its folder's, says that it may not be whole."""
    return any(part.startswith((".partial-", ".lock")) or "tempstate" in part
               for part in name.split(os.sep))


def check_standing(trial, place):
    """(whole files, unfinished ones) in `place`. Raises ValueError where one under a final name is
    not that of the undisturbed script."""
    names = names_of(trial, place)
    unfinished = [name for name in names if is_unfinished(name)]
    whole = [name for name in names if name not in unfinished]
    if trial.script == "train":
        for which in (LATEST, BEST):
            checkpoints = Checkpoints(os.path.join(place, "logs", "run"), which)
            if checkpoints.exist:
                read_variables(checkpoints)
    else:
        for name in whole:
            check_file(os.path.join(place, name), os.path.join(trial.folder, name))
    return len(whole), len(unfinished)


def check_file(path, expected):
    """Raises ValueError where two files do not hold the same. (A GeoPackage holds a date too.)"""
    if not os.path.exists(expected):
        raise ValueError(f"{path}: the undisturbed script has no such file")
    if path.endswith(".gpkg"):
        (*_, one, values), (*_, other, others) = map(pyogrio.raw.read, (path, expected))
        same = np.array_equal(one, other) and all(map(np.array_equal, values, others))
    else:
        same = filecmp.cmp(path, expected, shallow=False)
    if not same:
        raise ValueError(f"{path}: not what the undisturbed script wrote")


def check_same(trial, place):
    """Raises ValueError where what the script left in `place` is not what it left undisturbed."""
    names, expected = names_of(trial, place), names_of(trial, trial.folder)
    if left := [name for name in names if is_unfinished(name)]:
        raise ValueError(f"{trial.script}.py left {left}")
    if trial.script != "train":
        if names != expected:
            raise ValueError(f"{trial.script}.py: {sorted(set(names) ^ set(expected))} differ")
        check_standing(trial, place)
        return
    runs = [os.path.join(one, "logs", "run") for one in (place, trial.folder)]
    losses, expected = (scalars(run)[LOSS] for run in runs)
    # A step between checkpoints may have been made more than once.
    if losses.keys() != expected.keys() or any(
            value != expected[step][0] for step in losses for value in losses[step]):
        raise ValueError(f"losses differ: {losses} is not {expected}")
    for which in (LATEST, BEST):
        one, other = (read_variables(Checkpoints(run, which)) for run in runs)
        if one.keys() != other.keys() or not all(
                np.array_equal(one[name], other[name]) for name in one):
            raise ValueError(f"the {which} checkpoints differ")


if __name__ == "__main__":
    run_script(main)
