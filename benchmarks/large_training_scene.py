"""Peak memory and tiles per second of preprocess.py on a scene larger than memory.

Run as: python -m benchmarks.large_training_scene --image ../shared/data/dubai/5.jpg

A pair of GeoTIFFs (scene and label, tiled, deflate) is made of one smaller scene again and again.
The share --filled of the rows of blocks has pixels; the rest is sparse: it takes no space on disk
and reads as 0.

The peak is the kernel's (ru_maxrss), of one whole call of preprocess.py with validation blocks and
rare-class crops. For the speed one process has the scene both ways, window by window from disk and
in memory (four bytes of RAM a pixel), and they take turns at cutting and writing the same tiles
with preprocess.py's functions, a share of the tiles a round. Opening and passes over the label do
not count. The ratio is the median of each round's; the CPU time says more where the machine is not
free.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import sys
import tempfile
import time

import numpy as np
import pandas as pd
import rasterio
from rasterio.windows import Window

import preprocess
from benchmarks.large_scene import peak_of
from utils.classes import DEFAULT_TABLE, read_classes
from utils.cli import part_above_0, positive, run_script
from utils.data.scene_pixels import open_scenes
from utils.data.scene_table import TRAIN, scenes_by_split
from utils.data.scenes import Scene, read_scene
from utils.data.tiles import FOLDERS

BLOCK = 256
ALLOWED_GB, ALLOWED_RATIO = 1.5, 0.6


def write_pair(folder, scene, side, filled):
    """Writes 1.tif and 1_class.tif of side x side pixels, the Scene `scene` again and again."""
    pixels = read_scene(scene, read_classes(DEFAULT_TABLE))
    for name, part in zip(("1", "1_class"), pixels):
        part = np.moveaxis(np.atleast_3d(part), -1, 0)
        columns = np.arange(side) % part.shape[2]
        with rasterio.open(os.path.join(folder, f"{name}.tif"), "w", driver="GTiff", height=side,
                           width=side, count=len(part), dtype="uint8", tiled=True,
                           blockxsize=BLOCK, blockysize=BLOCK, interleave="pixel",
                           compress="deflate", zlevel=1, bigtiff="yes", sparse_ok=True,
                           crs="EPSG:32640", num_threads="all_cpus",
                           transform=rasterio.Affine(.5, 0, 325000, 0, -.5, 2785000)) as file:
            for number, top in enumerate(range(0, side, BLOCK)):
                # Spread evenly, the first row of blocks included.
                if int(number * filled) == int((number - 1) * filled) and number:
                    continue
                rows = np.arange(top, min(top + BLOCK, side)) % part.shape[1]
                file.write(part[:, rows][..., columns], window=Window(0, top, side, len(rows)))


def compare_speed(flags, rounds, folder):
    """Prints tiles/s and CPU time of both ways, and the ratio. flags: of preprocess.py."""
    args = preprocess.parse_arguments(flags)
    table = read_classes(args.classes)
    training = scenes_by_split(args)[TRAIN]
    with contextlib.redirect_stdout(io.StringIO()):  # bars
        ways = {way: open_scenes(training, table, (None, None), args.tile_size, memory)
                for way, memory in (("by window", 0), ("in memory", np.inf))}
        plan = preprocess.plan_crops(args, ways["in memory"], [np.empty((0, 2), int)])
    args.tiles //= rounds
    rows = []
    for number in range(rounds):
        part = plan[0][number * args.tiles:], *plan[1:]
        # Other crops in each round; who comes first changes.
        args.seed = number
        for way in list(ways)[::1 - 2 * (number % 2)]:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                for name in FOLDERS:
                    os.makedirs(os.path.join(out, name))
                start, used = time.perf_counter(), time.process_time()
                with contextlib.redirect_stdout(io.StringIO()):
                    _, counts = preprocess.write_training_tiles(out, args, ways[way], part)
                rows.append((number, way, args.tiles / (time.perf_counter() - start),
                             1000 * (time.process_time() - used) / args.tiles, counts))
            os.sync()  # what one way wrote is not written out on the other's time
    rates = pd.DataFrame(rows, columns=["round", "way", "tiles/s", "CPU ms a tile", "counts"])
    print(rates.groupby("way")[["tiles/s", "CPU ms a tile"]].median().round(2).to_string())
    rates = rates.pivot(index="round", columns="way")
    same = all(map(np.array_equal, *(rates["counts"][way] for way in ways)))
    ratio = rates["tiles/s"]["by window"] / rates["tiles/s"]["in memory"]
    print(f"by window: {ratio.median():.2f} of the tiles/s in memory ({ratio.min():.2f} to "
          f"{ratio.max():.2f}; at least {ALLOWED_RATIO}: "
          f"{'kept' if ratio.median() >= ALLOWED_RATIO else 'MISSED'}); classes of the tiles "
          f"{'equal' if same else 'DIFFER'}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--image", default="dataset/demo/origin/5.png", metavar="FILE",
                        help="the scene that is repeated; its label lies beside it")
    parser.add_argument("--size", type=positive, default=40000, help="side in pixels")
    parser.add_argument("--filled", type=part_above_0, default=.25, metavar="SHARE",
                        help="share of the rows of blocks that are not sparse")
    parser.add_argument("--tiles", type=positive, default=2000)
    parser.add_argument("--tile_size", type=positive, default=256)
    parser.add_argument("--rare_class_weight", default="0.2", metavar="SHARE")
    parser.add_argument("--rounds", type=positive, default=10)
    parser.add_argument("--folder", default=None, help="for temporary files; the system's if None")
    arguments = parser.parse_args()
    label = os.path.splitext(arguments.image)[0] + "_class.png"
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        origin = os.path.join(folder, "origin")
        os.mkdir(origin)
        # In a process of its own, since a measured one's peak starts at this one's.
        run_apart(write_pair, origin, Scene("1", arguments.image, label), arguments.size,
                  arguments.filled)
        size = sum(entry.stat().st_size for entry in os.scandir(origin)) / 1e9
        print(f"{arguments.size} x {arguments.size} pixels, {arguments.filled:.0%} of the rows of "
              f"blocks filled, {size:.2f} GB on disk; {arguments.tiles} tiles of "
              f"{arguments.tile_size}, --rare_class_weight {arguments.rare_class_weight}",
              flush=True)
        flags = ["--dataset", os.path.join(folder, "tiles"), "--images",
                 os.path.join(origin, "1.tif"), "--labels", os.path.join(origin, "1_class.tif"),
                 "--tiles", str(arguments.tiles), "--tile_size", str(arguments.tile_size),
                 "--rare_class_weight", arguments.rare_class_weight]
        peak, seconds = peak_of([sys.executable, "preprocess.py", *flags, "--memory", "0"])
        print(f"preprocess.py: peak {peak:.2f} GB (at most {ALLOWED_GB}: "
              f"{'kept' if peak < ALLOWED_GB else 'MISSED'}), {seconds:.0f} s in all", flush=True)
        run_apart(compare_speed, flags, arguments.rounds, folder)


def run_apart(function, *arguments):
    """Calls it in a process of its own, which must succeed."""
    process = multiprocessing.Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise ValueError(f"{function.__name__}: ended with status {process.exitcode}")


if __name__ == "__main__":
    run_script(main)
