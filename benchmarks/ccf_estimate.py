"""What the protocol of benchmarks/ccf.py takes in time and disk, from what a trial of it left."""

import glob
import os
import shutil

import numpy as np
import pandas as pd
import tensorflow.compat.v1 as tf

from utils.training.runs import BEST, NEWEST

# Most file systems give a file whole blocks of so many bytes.
BLOCK = 4096


def measure_tiles(dataset):
    """Seconds and bytes of a training tile in `dataset`, and bytes of all validation tiles.

    The seconds are those from the first file to the last, without the start of preprocess.py.
    """
    train = os.path.join(dataset, "train")
    written = [entry.stat().st_mtime for entry in os.scandir(os.path.join(train, "labels"))]
    return {"tile_seconds": (max(written) - min(written)) / (len(written) - 1),
            "tile_bytes": folder_bytes(train) / len(written),
            "validation_bytes": folder_bytes(os.path.join(dataset, "validation"))}


def measure_training(run, batch_size):
    """Seconds of a step and of saving and evaluating after the last, and the bytes of what is
    written then.

    run: a folder of train.py's first start of a run, evaluated once, at its end. The first point of
    its curve, with the graph's start in it, is left out; the first evaluation's start is not.
    """
    [path] = glob.glob(os.path.join(glob.escape(run), "events.out.*"))
    rates = []
    for event in tf.train.summary_iterator(path):
        rate = [value.simple_value for value in event.summary.value
                if value.tag == "training/images_per_second"]
        if rate:
            rates += rate
            trained, evaluation_bytes = event.wall_time, 0
        elif rates:
            evaluated = event.wall_time
            evaluation_bytes += event.ByteSize()
    return {"step_seconds": batch_size / np.median(rates[1:]),
            "evaluation_seconds": evaluated - trained, "evaluation_bytes": evaluation_bytes,
            "newest_bytes": folder_bytes(os.path.join(run, NEWEST)),
            "best_bytes": folder_bytes(os.path.join(run, BEST))}


def folder_bytes(folder):
    """What all files under `folder` take of a disk, in whole blocks."""
    return sum(-(-os.path.getsize(os.path.join(place, name)) // BLOCK) * BLOCK
               for place, _, names in os.walk(folder) for name in names)


def estimate(measured, tiles, steps, interval):
    """What the protocol takes, a row a stage: columns measured (text), hours and GB (1e9 bytes).

    measured: what the functions above give, and of prediction `megapixels` of the scene,
    `map_seconds` and `map_bytes`. interval: steps between evaluations. The starts of the three
    scripts are not in the hours. A checkpoint is written before an old one goes, so there are three
    newest and two best for a moment.
    """
    evaluations = steps // interval
    hours = np.array([
        tiles * measured["tile_seconds"],
        steps * measured["step_seconds"] + evaluations * measured["evaluation_seconds"],
        measured["map_seconds"]]) / 3600
    gigabytes = np.array([
        tiles * measured["tile_bytes"] + measured["validation_bytes"],
        3 * measured["newest_bytes"] + 2 * measured["best_bytes"]
        + evaluations * measured["evaluation_bytes"],
        measured["map_bytes"]]) / 1e9
    told = [f"{1 / measured['tile_seconds']:.1f} tiles/s, {measured['tile_bytes'] / 1e3:.0f} kB "
            "each",
            f"{measured['step_seconds']:.2f} s a step; each {interval} steps "
            f"{measured['evaluation_seconds']:.0f} s; checkpoint "
            f"{measured['newest_bytes'] / 1e6:.0f} MB",
            f"{measured['megapixels'] / measured['map_seconds']:.3g} megapixels/s"]
    return pd.DataFrame({"measured": [*told, ""], "hours": [*hours, hours.sum()],
                         "GB": [*gigabytes, gigabytes.sum()]},
                        index=["tiles", "training", "prediction", "together"])


def check_disk(needed):
    """Prints what is free where `needed` ({folder: GB}) goes; OSError where it is not enough."""
    disks = {}
    for folder, size in needed.items():
        while not os.path.exists(folder):
            folder = os.path.dirname(folder) or os.curdir
        folders, sizes = disks.setdefault(os.stat(folder).st_dev, ([], []))
        folders.append(folder)
        sizes.append(size)
    for folders, sizes in disks.values():
        names = ", ".join(dict.fromkeys(folders))
        free = shutil.disk_usage(folders[0]).free / 1e9
        print(f"{names}: {sum(sizes):.1f} GB needed, {free:.1f} GB free", flush=True)
        if free < sum(sizes):
            raise OSError(f"{names}: {sum(sizes):.1f} GB are needed and {free:.1f} GB free; free "
                          "some space, or choose another disk with --dataset, --logs and --out")
