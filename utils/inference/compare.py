"""Ways of putting a map together, scored side by side on labelled scenes."""

import contextlib
import os
import time
from dataclasses import asdict, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from utils.boundary_f1 import BoundaryF1, boundary_f1
from utils.cli import progress
from utils.files import write_text
from utils.inference.predictor import predict_classes
from utils.inference.sliding_window import WOVEN, turned_copies
from utils.metrics import accuracy, confusion_matrix, mean_iou, pooled_over

# Scales that are compared where the chosen options name no others.
COMPARED_SCALES = (0.75, 1.0, 1.25)


class Measured(NamedTuple):
    """What one method did on a scene; sums over scenes are what it did on all of them."""

    matrix: np.ndarray  # of confusion_matrix
    boundary: np.ndarray  # counts of BoundaryF1
    seconds: float
    megapixels: float


def compared_options(chosen):
    """{name: InferenceOptions}: the original's splicing, each improvement of `chosen` on it alone
    (woven turns with the blending that they need), and all, with as many images a call."""
    images_a_call = chosen.batch_size * turned_copies(chosen.rotations)
    single = replace(chosen, overlap=0, blend="none", batch_size=images_a_call, rotations=1,
                     flips=False, scales=(1.0,))
    blending = {"overlap": chosen.overlap, "blend": chosen.blend}
    scales = {"scales": chosen.scales if len(chosen.scales) > 1 else COMPARED_SCALES}
    rotations = chosen.rotations if chosen.rotations in (2, 4) else 4
    turns = {"rotations": rotations, "flips": chosen.flips,
             "batch_size": max(1, images_a_call // rotations)}
    return {"single pass": single, "+ blending": replace(single, **blending),
            "+ woven turns": replace(single, **blending, rotations=WOVEN),
            "+ scales": replace(single, **scales), "+ rotations": replace(single, **turns),
            "all": replace(single, **scales, **turns, **blending)}


def compare_options(image, label, named_options, predictors, num_classes):
    """[Measured for each of `named_options`] on one scene.

    image, label: open utils.data.image.Image and Label of one size. predictors: of
    `open_predictors`, in the same order. The seconds hold reading and scoring, which overlap with
    the graph, but not the graph's first call, which optimises it.
    """
    return [_measure(image, label, name, options, predict, num_classes)
            for (name, options), predict in zip(named_options.items(), predictors)]


def write_comparison(path, measured, named_options):
    """Prints the methods side by side and saves them as CSV: scores, seconds, megapixels per
    second, options. measured: of `compare_options`."""
    comparison = pd.DataFrame([_row(name, options, one) for (name, options), one
                               in zip(named_options.items(), measured)]).set_index("method")
    print(comparison.round({"mean-IoU": 4, "accuracy": 4, "boundary F1": 4, "seconds": 1,
                            "megapixels/s": 3}).to_string())
    write_text(path, comparison.to_csv())
    print(f"written: {path}")


def report_pooled_comparison(folder, ending, scene_measured, named_options):
    """Pools the methods' counts over scenes, as <folder>/compare.csv.

    ending: of its name, before '.csv'. scene_measured: {scene: list of `compare_options`, or None
    for one that failed}.
    """
    failed = [name for name, measured in scene_measured.items() if measured is None]
    print(f"{pooled_over(len(scene_measured), failed)}:")
    done = [measured for measured in scene_measured.values() if measured is not None]
    if done:
        pooled = [Measured(*map(sum, zip(*scenes))) for scenes in zip(*done)]
        write_comparison(os.path.join(folder, f"compare{ending}.csv"), pooled, named_options)


def _measure(image, label, name, options, predict, num_classes):
    window = options.window
    predict(np.zeros((options.batch_size, window, window, len(image.chosen_bands)), np.uint8))
    matrix, boundary = np.zeros((num_classes, num_classes), np.int64), BoundaryF1(num_classes)
    started = time.perf_counter()
    with (progress(image.height, "row", name) as bar,
          contextlib.closing(predict_classes(image, predict, options)) as strips):
        for top, classes, _ in strips:
            labels = label.read(top, 0, *classes.shape)
            matrix += confusion_matrix(labels, classes, num_classes)
            boundary.add(labels, classes)
            bar.update(len(classes))
    seconds = time.perf_counter() - started
    return Measured(matrix, boundary.counts(), seconds, image.height * image.width / 1e6)


def _row(name, options, measured):
    told = asdict(options) | {"scales": " ".join(map(str, options.scales))}
    matrix, boundary, seconds, megapixels = measured
    return {"method": name, "mean-IoU": mean_iou(matrix), "accuracy": accuracy(matrix),
            "boundary F1": boundary_f1(boundary), "seconds": seconds,
            "megapixels/s": megapixels / seconds} | {
                key: told[key] for key in ("overlap", "blend", "rotations", "flips", "scales")}
