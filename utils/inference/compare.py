"""Ways of putting a map together, scored side by side on one labelled scene."""

import contextlib
import os
import time
from dataclasses import asdict, replace

import numpy as np
import pandas as pd

from utils.cli import progress
from utils.files import write_text
from utils.inference.predictor import predict_classes
from utils.metrics import BoundaryF1, accuracy, confusion_matrix, mean_iou

# Scales that are compared where the chosen options name no others.
COMPARED_SCALES = (0.75, 1.0, 1.25)


def compared_options(chosen):
    """{name: InferenceOptions}: the original's splicing, each improvement of `chosen` on it alone,
    and all."""
    single = replace(chosen, overlap=0, blend="none", rotations=1, flips=False, scales=(1.0,))
    blending = {"overlap": chosen.overlap, "blend": chosen.blend}
    scales = {"scales": chosen.scales if len(chosen.scales) > 1 else COMPARED_SCALES}
    turns = {"rotations": max(2, chosen.rotations), "flips": chosen.flips}
    return {"single pass": single, "+ blending": replace(single, **blending),
            "+ scales": replace(single, **scales), "+ rotations": replace(single, **turns),
            "all": replace(single, **scales, **turns, **blending)}


def compare_options(image, label, named_options, predictors, num_classes):
    """DataFrame with a row for each of `named_options`: scores, seconds, megapixels per second,
    options.

    image, label: open utils.data.rasters.Image and Label of one size. predictors: of
    `open_predictors`, in the same order. The seconds hold reading and scoring, which overlap with
    the graph, but not the graph's first call, which optimises it.
    """
    return pd.DataFrame([_score(image, label, name, options, predict, num_classes)
                         for (name, options), predict in zip(named_options.items(), predictors)]
                        ).set_index("method")


def write_comparison(folder, name, comparison):
    """Prints the methods side by side and saves them as <folder>/<name>_compare.csv."""
    print(comparison.round({"mean-IoU": 4, "accuracy": 4, "boundary F1": 4, "seconds": 1,
                            "megapixels/s": 3}).to_string())
    path = os.path.join(folder, f"{name}_compare.csv")
    write_text(path, comparison.to_csv())
    print(f"written: {path}")


def _score(image, label, name, options, predict, num_classes):
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
    told = asdict(options) | {"scales": " ".join(map(str, options.scales))}
    return {"method": name, "mean-IoU": mean_iou(matrix), "accuracy": accuracy(matrix),
            "boundary F1": boundary.score(), "seconds": seconds,
            "megapixels/s": image.height * image.width / 1e6 / seconds} | {
                key: told[key] for key in ("overlap", "blend", "rotations", "flips", "scales")}
