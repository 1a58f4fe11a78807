"""Megapixels of scene per second: the original's way, ours, and the bare graph, side by side.

Run as: python -m benchmarks.predict_speed --origin ../shared/data/dubai --run dubai
        python -m benchmarks.predict_speed --origin ../shared/data/dubai --run dubai --sweep

(a) the original's way: disjoint windows of 256, one a call, and each of 4 rotations a call of its
    own, turned and averaged with numpy
(b) ours with the same windows and rotations: batches, all rotations in the graph
(c) ours as predict.py does it: overlapping windows, blended; its --window and --batch_size
(d) the bare graph on random batches, as many and of the same shape as (c)'s: the ceiling of (c)

(a) to (c) read the scene from disk and write its map; (b) and (c) its pictures too. All take turns
within a round; the figures are medians over the rounds, ratios medians of each round's ratio. With
--sweep window and batch sizes are compared instead, by speed and by mean-IoU.
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import contextlib
import itertools
import os
import tempfile
import time

import numpy as np
import pandas as pd
import rasterio

from utils.cli import argument_parser, positive, run_script
from utils.inference.predictor import open_predictors, predict_classes
from utils.inference.map_files import map_paths
from utils.inference.map_writer import writing_map
from utils.metrics import confusion_matrix, mean_iou
from utils.data.image import Image
from utils.training.checkpoints import BEST, Checkpoints
from utils.training.run import RunSettings, find_run
from utils.data.scenes import choose_scenes, find_scenes, read_scene, write_png
from utils.inference.sliding_window import InferenceOptions, window_starts

PRECISIONS = ("float32", "bfloat16")
SPLICED = {"overlap": 0, "blend": "none"}


def map_like_original(path, predict, window, folder):
    """(a): maps a scene with one window and one rotation a call, and writes the class map."""
    with Image(path) as image:
        scene = image.read(0, 0, image.height, image.width)
    classes = np.zeros(scene.shape[:2], np.uint8)
    for top, left in itertools.product(*(window_starts(length, window, 0)
                                         for length in scene.shape[:2])):
        part = scene[top:top + window, left:left + window]
        mean = sum(np.rot90(predict(np.rot90(part, turns)[None])[0], -turns)
                   for turns in range(4)) / 4
        classes[top:top + window, left:left + window] = mean.argmax(-1)
    write_png(os.path.join(folder, "original_class.png"), classes)


def map_like_predict(path, predict, options, table, folder):
    """(b), (c): what predict.py does with one scene. Returns the class map uint8."""
    with Image(path) as image:
        paths = map_paths(folder, "scene", to_geotiff=True)
        with writing_map(paths, image, table, {}) as write:
            parts = [classes for _, classes in write(predict_classes(image, predict, options))]
    return np.concatenate(parts)


def run_graph(predict, windows, batch_size, batch):
    """(d): as many calls as `windows` windows take."""
    for _ in range(-(-windows // batch_size)):
        predict(batch)


def number_of_windows(height, width, window, overlap):
    return len(window_starts(height, window, overlap)) * len(window_starts(width, window, overlap))


def compare(arguments, path, size, settings, checkpoint, folder):
    """Prints the table of (a) to (d)."""
    window, batch_size, table = arguments.window, arguments.batch_size, settings.classes
    rng = np.random.default_rng(arguments.seed)
    crop = settings.crop_size
    batch = rng.integers(0, 256, (batch_size, window, window, 3), np.uint8)
    single = InferenceOptions(crop, batch_size=1, **SPLICED)
    rotated = InferenceOptions(crop, batch_size=batch_size, rotations=4, **SPLICED)
    ours = InferenceOptions(window, batch_size=batch_size, rotations=4)
    windows = number_of_windows(*size, window, ours.overlap)
    ways = {}
    with contextlib.ExitStack() as stack:
        for precision in PRECISIONS:
            one, four, blended = stack.enter_context(open_predictors(
                checkpoint, settings.model, precision, [single, rotated, ours]))
            ways |= {
                ("a", precision): lambda p=one: map_like_original(path, p, crop, folder),
                ("b", precision): lambda p=four: map_like_predict(path, p, rotated, table, folder),
                ("c", precision): lambda p=blended: map_like_predict(path, p, ours, table, folder),
                ("d", precision): lambda p=blended: run_graph(p, windows, batch_size, batch)}
            # The first call of each shape optimises the graph.
            one(np.zeros((1, crop, crop, 3), np.uint8))
            four(np.zeros((batch_size, crop, crop, 3), np.uint8))
            blended(batch)
        seconds = pd.DataFrame([{way: timed(work) for way, work in ways.items()}
                                for _ in range(arguments.rounds)])
    seconds.columns = pd.MultiIndex.from_tuples(seconds.columns)
    rates = size[0] * size[1] / 1e6 / seconds.median()
    print(f"(c), (d): windows of {window}, {batch_size} a call, {windows} windows; "
          f"{arguments.rounds} rounds")
    print(rates.unstack(0).rename_axis("megapixels/s").round(3).to_string())
    original = seconds["a"]["float32"]
    for precision in PRECISIONS:
        print(f"{precision}: (b) is {(original / seconds['b'][precision]).median():.2f} times (a) "
              f"in float32, {(seconds['a'][precision] / seconds['b'][precision]).median():.2f} "
              f"times (a) in {precision}; (c) is "
              f"{100 * (seconds['d'][precision] / seconds['c'][precision]).median():.1f}% of (d)")


def sweep(arguments, path, size, settings, checkpoint, folder, label):
    """Prints speed and mean-IoU by window, overlap and batch, without rotations, in bfloat16."""
    rows, table = [], settings.classes
    for window in arguments.windows:
        with open_predictors(checkpoint, settings.model, "bfloat16",
                             [InferenceOptions(window)]) as [predict]:
            for batch_size in arguments.batch_sizes:
                # Batches of as many pixels, whatever the window.
                windows_a_call = max(1, round(batch_size * 256**2 / window**2))
                predict(np.zeros((windows_a_call, window, window, 3), np.uint8))
                for share in dict.fromkeys((0.5, min(0.5, 128 / window))):
                    options = InferenceOptions(window, share, batch_size=windows_a_call)
                    started = time.perf_counter()
                    classes = map_like_predict(path, predict, options, table, folder)
                    seconds = time.perf_counter() - started
                    windows = number_of_windows(*size, window, share)
                    rows.append({
                        "window": window, "overlap": share, "a call": windows_a_call,
                        "windows": windows, "megapixels/s": size[0] * size[1] / 1e6 / seconds,
                        "window megapixels/s": windows * window**2 / 1e6 / seconds,
                        "mean-IoU": mean_iou(confusion_matrix(label, classes, len(table)))})
    print("sweep: blended, one pass each, bfloat16")
    print(pd.DataFrame(rows).round({"overlap": 3, "megapixels/s": 3, "window megapixels/s": 2,
                                    "mean-IoU": 4}).to_string(index=False))


def timed(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main():
    parser = argument_parser(__doc__.splitlines()[0])
    parser.add_argument("--logs", default="logs", metavar="FOLDER")
    parser.add_argument("--run", help="name of the run; by default the latest")
    parser.add_argument("--window", type=positive, default=256, help="of (c) and (d)")
    parser.add_argument("--batch_size", type=positive, default=4, help="windows per call")
    parser.add_argument("--rows", type=positive, default=1 << 30, help="of the scene, at most")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--windows", type=positive, nargs="+", default=[256, 384, 512, 768])
    parser.add_argument("--batch_sizes", type=positive, nargs="+", default=[1, 4, 8, 16],
                        help="of the sweep, in windows of 256")
    arguments = parser.parse_args()
    run = find_run(arguments.logs, arguments.run)
    settings = RunSettings.read(run)
    origin = arguments.origin or f"{arguments.dataset}/origin"
    scene = choose_scenes(find_scenes(origin), arguments.test_scene, origin)[0]
    image, label = (part[:arguments.rows] for part in read_scene(scene, settings.classes))
    print(f"{scene.image_path}: {image.shape[0]} x {image.shape[1]} pixels as a tiled GeoTIFF")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "input.tif")
        with rasterio.open(path, "w", driver="GTiff", height=image.shape[0], width=image.shape[1],
                           count=3, dtype="uint8", tiled=True, blockxsize=256, blockysize=256,
                           compress="deflate") as file:
            file.write(np.moveaxis(image, -1, 0))
        checkpoint = Checkpoints(run, BEST).find()[0]
        task = [arguments, path, image.shape[:2], settings, checkpoint, folder]
        if arguments.sweep:
            sweep(*task, label)
        else:
            compare(*task)


if __name__ == "__main__":
    run_script(main)
