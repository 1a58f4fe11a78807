"""Tiles per second of preprocess.py and of the original's way of cutting them, side by side.

Run as: python -m benchmarks.preprocess_speed --origin ../shared/data/dubai --scenes 1 2 3 4

original: one thread; crops drawn one after the other, turned by cv2.warpAffine (three draws), then
    flip, gamma, blur, bilateral filter, Gaussian blur and noise point by point with the original's
    probabilities; image and label written by cv2.imwrite as it comes. OpenCV may use all cores.
ours: preprocess.py with its defaults. Its CPU time is that for FEW tiles more, less that for FEW,
    so that its start and reading the scenes do not count.

Seconds are those from a way's first file to its last. Both write to --out, by default the system's
temporary folder. They take turns; figures are medians over the rounds, the ratio the median of each
round's ratio. The CPU time says more than tiles/s where the machine is not free.
"""

import os
import resource
import shutil
import tempfile

import cv2
import numpy as np
import pandas as pd

from benchmarks.shared import call
from utils.classes import read_classes
from utils.cli import argument_parser, positive, run_script
from utils.data.scenes import choose_scenes, find_scenes, read_scene

FEW = 32
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


def write_like_original(folder, tiles, images, labels, random):
    """`tiles` tiles, cut, augmented and written one after the other."""
    for part in ("images", "labels"):
        os.makedirs(os.path.join(folder, part))
    images = [cv2.cvtColor(image, cv2.COLOR_RGB2BGR) for image in images]
    for number in range(tiles):
        scene = number * len(images) // tiles
        height, width = labels[scene].shape
        column, row = random.randint(0, width - SIZE), random.randint(0, height - SIZE)
        window = np.s_[row:row + SIZE, column:column + SIZE]
        image, label = augment_like_original(images[scene][window], labels[scene][window], random)
        cv2.imwrite(os.path.join(folder, f"images/{number:05d}.png"), image)
        cv2.imwrite(os.path.join(folder, f"labels/{number:05d}.png"), label)


def cost(work, out):
    """Array [seconds from first file to last, CPU seconds, megabytes written] of work(folder)."""
    folder = tempfile.mkdtemp(dir=out)
    try:
        before = cpu_seconds()
        work(folder)
        used = cpu_seconds() - before
        files = [os.stat(os.path.join(place, name))
                 for place, _, names in os.walk(folder) for name in names if name.endswith(".png")]
        times = [file.st_mtime for file in files]
        return np.array([max(times) - min(times), used, sum(f.st_size for f in files) / 1e6])
    finally:
        shutil.rmtree(folder)
        os.sync()  # what one way wrote is not written out on the other's time


def cpu_seconds():
    """Of this process and of those that it has started and that have ended."""
    return sum(usage.ru_utime + usage.ru_stime for usage in map(
        resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def main():
    parser = argument_parser(__doc__.splitlines()[0])
    parser.add_argument("--scenes", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--tiles", type=positive, default=1500, help="a round")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--processes", type=positive, default=os.cpu_count(), help="of ours")
    parser.add_argument("--out", default=None, metavar="FOLDER", help="where tiles are written")
    options = parser.parse_args()
    origin = options.origin or os.path.join(options.dataset, "origin")
    table = read_classes(options.classes)
    images, labels = zip(*(read_scene(scene, table) for scene in choose_scenes(
        find_scenes(origin), options.scenes, origin)))
    random = np.random.RandomState(options.seed)

    def original(folder):
        write_like_original(folder, options.tiles, images, labels, random)

    def preprocess(tiles):
        return cost(lambda folder: call(
            "preprocess.py", "preprocess.py", "--dataset", folder, "--origin", origin, "--scenes",
            *options.scenes, "--test_scene", *options.test_scene, "--classes", options.classes,
            "--seed", options.seed, "--tiles", tiles, "--tile_size", SIZE, "--crops_per_scene",
            "equal", "--validation_fraction", 0, "--processes", options.processes), options.out)

    def ours():
        return preprocess(FEW + options.tiles) - preprocess(FEW) * [0, 1, 1]

    ways = {"original": (options.tiles, lambda: cost(original, options.out)),
            "ours": (FEW + options.tiles, ours)}
    rows = []
    for number in range(options.rounds):
        # Who comes first changes from round to round.
        for way in list(ways)[::1 - 2 * (number % 2)]:
            tiles, work = ways[way]
            seconds, used, megabytes = work()
            rows.append((number, way, (tiles - 1) / seconds, 1000 * used / options.tiles,
                         megabytes))
    figures = ["tiles/s", "CPU ms a tile", "MB"]
    rates = pd.DataFrame(rows, columns=["round", "way", *figures])
    print(f"scenes {', '.join(options.scenes)}: {options.tiles} tiles of {SIZE} a round, "
          f"{options.rounds} rounds; ours on {options.processes} processes")
    print(rates.groupby("way")[figures].median().round(2).to_string())
    by_round = rates.pivot(index="round", columns="way", values="tiles/s")
    ratio = by_round["ours"] / by_round["original"]
    print(f"ours is {ratio.median():.2f} times the original ({ratio.min():.2f} to "
          f"{ratio.max():.2f})")


if __name__ == "__main__":
    run_script(main)
