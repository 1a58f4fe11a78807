"""Tiles per second of preprocess.py and of the original's way of cutting them, side by side.

Run as: python -m benchmarks.preprocess_speed --origin ../shared/data/dubai --scenes 1 2 3 4

original: one thread; crops drawn one after the other, turned by cv2.warpAffine (three draws), then
    flip, gamma, blur, bilateral filter, Gaussian blur and noise point by point with the original's
    probabilities; image and label written by cv2.imwrite as it comes. OpenCV may use all cores.
ours: preprocess.py's training tiles with its defaults, on --workers, from the same scenes.

Both begin with the scenes in memory and end with the last file written, to --out (a folder on the
disk to measure; None means the system's temporary one). They take turns; figures are medians over
the rounds, the ratio the median of each round's ratio. The CPU time (it counts the colour exchange
of the scenes too) says more than tiles/s where the machine is not free.
"""

import os
import resource
import shutil
import tempfile
import time

import cv2
import numpy as np
import pandas as pd

import preprocess
from utils.classes import read_classes
from utils.cli import argument_parser, positive, run_script
from utils.data.tiles import FOLDERS

SIZE = 256


def turn_by_warping(image, label, angle):
    """What the original did for a turn: an affine warp about (128, 128)."""
    matrix = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), angle, 1)
    return [cv2.warpAffine(array, matrix, (SIZE, SIZE)) for array in (image, label)]


def augment_like_original(image, label, random):
    """The original's draws in its order. image: BGR uint8 [256, 256, 3]."""
    for angle in (90, 180, 270):
        if random.random() < 0.25:
            image, label = turn_by_warping(image, label, angle)
    if random.random() < 0.25:
        image, label = cv2.flip(image, 1), cv2.flip(label, 1)
    if random.random() < 0.25:
        # Its gamma was 1 always, but the table was made and applied.
        table = [np.power(value / 255.0, 1.0) * 255.0 for value in range(256)]
        image = cv2.LUT(image, np.round(np.array(table)).astype(np.uint8))
    if random.random() < 0.25:
        image = cv2.blur(image, (3, 3))
    if random.random() < 0.25:
        image = cv2.bilateralFilter(image, 9, 75, 75)
    if random.random() < 0.25:
        image = cv2.GaussianBlur(image, (5, 5), 1.5)
    if random.random() < 0.2:
        image = image.copy()
        for _ in range(SIZE):
            image[random.randint(0, SIZE), random.randint(0, SIZE)] = 255
    return image, label


def write_like_original(seed, folder, tiles, images, labels):
    """Seconds for `tiles` tiles, cut, augmented and written one after the other."""
    images = [cv2.cvtColor(image, cv2.COLOR_RGB2BGR) for image in images]
    random = np.random.RandomState(seed)
    began = time.perf_counter()
    for number in range(tiles):
        scene = number * len(images) // tiles
        height, width = labels[scene].shape
        column, row = random.randint(0, width - SIZE), random.randint(0, height - SIZE)
        window = np.s_[row:row + SIZE, column:column + SIZE]
        image, label = augment_like_original(images[scene][window], labels[scene][window], random)
        cv2.imwrite(os.path.join(folder, f"train/images/{number:05d}.png"), image)
        cv2.imwrite(os.path.join(folder, f"train/labels/{number:05d}.png"), label)
    return time.perf_counter() - began


def in_new_folder(work, out):
    """(seconds, CPU seconds, megabytes written) of work(folder), which gives the seconds.
    """
    folder = tempfile.mkdtemp(dir=out)
    try:
        for name in FOLDERS:
            os.makedirs(os.path.join(folder, name))
        before = resource.getrusage(resource.RUSAGE_SELF)
        seconds = work(folder)
        after = resource.getrusage(resource.RUSAGE_SELF)
        used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        return seconds, used, sum(os.path.getsize(os.path.join(place, name))
                            for place, _, names in os.walk(folder) for name in names) / 1e6
    finally:
        shutil.rmtree(folder)
        os.sync()  # what one way wrote is not written out on the other's time


def main():
    parser = argument_parser(__doc__.splitlines()[0])
    parser.add_argument("--scenes", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--tiles", type=positive, default=1500, help="a round")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--workers", type=positive, default=preprocess.available_cores())
    parser.add_argument("--out", default=None, metavar="FOLDER", help="where tiles are written")
    options = parser.parse_args()
    args = preprocess.parse_arguments([
        "--dataset", options.dataset, "--origin", options.origin or f"{options.dataset}/origin",
        "--scenes", *options.scenes, "--test_scene", options.test_scene, "--classes",
        options.classes, "--seed", str(options.seed), "--tiles", str(options.tiles),
        "--workers", str(options.workers), "--tile_size", str(SIZE),
        "--crops_per_scene", "equal"])
    names, images, labels, _ = preprocess.read_training_scenes(args, read_classes(args.classes))
    plan = preprocess.plan_crops(args, labels, [np.empty((0, 2), int)] * len(labels))

    def original(folder):
        cv2.setNumThreads(-1)  # OpenCV's own choice
        return write_like_original(args.seed, folder, args.tiles, images, labels)

    def ours(folder):
        cv2.setNumThreads(1)
        began = time.perf_counter()
        preprocess.write_training_tiles(folder, args, images, labels, plan)
        return time.perf_counter() - began

    rows = []
    for number in range(options.rounds):
        # Who comes first changes from round to round.
        for work in (original, ours)[::1 - 2 * (number % 2)]:
            seconds, used, megabytes = in_new_folder(work, options.out)
            rows.append((number, work.__name__, args.tiles / seconds, 1000 * used / args.tiles,
                         megabytes))
    figures = ["tiles/s", "CPU ms a tile", "MB"]
    rates = pd.DataFrame(rows, columns=["round", "way", *figures])
    table = rates.groupby("way")[figures].median()
    print(f"scenes {', '.join(names)}: {args.tiles} tiles of {SIZE} a round, {options.rounds} "
          f"rounds; ours on {args.workers} threads")
    print(table.round(2).to_string())
    by_round = rates.pivot(index="round", columns="way", values="tiles/s")
    ratio = by_round["ours"] / by_round["original"]
    print(f"ours is {ratio.median():.2f} times the original ({ratio.min():.2f} to "
          f"{ratio.max():.2f})")


if __name__ == "__main__":
    run_script(main)
