"""Time to map a GeoTIFF of which 15% are valid pixels, against one of which all are.

Run as: python -m benchmarks.partial_scene

Both kinds hold the same pixels where they are valid. The model has an eighth of ResNet-50's width
and random weights, which does not matter here. The sizes take turns; a ratio is the median of the
rounds' own.
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import argparse
import os
import tempfile
import time

import numpy as np
import rasterio
import tensorflow.compat.v1 as tf

from deeplab_v3 import ModelConfig
from utils.cli import positive, run_script
from utils.data.image import Image
from utils.inference.predictor import build_predictor, predict_classes
from utils.inference.sliding_window import InferenceOptions
from utils.precision import FLOAT32

SHARE = 0.15
OPTIONS = InferenceOptions(256, overlap=0.5, batch_size=4)


def write_scenes(folder, side):
    """{name: path} of scenes of side x side pixels; nodata is 0."""
    row, column = np.mgrid[:side, :side]
    corner, strip = side * SHARE ** .5, side * (1 - (1 - SHARE) ** .5)
    valid = {"all of it": np.ones((side, side), bool),
             "a square": (row < corner) & (column < corner),
             "a strip along the diagonal": abs(row - column) < strip}
    samples = np.random.default_rng(0).integers(1, 256, (3, side, side)).astype(np.uint8)
    paths = {name: os.path.join(folder, f"{number}.tif") for number, name in enumerate(valid)}
    for name, path in paths.items():
        with rasterio.open(path, "w", driver="GTiff", count=3, height=side, width=side,
                           dtype="uint8", nodata=0, tiled=True) as scene:
            scene.write(samples * valid[name])
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=positive, default=3000, help="of the scene, pixels")
    parser.add_argument("--rounds", type=positive, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tf.Graph().as_default(), tf.Session() as session:
        paths = write_scenes(folder, arguments.side)
        predict = build_predictor(session, ModelConfig(5, width=.125), FLOAT32, OPTIONS)
        session.run(tf.global_variables_initializer())
        predict(np.zeros((OPTIONS.batch_size, OPTIONS.window, OPTIONS.window, 3), np.uint8))
        seconds, calls = {name: [] for name in paths}, {}
        for _ in range(arguments.rounds):
            for name, path in paths.items():
                calls[name], valid, started = [], 0, time.perf_counter()

                def counted(images, name=name):
                    calls[name].append(len(images))
                    return predict(images)

                with Image(path) as image:
                    for _, classes, _ in predict_classes(image, counted, OPTIONS):
                        valid += np.count_nonzero(classes != 255)
                seconds[name].append(time.perf_counter() - started)
                print(f"{name}: {valid / arguments.side ** 2:.3f} valid, {len(calls[name])} calls, "
                      f"{seconds[name][-1]:.1f} s", flush=True)
    whole = np.array(seconds["all of it"])
    for name, own in seconds.items():
        print(f"{name}: {np.median(own / whole):.3f} of the time of a scene that is valid "
              "throughout")


if __name__ == "__main__":
    run_script(main)
