"""Ways of putting a map together, scored side by side on one labelled scene."""

import contextlib
import time
from dataclasses import replace

import numpy as np
import pandas as pd

from utils.cli import progress
from utils.inference.predictor import predict_classes
from utils.metrics import BoundaryF1, accuracy, confusion_matrix, mean_iou

# Scales that are compared where the chosen method names no others.
COMPARED_SCALES = (0.75, 1.0, 1.25)


def compared_methods(chosen):
    """The original's splicing, each improvement of the chosen Method on it alone, and all."""
    single = replace(chosen, name="single pass", overlap=0, blend="none", rotations=1, flips=False,
                     scales=(1.0,))
    blending = {"overlap": chosen.overlap, "blend": chosen.blend}
    scales = {"scales": chosen.scales if len(chosen.scales) > 1 else COMPARED_SCALES}
    turns = {"rotations": max(2, chosen.rotations), "flips": chosen.flips}
    return [single, replace(single, name="+ blending", **blending),
            replace(single, name="+ scales", **scales),
            replace(single, name="+ rotations", **turns),
            replace(single, name="all", **scales, **turns, **blending)]


def compare_methods(image, label, methods, predictors, window, batch_size, num_classes):
    """DataFrame with a row for each method: scores, seconds, megapixels per second, settings.

    image, label: open utils.data.rasters.Image and Label of one size. predictors: of
    utils.inference.build_predictors, one for each method. The seconds hold reading and scoring,
    which overlap with the graph, but not the graph's first call, which optimises it.
    """
    return pd.DataFrame([_score(image, label, method, predict, window, batch_size, num_classes)
                         for method, predict in zip(methods, predictors)]).set_index("method")


def _score(image, label, method, predict, window, batch_size, num_classes):
    predict(np.zeros((batch_size, window, window, len(image.chosen_bands)), np.uint8))
    matrix, boundary = np.zeros((num_classes, num_classes), np.int64), BoundaryF1(num_classes)
    started = time.perf_counter()
    with (progress(image.height, "row", method.name) as bar, contextlib.closing(
            predict_classes(image, predict, window, batch_size, method)) as bands):
        for top, classes, _ in bands:
            labels = label.read(top, 0, *classes.shape)
            matrix += confusion_matrix(labels, classes, num_classes)
            boundary.add(labels, classes)
            bar.update(len(classes))
    seconds = time.perf_counter() - started
    return {"method": method.name, "mean-IoU": mean_iou(matrix), "accuracy": accuracy(matrix),
            "boundary F1": boundary.score(), "seconds": seconds,
            "megapixels/s": image.height * image.width / 1e6 / seconds, "overlap": method.overlap,
            "blend": method.blend, "rotations": method.rotations, "flips": method.flips,
            "scales": " ".join(map(str, method.scales))}
