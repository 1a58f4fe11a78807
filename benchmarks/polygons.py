"""Seconds and memory of merging a map's small regions, of its polygons, and of opening the layer.

Run as: python -m benchmarks.polygons --size 10000
        python -m benchmarks.polygons --size 5000 --simplify 1.5

The map is of blots of five classes, of about a thousand pixels each, in UTM.
"""

import argparse
import os
import resource
import tempfile
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pyogrio
from rasterio.crs import CRS
from rasterio.transform import from_origin

from utils.classes import DEFAULT_TABLE, read_classes
from utils.cli import above_zero, positive, run_script
from utils.inference.polygonize import merge_small_regions, write_polygons


def blots(size, classes=5, blur=8):
    """Class ids uint8 [size, size]: where which of smoothed noises is highest."""
    random, best = np.random.default_rng(0), np.full((size, size), -9, np.float32)
    ids = np.zeros((size, size), np.uint8)
    for number in range(classes):
        noise = cv2.GaussianBlur(random.standard_normal((size, size), np.float32), (0, 0), blur)
        ids[noise > best] = number
        np.maximum(best, noise, out=best)
    return ids


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--size", type=positive, default=10000, help="side of the map, pixels")
    parser.add_argument("--min_area", type=positive, default=50, help="pixels")
    parser.add_argument("--simplify", type=above_zero, help="pixels; by default not at all")
    arguments = parser.parse_args()
    place = {"crs": CRS.from_epsg(32640), "transform": from_origin(325000, 2785000, .5, .5)}
    image, classes = SimpleNamespace(georeference=lambda: place), blots(arguments.size)
    print(f"{arguments.size} x {arguments.size} pixels")

    def timed(what, function, *values):
        started = time.perf_counter()
        result = function(*values)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(f"{what}: {time.perf_counter() - started:.1f} s; peak so far {peak:.2f} GB",
              flush=True)
        return result

    classes = timed("merged", merge_small_regions, classes, arguments.min_area)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "map.gpkg")
        timed("polygons written", write_polygons, path, classes,
              np.full_like(classes, 200), image, read_classes(DEFAULT_TABLE), arguments.simplify)
        count = timed("opened", pyogrio.read_info, path)["features"]
        window = (325100, 2784000, 325600, 2784500)
        part = timed("a view of 1000 x 1000 pixels read",
                     lambda: pyogrio.raw.read(path, bbox=window))
        print(f"{count:,} polygons, {len(part[2]):,} in the view; "
              f"{os.path.getsize(path) / 1e6:.0f} MB")


if __name__ == "__main__":
    run_script(main)
