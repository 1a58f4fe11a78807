"""Peak memory of mapping a large scene, against a scene of 2,000 x 2,000 pixels.

Run as: python -m benchmarks.large_scene
        python -m benchmarks.large_scene --model run --rows 2000 --logs logs --run dubai

The scene is a tiled GeoTIFF made of one smaller scene again and again. Each size is mapped by a
process of its own, whose peak is the kernel's (ru_maxrss), with predict.py's windows, blending and
writing. The stand-in model makes brightness a class, so that the full size takes minutes and not
hours; its graph is small, and so is the part of the peak that does not depend on the size.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import rasterio
from rasterio.windows import Window

from utils.classes import DEFAULT_TABLE, read_classes
from utils.cli import positive, run_script
from utils.data.scenes import read_image

ALLOWED = 1.5
BLOCK = 256
BASE = 2000


def write_large_scene(path, image, height, width):
    """Writes `image`, RGB uint8 [h, w, 3], again and again as a tiled GeoTIFF, block row by row."""
    with rasterio.open(path, "w", driver="GTiff", height=height, width=width, count=3,
                       dtype="uint8", tiled=True, blockxsize=BLOCK, blockysize=BLOCK,
                       compress="deflate", zlevel=1, bigtiff="if_safer", crs="EPSG:32640",
                       transform=rasterio.Affine(.5, 0, 325000, 0, -.5, 2785000)) as file:
        columns = np.arange(width) % image.shape[1]
        for top in range(0, height, BLOCK):
            rows = np.arange(top, min(top + BLOCK, height)) % image.shape[0]
            file.write(np.moveaxis(image[rows][:, columns], -1, 0),
                       window=Window(0, top, width, len(rows)))


def map_with_stand_in(path, folder):
    """Maps the scene at `path` as predict.py does, with a model that makes brightness a class."""
    # Only here, since the process that measures must stay small.
    import utils.quiet  # noqa: F401  (before TensorFlow)
    import tensorflow.compat.v1 as tf
    from utils.inference.predictor import predict_classes
    from utils.inference.sliding_window import InferenceOptions
    from utils.inference.map_files import map_paths
    from utils.inference.map_writer import writing_map
    from utils.data.image import Image
    table = read_classes(DEFAULT_TABLE)
    options = InferenceOptions(BLOCK, batch_size=16)
    with tf.Graph().as_default(), tf.Session() as session, Image(path) as image:
        images = tf.placeholder(tf.uint8, [None, BLOCK, BLOCK, 3])
        brightness = tf.reduce_mean(tf.cast(images, tf.float32), -1, keepdims=True) / 255
        centres = (tf.range(len(table), dtype=tf.float32) + 0.5) / len(table)
        probabilities = tf.nn.softmax(-tf.square(10 * (brightness - centres)))
        paths = map_paths(folder, "scene", to_geotiff=True)
        with writing_map(paths, image, table, {}) as write, contextlib.closing(predict_classes(
                image, lambda batch: session.run(probabilities, {images: batch}),
                options)) as strips:
            for _ in write(strips):
                pass


def peak_of(command):
    """(peak memory in GB, seconds) of a command that must succeed.

    The peak of a process starts at that of the one that starts it, so this one stays small: it
    never loads TensorFlow.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise ValueError(f"{' '.join(command)}: ended with status {status}")
    return usage.ru_maxrss * 1024 / 1e9, time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--image", default="dataset/demo/origin/5.png", metavar="FILE",
                        help="the scene that is repeated")
    parser.add_argument("--size", type=positive, default=20000, help="width in pixels")
    parser.add_argument("--rows", type=positive, help="by default --size")
    parser.add_argument("--model", choices=("stand-in", "run"), default="stand-in")
    parser.add_argument("--logs", default="logs", metavar="FOLDER")
    parser.add_argument("--run", help="name of the run; by default the latest")
    parser.add_argument("--predict", nargs="+", metavar="FLAG", help="more flags for predict.py, "
                        "without their dashes, as in: precision=bfloat16 rotations=1",
                        default=["precision=bfloat16", "rotations=1", "batch_size=16"])
    parser.add_argument("--folder", default=None, help="for temporary files; the system's if None")
    parser.add_argument("--worker", nargs=2, metavar=("SCENE", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return map_with_stand_in(*arguments.worker)

    image = read_image(arguments.image)
    sizes = [(BASE, BASE), (arguments.rows or arguments.size, arguments.size)]
    peaks = []
    for height, width in sizes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            scene, out = os.path.join(folder, "scene.tif"), os.path.join(folder, "out")
            write_large_scene(scene, image, height, width)
            os.mkdir(out)
            if arguments.model == "stand-in":
                command = [sys.executable, "-m", "benchmarks.large_scene", "--worker", scene, out]
            else:
                command = [sys.executable, "predict.py", "--logs", arguments.logs, "--image", scene,
                           "--out", out] + [f"--{flag}" for flag in arguments.predict]
                command += ["--run", arguments.run] if arguments.run else []
            peak, seconds = peak_of(command)
            size = sum(os.path.getsize(os.path.join(out, name)) for name in os.listdir(out))
        peaks.append(peak)
        print(f"{height} x {width} pixels, {arguments.model}: peak {peak:.2f} GB, {seconds:.0f} s, "
              f"results of {size / 1e6:.0f} MB", flush=True)
    more = peaks[1] - peaks[0]
    print(f"{more:+.2f} GB; at most {ALLOWED} are allowed: "
          f"{'kept' if more <= ALLOWED else 'MISSED'}")


if __name__ == "__main__":
    run_script(main)
