"""The original's full protocol on the five CCF scenes: `make ccf`.

Run as: python -m benchmarks.ccf
        python -m benchmarks.ccf --trial_only

Checks the scenes, tries everything for 20 steps, tells from that what the protocol takes here in
time and disk, and goes on with it: 100,000 tiles, 50,000 steps of batch 16 from ImageNet weights,
scene 5 mapped with four rotations. Stopped or killed, the same command goes on: complete tiles are
not cut again (nor is the trial run again then), and the run resumes from its newest checkpoint.
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import argparse
import contextlib
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np

from benchmarks.ccf_estimate import (check_disk, estimate, folder_bytes, measure_tiles,
                                     measure_training)
from preprocess import available_cores
from utils.classes import DEFAULT_TABLE, read_classes
from utils.cli import leave_on_signals, run_script
from utils.files import check_writable, remove_unfinished
from utils.training.runs import NEWEST, find_checkpoint
from utils.data.scenes import (EXTENSIONS, LABEL_SUFFIX, find_scenes, read_image, read_scene,
                          write_png)
from utils.inference.sliding_window import window_starts
from utils.data.tiles import UNFINISHED as UNFINISHED_TILES, read_tile_list

SCENES, HELD_OUT = ("1", "2", "3", "4", "5"), "5"
# Height and width (dataset/README.md): by them one knows that it is the original's scene.
HELD_OUT_SIZE = (6116, 3357)
RUN = "ccf"
TILES, TILE, STEPS, BATCH, INTERVAL = 100000, 256, 50000, 16, 500
OVERLAP = 0.5

# All that the result depends on, so that another default does not change the protocol.
CUT = (f"--scenes 1 2 3 4 --test_scene 5 --seed 0 --tiles {TILES} --tile_size {TILE} "
       "--crops_per_scene area --rare_class_weight 0 --validation_fraction 0.1 --rotate_90 0.25 "
       "--rotate_180 0.25 --rotate_270 0.25 --flip_horizontal 0.25 --flip_vertical 0.25 "
       "--gamma 0.25 --gamma_range 0.67 1.5 --blur 0.25 --bilateral 0.25 --gaussian_blur 0.25 "
       "--noise 0.2")
TRAIN = (f"--test_scene 5 --seed 0 --steps {STEPS} --batch_size {BATCH} --optimizer adam "
         "--learning_rate 2e-4 --schedule step --weight_decay 5e-4 --loss cross_entropy "
         "--class_weights none --hard_pixels 1 --label_smoothing 0 --ema 0 --backbone_lr_factor 1 "
         "--backbone resnet_v2_50 --width 1 --output_stride 16 --multi_grid 1 2 4 "
         f"--batch_norm_decay 0.99 --test_display {INTERVAL} --save_every {INTERVAL} "
         "--summary_every 20")
PREDICT = (f"--checkpoint best --window {TILE} --overlap {OVERLAP} --blend cosine --batch_size 4 "
           "--rotations 4 --scales 1")

UNFINISHED = ".partial-ccf-"
TRIAL_STEPS = 20
TRIAL_SUMMARY = 5
# As many for every worker process, so that none is idle for long.
TRIAL_TILES_A_CORE = 160
TRIAL_PART = 768  # pixels a side


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--origin", default="dataset/origin", metavar="FOLDER", help="of the five CCF scenes")
    add("--dataset", default="dataset/ccf", metavar="FOLDER", help="for the tiles")
    add("--logs", default="logs", metavar="FOLDER", help=f"for the run, which is called {RUN}")
    add("--out", default="predictions/ccf", metavar="FOLDER", help="for the map and its scores")
    add("--pretrained", default="imagenet", metavar="imagenet|PATH",
        help="first weights, as train.py takes them; PATH where there is no network")
    add("--precision", choices=("float32", "bfloat16"), default="float32",
        help="of the convolutions; the original's is float32")
    add("--trial_only", action="store_true", help="say what it would take, and leave")
    return parser.parse_args()


def check_scenes(folder, table, held_out_size=HELD_OUT_SIZE):
    """Reads the five scenes with their labels and prints their sizes; (height, width) of the last.

    Raises FileNotFoundError that says where the scenes are to be had, ValueError for one that
    cannot be used: other than 8 bits, a label of another size or with values that are no class.
    """
    scenes = {}
    with contextlib.suppress(FileNotFoundError):
        scenes = find_scenes(folder)
    missing = [f"{name}.png" for name in SCENES if name not in scenes]
    missing += [f"{name}{LABEL_SUFFIX}.png" for name in SCENES if not any(
        os.path.exists(os.path.join(folder, f"{name}{LABEL_SUFFIX}{extension}"))
        for extension in EXTENSIONS)]
    if missing:
        raise FileNotFoundError(f"{folder}: {', '.join(missing)} of the CCF scenes not there; "
                                "dataset/README.md says where to get them (address and password)")
    for name in SCENES:
        label = read_scene(scenes[name], table)[1]
        present = " ".join(map(str, np.flatnonzero(np.bincount(label.ravel()))))
        print("scene {}: {} x {} pixels (height x width), label values {}".format(
            name, *label.shape, present), flush=True)
    if label.shape != held_out_size:
        raise ValueError("{}: {} x {} pixels (height x width), but scene {} of CCF has {} x {}; "
                         "dataset/README.md says where to get it".format(
                             scenes[HELD_OUT].image_path, *label.shape, HELD_OUT, *held_out_size))
    return label.shape


def check_folders(args):
    """Raises OSError, ValueError where the scripts could not write, before days of work."""
    for flag in ("dataset", "logs", "out"):
        check_writable(getattr(args, flag), f"what belongs to --{flag}",
                       f"change its permissions, or choose another --{flag}")
    if os.path.realpath(args.out) == os.path.realpath(args.origin):
        raise ValueError(f"{args.out}: the scenes are in that folder, and the map could replace a "
                         "label; choose another --out")


def commands(args):
    """[preprocess.py's, train.py's, predict.py's command line], each a list, of the protocol."""
    data = ["--dataset", args.dataset, "--origin", args.origin, "--classes", DEFAULT_TABLE]
    run = ["--logs", args.logs, "--run", RUN, "--precision", args.precision]
    return [["preprocess.py", *data, *CUT.split()],
            ["train.py", *data, *run, "--pretrained", args.pretrained, *TRAIN.split()],
            ["predict.py", *data, *run, "--test_scene", HELD_OUT, "--out", args.out,
             *PREDICT.split()]]


def call(command, **streams):
    """Runs one of the scripts, which tells by itself what goes wrong; then this one ends too."""
    print(f"\n$ python {shlex.join(command)}", flush=True)
    process = subprocess.Popen([sys.executable, *command], **streams)
    try:
        status = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()  # where this script is asked to leave: train.py saves and leaves
            process.wait()
    if status < 0:
        raise OSError(f"{command[0]}: ended by {signal.Signals(-status).name} from outside; that "
                      "may be the system's, for want of memory. The same command goes on")
    if status:
        sys.exit(status)


def run_trial(args, size, lock):
    """Everything in little, in a folder that is gone afterwards: what `estimate` takes.

    size: (height, width) of the scene that will be mapped. lock: `only_one`'s file.
    """
    folder = os.path.join(args.dataset, f"{UNFINISHED}{os.getpid()}")
    trial = argparse.Namespace(**vars(args) | {
        "dataset": folder, "logs": os.path.join(folder, "logs"),
        "out": os.path.join(folder, "map")})
    # Of a flag that is given twice the later counts.
    preprocess, train, predict = commands(trial)
    preprocess += ["--tiles", str(TRIAL_TILES_A_CORE * available_cores())]
    for flag, value in (("--steps", TRIAL_STEPS), ("--test_display", TRIAL_STEPS),
                        ("--save_every", TRIAL_STEPS), ("--summary_every", TRIAL_SUMMARY)):
        train += [flag, str(value)]
    # Two scenes: the first takes the graph's start.
    parts = [os.path.join(folder, "part", f"{name}.png") for name in ("start", "part")]
    predict += ["--image", *parts, "--checkpoint", "newest"]
    try:
        os.makedirs(folder)
        call(preprocess, pass_fds=[lock.fileno()])
        measured = measure_tiles(folder)
        call(train, pass_fds=[lock.fileno()])
        measured |= measure_training(os.path.join(trial.logs, RUN), BATCH)
        part = read_image(find_scenes(args.origin)[HELD_OUT].image_path)[:TRIAL_PART, :TRIAL_PART]
        for path, pixels in zip(parts, (part[:TILE, :TILE], part)):
            write_png(path, pixels)
        with open(os.path.join(folder, "predict.txt"), "w+", encoding="utf-8") as output:
            call(predict, stdout=output, pass_fds=[lock.fileno()])
            output.seek(0)
            seconds = float(re.findall(r"^([\d.]+) s, ", output.read(), re.MULTILINE)[-1])
        # By windows: more of a small scene's lie at its border.
        windows, in_part = (len(window_starts(height, TILE, OVERLAP))
                            * len(window_starts(width, TILE, OVERLAP))
                            for height, width in (size, part.shape[:2]))
        pixels = size[0] * size[1]
        return measured | {
            "megapixels": pixels / 1e6, "map_seconds": seconds * windows / in_part,
            "map_bytes": folder_bytes(trial.out) * pixels / (part[..., 0].size + TILE ** 2)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def only_one(folder):
    """Holds a lock on `folder`, as do the scripts that are started with the file it gives, even
    where this process is killed. Raises OSError where another has it."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, ".lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"{folder}: this protocol is at work there already (perhaps a script "
                          "that outlived it); wait for it or end it") from None
        yield lock


def tiles_are_cut(dataset):
    """True where the whole set is there: preprocess.py puts the list in its place last."""
    try:
        return len(read_tile_list(dataset)) == TILES
    except (FileNotFoundError, ValueError):  # a damaged list is written anew with its tiles
        return False


def is_mapped(folder, run):
    """True where the map in `folder` is younger than the run's newest checkpoint, so not that of
    an earlier run."""
    path = os.path.join(folder, f"{HELD_OUT}{LABEL_SUFFIX}.png")
    checkpoint = Checkpoints(run, NEWEST).find()[0] + ".index"
    return os.path.exists(path) and os.path.getmtime(path) > os.path.getmtime(checkpoint)


def main():
    args = parse_arguments()
    leave_on_signals()
    check_folders(args)
    size = check_scenes(args.origin, read_classes(DEFAULT_TABLE))
    with only_one(args.dataset) as lock:
        # Also what a killed preprocess.py left, lest the disk seem too small for the same tiles.
        for prefix in (UNFINISHED, UNFINISHED_TILES):
            remove_unfinished(args.dataset, prefix)
        cut = tiles_are_cut(args.dataset)
        if args.trial_only or not cut:
            table = estimate(run_trial(args, size, lock), TILES, STEPS, INTERVAL)
            print("\nWhat the protocol takes on this machine, by a trial of "
                  f"{TRIAL_STEPS} steps:\n{table.round(2).to_string()}", flush=True)
            if not cut:
                check_disk({args.dataset: table["GB"]["tiles"], args.logs: table["GB"]["training"],
                            args.out: table["GB"]["prediction"]})
        if args.trial_only:
            return
        preprocess, train, predict = commands(args)
        if cut:
            print(f"{args.dataset}: its {TILES} tiles are there and not cut again")
        else:
            call(preprocess, pass_fds=[lock.fileno()])
        call(train, pass_fds=[lock.fileno()])
        predict += [] if is_mapped(args.out, os.path.join(args.logs, RUN)) else ["--overwrite"]
        call(predict, pass_fds=[lock.fileno()])


if __name__ == "__main__":
    run_script(main)
