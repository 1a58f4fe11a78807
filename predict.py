"""Class maps of whole scenes from a trained run, with scores where there is a label.

    python predict.py --run NAME --image scene.png --label scene_class.png
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import argparse
import contextlib
import os
import time
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import tensorflow.compat.v1 as tf

from deeplab_v3 import deeplab_v3
from utils.classes import ClassTable, colour_map, read_classes
from utils.command_line import (argument_parser, leave_on_signals, positive, progress,
                                run_script)
from utils.files import write_text
from utils.metrics import accuracy, confusion_matrix, format_scores, mean_iou, score_table
from utils.pictures import confusion_picture, overlay
from utils.runs import find_checkpoint, find_run, read_settings, restore_model
from utils.scenes import Scene, choose_scenes, find_scenes, read_image, read_scene, write_png
from utils.sliding_window import BLENDS, augmented_probabilities, predict_bands

# Scales of --compare where --scales names no others.
COMPARED_SCALES = (0.75, 1.0, 1.25)


@dataclass(frozen=True)
class Method:
    """How a scene's probabilities are put together; the terms are those of utils.sliding_window."""

    name: str
    overlap: float
    blend: str
    rotations: int
    flips: bool
    scales: tuple


def parse_arguments():
    parser = argument_parser("Map the classes of a scene with a trained run.")
    parser.set_defaults(classes=None)  # the run knows its own
    parser.add_argument("--logs", default="logs", metavar="FOLDER", help="where the runs are")
    parser.add_argument("--run", default=None, help="name of the run; None means the newest")
    parser.add_argument("--checkpoint", choices=("best", "newest"), default="best",
                        help="the run's best on its validation blocks, or its newest")
    parser.add_argument("--image", default=None, metavar="FILE",
                        help="scene to map; None means --test_scene, from --origin or, where it is "
                        "not, from test/ in --dataset")
    parser.add_argument("--label", default=None, metavar="FILE",
                        help="label of --image, as class ids or colours, to score the map against")
    parser.add_argument("--out", default="predictions", metavar="FOLDER", help="for the results")
    parser.add_argument("--window", type=positive, default=None, metavar="PIXELS",
                        help="side of a window; None means the size that the run was trained on")
    parser.add_argument("--overlap", type=_share, default=0.5,
                        help="share of a window that the next one covers again, from 0 to below 1")
    parser.add_argument("--blend", choices=BLENDS, default="cosine",
                        help="weight of overlapping windows; none gives a pixel to the first one")
    parser.add_argument("--batch_size", type=positive, default=4,
                        help="windows per call; their turned copies come on top")
    parser.add_argument("--rotations", type=int, choices=(1, 2, 4), default=4,
                        help="copies of a window, turned by equal angles, to average over")
    parser.add_argument("--flips", action="store_true", help="average over mirrored copies too")
    parser.add_argument("--scales", type=_scale, nargs="+", default=[1.0],
                        help="average over copies of a window of these relative sizes")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32",
                        help="of the convolutions")
    parser.add_argument("--compare", action="store_true",
                        help="score single pass, scales, rotations, blending and all side by side")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    leave_on_signals()
    run = find_run(arguments.logs, arguments.run)
    settings = read_settings(run)
    table = choose_table(settings, arguments.classes)
    window = arguments.window or settings["tile_size"]
    scene = find_scene(arguments)
    check_output_folder(arguments.out, scene)
    image, label = read_image_and_label(scene, table)
    if arguments.compare and label is None:
        raise ValueError(f"{scene.image_path}: --compare needs a label; give it with --label")
    methods = compared_methods(arguments) if arguments.compare else [chosen_method(arguments)]

    checkpoint, step = find_checkpoint(run, arguments.checkpoint)
    print(f"run {os.path.basename(run)}, step {step}; scene {scene.name}, "
          f"{image.shape[0]} x {image.shape[1]} pixels; windows of {window}, "
          f"{arguments.batch_size} a call")
    with tf.Graph().as_default(), tf.Session() as session:
        predictors = build_predictors(session, settings["model"], window, arguments.precision,
                                      methods)
        restore_model(session, checkpoint)
        if arguments.compare:
            rows = [score_method(method, predict, image, label, window, arguments.batch_size, table)
                    for method, predict in zip(methods, predictors)]
            write_comparison(arguments.out, scene.name, rows)
        else:
            classes, seconds = map_scene(image, predictors[0], window, arguments.batch_size,
                                         methods[0])
            print(f"{seconds:.1f} s, {megapixels(image) / seconds:.3f} megapixels/s, optimising "
                  "the graph included")
            write_map(arguments.out, scene.name, image, label, classes, table)


def chosen_method(arguments):
    return Method("map", arguments.overlap, arguments.blend, arguments.rotations, arguments.flips,
                  tuple(arguments.scales))


def compared_methods(arguments):
    """The original's splicing, each improvement on it alone, and all of them."""
    single = Method("single pass", 0, "none", 1, False, (1.0,))
    scales = {"scales": arguments.scales if len(arguments.scales) > 1 else COMPARED_SCALES}
    turns = {"rotations": max(2, arguments.rotations), "flips": arguments.flips}
    blending = {"overlap": arguments.overlap, "blend": arguments.blend}
    return [single, replace(single, name="+ scales", **scales),
            replace(single, name="+ rotations", **turns),
            replace(single, name="+ blending", **blending),
            replace(single, name="all", **scales, **turns, **blending)]


