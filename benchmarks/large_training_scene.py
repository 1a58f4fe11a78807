"""Peak memory and tiles per second of preprocess.py on a scene larger than memory.

Run as: python -m benchmarks.large_training_scene --image dataset/demo/origin/5.png
        python -m benchmarks.large_training_scene --image dataset/demo/origin/5.png --filled 1

A pair of GeoTIFFs (scene and label, tiled, deflate) is made of one smaller scene again and again.
The share --filled of the rows of blocks has pixels; the rest is sparse: it takes no space on disk
and reads as 0. preprocess.py cuts the same tiles of it twice a round, in turns: window by window
(--memory 0) and with all pixels in memory, which takes four bytes a pixel of RAM.

Tiles per second are those of the training tiles, from the first file to the last: opening, passes
over the label and validation tiles do not count. Peaks are the kernel's (ru_maxrss). The ratio is
the median of each round's.
"""

import argparse
import filecmp
import glob
import multiprocessing
import os
import statistics
import sys
import tempfile

import numpy as np
import rasterio
from rasterio.windows import Window

from benchmarks.large_scene import peak_of
from utils.classes import DEFAULT_TABLE, read_classes
from utils.cli import part_above_0, positive, run_script
from utils.data.scenes import Scene, read_scene

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


def tiles_per_second(dataset):
    """Of the training tiles in `dataset`, from the first file to the last."""
    paths = glob.glob(os.path.join(dataset, "train", "*", "*.png"))
    times = [os.stat(path).st_mtime for path in paths]
    return (len(paths) // 2 - 1) / (max(times) - min(times))


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
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--folder", default=None, help="for temporary files; the system's if None")
    arguments = parser.parse_args()
    label = os.path.splitext(arguments.image)[0] + "_class.png"
    ways = {"by window": ["--memory", "0"], "in memory": ["--memory", "1000"]}
    peaks, rates = {way: [] for way in ways}, {way: [] for way in ways}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        origin = os.path.join(folder, "origin")
        os.mkdir(origin)
        # In a process of its own, since a measured one's peak starts at this one's.
        writer = multiprocessing.Process(target=write_pair, args=(
            origin, Scene("1", arguments.image, label), arguments.size, arguments.filled))
        writer.start()
        writer.join()
        if writer.exitcode:
            raise ValueError(f"{arguments.image}: the large scene could not be made of it")
        size = sum(entry.stat().st_size for entry in os.scandir(origin)) / 1e9
        print(f"{arguments.size} x {arguments.size} pixels, {arguments.filled:.0%} of the rows of "
              f"blocks filled, {size:.2f} GB on disk; {arguments.tiles} tiles of "
              f"{arguments.tile_size}, --rare_class_weight {arguments.rare_class_weight}",
              flush=True)
        for number in range(arguments.rounds):
            # Who comes first changes from round to round.
            for way in list(ways)[::1 - 2 * (number % 2)]:
                dataset = os.path.join(folder, way)
                flags = ["--dataset", dataset, "--images", os.path.join(origin, "1.tif"),
                         "--labels", os.path.join(origin, "1_class.tif"), "--tiles",
                         arguments.tiles, "--tile_size", arguments.tile_size,
                         "--rare_class_weight", arguments.rare_class_weight, *ways[way]]
                peak, seconds = peak_of([sys.executable, "preprocess.py", *map(str, flags)])
                peaks[way].append(peak)
                rates[way].append(tiles_per_second(dataset))
                print(f"{way}: peak {peak:.2f} GB, {rates[way][-1]:.1f} tiles/s, {seconds:.0f} s "
                      "in all", flush=True)
        lists = [os.path.join(folder, way, "train") for way in ways]
        same = not any(filecmp.dircmp(*(os.path.join(path, part) for path in lists)).diff_files
                       for part in ("images", "labels"))
    ratio = statistics.median(a / b for a, b in zip(*rates.values()))
    peak = max(peaks["by window"])
    print(f"by window: peak {peak:.2f} GB (at most {ALLOWED_GB}: "
          f"{'kept' if peak < ALLOWED_GB else 'MISSED'}), {ratio:.2f} of the tiles/s in memory (at "
          f"least {ALLOWED_RATIO}: {'kept' if ratio >= ALLOWED_RATIO else 'MISSED'}); the tiles "
          f"are {'the same' if same else 'OTHERS'}")


if __name__ == "__main__":
    run_script(main)