def build_predictors(session, model, window, precision, methods):
    """For each method a function from uint8 windows to probabilities; they share one model.

    model: settings of deeplab_v3. The functions take [batch, window, window, 3] and return float32
    [batch, window, window, classes].
    """
    def probabilities_of(images):
        return tf.nn.softmax(deeplab_v3(images, is_training=False, precision=precision, **model)[0])

    images = tf.placeholder(tf.uint8, [None, window, window, 3], name="images")
    return [predictor(session, images, augmented_probabilities(
        images, probabilities_of, method.rotations, method.flips, method.scales))
        for method in methods]


def predictor(session, images, probabilities):
    """A function from a batch of windows to their probabilities, both numpy."""
    def predict(batch):
        try:
            return session.run(probabilities, {images: batch})
        except tf.errors.ResourceExhaustedError:
            raise MemoryError(f"{len(batch)} windows of {batch.shape[1]} pixels do not fit into "
                              "the device's memory; lower --batch_size or --window") from None
    return predict


def map_scene(image, predict, window, batch_size, method):
    """(class ids uint8 [height, width], seconds that it took) of an RGB image."""
    height, width = image.shape[:2]

    def read(top, left, rows, columns):
        return image[top:top + rows, left:left + columns]

    classes = np.empty((height, width), np.uint8)
    started = time.perf_counter()
    with progress(height, "row", method.name) as bar:
        for top, probabilities in predict_bands(read, height, width, predict, (window, window),
                                                method.overlap, batch_size, method.blend):
            classes[top:top + len(probabilities)] = probabilities.argmax(axis=-1)
            bar.update(len(probabilities))
    return classes, time.perf_counter() - started


def score_method(method, predict, image, label, window, batch_size, table):
    """A row of the comparison, as a dictionary."""
    # The first call optimises the graph, which must not count against a method.
    predict(np.zeros((batch_size, window, window, 3), np.uint8))
    classes, seconds = map_scene(image, predict, window, batch_size, method)
    matrix = confusion_matrix(label, classes, len(table))
    return {"method": method.name, "mean-IoU": mean_iou(matrix), "accuracy": accuracy(matrix),
            "seconds": seconds, "megapixels/s": megapixels(image) / seconds,
            "overlap": method.overlap, "blend": method.blend, "rotations": method.rotations,
            "flips": method.flips, "scales": " ".join(map(str, method.scales))}


def write_comparison(folder, name, rows):
    """Prints the methods side by side and saves them as <folder>/<name>_compare.csv."""
    comparison = pd.DataFrame(rows).set_index("method")
    print(comparison.round({"mean-IoU": 4, "accuracy": 4, "seconds": 1, "megapixels/s": 3})
          .to_string())
    path = os.path.join(folder, f"{name}_compare.csv")
    write_text(path, comparison.to_csv())
    print(f"written: {path}")


def write_map(folder, name, image, label, classes, table):
    """Writes <folder>/<name>_class.png and its pictures and, with a label, scores and confusion."""
    def path(suffix):
        return os.path.join(folder, f"{name}_{suffix}")

    written = [path("class.png"), path("colour.png"), path("overlay.png")]
    write_png(path("class.png"), classes)
    write_png(path("colour.png"), colour_map(classes, table))
    write_png(path("overlay.png"), overlay(image, classes, table))
    if label is not None:
        matrix = confusion_matrix(label, classes, len(table))
        scores = score_table(matrix, table)
        write_png(path("confusion.png"), confusion_picture(matrix, table))
        write_text(path("scores.csv"), scores.to_csv())
        written += [path("confusion.png"), path("scores.csv")]
        print(format_scores(scores))
    print("written: " + ", ".join(written))


def find_scene(arguments):
    """The scene that --image names, or the held-out one from the data set's folders."""
    if arguments.image:
        name = os.path.splitext(os.path.basename(arguments.image))[0]
        return Scene(name, arguments.image, arguments.label)
    if arguments.label:
        raise ValueError(f"{arguments.label}: --label goes with --image; a scene of --origin has "
                         "its label beside it")
    folders = [arguments.origin or os.path.join(arguments.dataset, "origin")]
    if not arguments.origin:
        folders.append(os.path.join(arguments.dataset, "test"))
    scenes = {}
    for folder in reversed(folders):
        with contextlib.suppress(FileNotFoundError):
            scenes.update(find_scenes(folder))
    # With no scene anywhere the first folder's own message says what to do.
    scenes = scenes or find_scenes(folders[0])
    return choose_scenes(scenes, [arguments.test_scene], " and ".join(folders))[0]


def read_image_and_label(scene, table):
    """(RGB image, class ids or None)."""
    if scene.label_path:
        return read_scene(scene, table)
    return read_image(scene.image_path), None


def choose_table(settings, path):
    """The run's class table, or another of the same length from `path`."""
    table = ClassTable.from_settings(settings["classes"])
    if path is None:
        return table
    other = read_classes(path)
    if len(other) != len(table):
        raise ValueError(f"{path}: {len(other)} classes, but the run was trained on {len(table)}: "
                         f"{', '.join(table.names)}")
    return other


def check_output_folder(folder, scene):
    """Fails now rather than after the work; and never lets a map replace a scene's label."""
    if os.path.realpath(folder) == os.path.realpath(os.path.dirname(scene.image_path)):
        raise ValueError(f"{folder}: the scene is in that folder, and its label could be replaced "
                         "by the map; choose another folder with --out")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise OSError(f"{folder}: could not be made ({error.strerror}); choose another folder with "
                      "--out") from None
    if not os.access(folder, os.W_OK):
        raise OSError(f"{folder}: not writable; choose another folder with --out")


def megapixels(image):
    return image.shape[0] * image.shape[1] / 1e6


def _share(text):
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to below 1")
    return value


def _scale(text):
    value = float(text)
    if not 0.1 <= value <= 10:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.1 and 10")
    return value


if __name__ == "__main__":
    run_script(main)
