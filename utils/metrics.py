"""How well a class map agrees with its label: confusion matrix, IoU, accuracy, boundary F1.

    python -m utils.metrics --label L.png --prediction P.png
"""

import argparse

import cv2
import numpy as np
import pandas as pd

from utils.classes import DEFAULT_TABLE, IGNORE, read_classes
from utils.cli import run_script
from utils.files import write_text
from utils.data.scenes import read_label

# The joint histogram of so many pixels is taken at a time; more only costs memory.
PIXELS_AT_ONCE = 1 << 22
# Distance in pixels up to which two boundaries agree.
BOUNDARY_TOLERANCE = 3


def confusion_matrix(label, prediction, num_classes):
    """Counts of pixels, int64 [classes, classes]: rows are the label, columns the prediction.

    label, prediction: uint8 ids of one shape. A pixel that is 255 in either (ignored, or nodata in
    the prediction) does not count. Matrices of parts of a scene add up to the scene's. Raises
    ValueError where the shapes differ or another value is no class id.
    """
    label, prediction = np.asarray(label), np.asarray(prediction)
    if label.shape != prediction.shape:
        raise ValueError(f"the label is {_size(label)} pixels and the prediction "
                         f"{_size(prediction)}; only maps of the same size can be scored")
    if label.dtype != np.uint8 or prediction.dtype != np.uint8:
        raise ValueError(f"maps to be scored hold uint8 ids, not {label.dtype}, {prediction.dtype}")
    label, prediction = label.ravel(), prediction.ravel()
    counts = np.zeros(256 * 256, np.int64)
    for start in range(0, label.size, PIXELS_AT_ONCE):
        part = slice(start, start + PIXELS_AT_ONCE)
        counts += np.bincount(label[part].astype(np.uint16) << 8 | prediction[part],
                              minlength=counts.size)
    counts = counts.reshape(256, 256)
    for name, present in (("label", counts.sum(1)), ("prediction", counts.sum(0))):
        unknown = np.flatnonzero(present[num_classes:IGNORE]) + num_classes
        if unknown.size:
            raise ValueError(f"value {unknown[0]} in the {name} is not one of the {num_classes} "
                             f"classes (0 to {num_classes - 1}, or {IGNORE} for ignore)")
    return counts[:num_classes, :num_classes].copy()


def intersection_over_union(matrix):
    """float64 [classes]; NaN for a class that is absent from both maps."""
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return _share(np.diag(matrix), union)


def mean_iou(matrix):
    """Mean over the classes present in either map; NaN where no pixel is valid."""
    iou = intersection_over_union(matrix)
    return float(np.nanmean(iou)) if matrix.any() else float("nan")


def accuracy(matrix):
    """Share of the valid pixels whose class is right; NaN where none is valid."""
    return float(_share(np.trace(matrix), matrix.sum()))


def precision(matrix):
    """float64 [classes]: share of a class's predicted pixels that are right; NaN if none is."""
    return _share(np.diag(matrix), matrix.sum(0))


def recall(matrix):
    """float64 [classes]: share of a class's labelled pixels that were found; NaN if none is."""
    return _share(np.diag(matrix), matrix.sum(1))


class BoundaryF1:
    """F1 of the classes' boundaries, added up from the top of a scene down, strip by strip.

    After Csurka et al., 'What is a good evaluation measure for semantic segmentation?', BMVC 2013:
    for each class, precision is the share of the prediction's boundary pixels that lie within
    `tolerance` pixels (Euclidean) of a boundary pixel of the label, recall the share of the label's
    within that distance of the prediction's; F1 is their harmonic mean, and the score its mean over
    the classes that have a boundary in either map. A boundary pixel of a class has one of its four
    neighbours in another class. Pixels that are 255 in either map are taken out of both: they
    neither have nor make a boundary. Strips are of any height: the rows that they share are carried
    over, so their score is exactly the scene's.
    """

    def __init__(self, num_classes, tolerance=BOUNDARY_TOLERANCE):
        y, x = np.mgrid[-tolerance:tolerance + 1, -tolerance:tolerance + 1]
        self._disk = (x ** 2 + y ** 2 <= tolerance ** 2).astype(np.uint8)
        # A boundary pixel is known by the row beside it, and is looked for `tolerance` rows away.
        self._margin = tolerance + 1
        self._held, self._counted = None, 0
        # Of each class: boundary pixels of the prediction, of these near the label's; then the
        # label's, and near the prediction's.
        self._counts = np.zeros((num_classes, 4), np.int64)

    def add(self, label, prediction):
        """The next rows of both maps, uint8 [rows, width]."""
        rows = np.stack([label, prediction])
        rows[:, (rows == IGNORE).any(axis=0)] = IGNORE
        if self._held is not None:
            rows = np.concatenate([self._held, rows], axis=1)
        self._count(rows, rows.shape[1] - self._margin)

    def score(self):
        """The mean F1 once all rows are added; NaN where no class has a boundary."""
        if self._held is not None:
            self._count(self._held, self._held.shape[1])
        predicted, right, labelled, found = self._counts.T
        present = predicted + labelled > 0
        precision, recall = _share(right, predicted), _share(found, labelled)
        with np.errstate(invalid="ignore"):
            f1 = np.nan_to_num(2 * precision * recall / (precision + recall))
        return float(f1[present].mean()) if present.any() else float("nan")

    def _count(self, rows, end):
        """Counts rows from self._counted to `end` of `rows`, then keeps what the next ones need."""
        if end > self._counted:
            edges = _edges(rows)
            for number in range(len(self._counts)):
                label, prediction = ((one == number) & edge for one, edge in zip(rows, edges))
                if label.any() or prediction.any():
                    part = slice(self._counted, end)
                    pairs = ((prediction, label), (label, prediction))
                    self._counts[number] += [
                        np.count_nonzero(mask[part]) for one, other in pairs
                        for mask in (one, one & (cv2.dilate(other.view(np.uint8), self._disk) > 0))]
            self._counted = end
        first = max(0, self._counted - self._margin)
        self._held, self._counted = rows[:, first:].copy(), self._counted - first


def _edges(maps):
    """bool like `maps` [maps, rows, width]: pixels with one of four neighbours in another class."""
    edges = np.zeros(maps.shape, bool)
    for axis in (1, 2):
        before = [slice(None)] * 3
        after = before.copy()
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        one, other = maps[tuple(before)], maps[tuple(after)]
        differ = (one != other) & (one != IGNORE) & (other != IGNORE)
        edges[tuple(before)] |= differ
        edges[tuple(after)] |= differ
    return edges


def score_table(matrix, table):
    """DataFrame with a row for each class and a last row 'all', which holds mean-IoU and accuracy.

    An IoU of NaN marks a class absent from both maps; the mean leaves it out.
    """
    scores = pd.DataFrame({
        "IoU": intersection_over_union(matrix), "precision": precision(matrix),
        "recall": recall(matrix), "accuracy": np.nan,
        "label_pixels": matrix.sum(1), "predicted_pixels": matrix.sum(0),
    }, index=pd.Index(table.names, name="class"))
    total = pd.DataFrame({
        "IoU": mean_iou(matrix), "precision": np.nan, "recall": np.nan,
        "accuracy": accuracy(matrix), "label_pixels": matrix.sum(), "predicted_pixels": matrix.sum()
    }, index=pd.Index(["all"], name="class"))
    return pd.concat([scores, total])


def format_scores(scores):
    """The table of `score_table` as text for the screen; mean-IoU and accuracy stand below it."""
    classes, total = scores.iloc[:-1].drop(columns="accuracy"), scores.iloc[-1]
    for column, missing in (("IoU", "absent"), ("precision", "-"), ("recall", "-")):
        classes[column] = [missing if np.isnan(value) else f"{value:.4f}"
                           for value in classes[column]]
    return (f"{classes.to_string()}\nmean-IoU {total['IoU']:.4f}, accuracy "
            f"{total['accuracy']:.4f} ({int(total['label_pixels']):,} pixels)")


def _share(part, whole):
    """part / whole in float64, NaN where whole is 0."""
    with np.errstate(invalid="ignore"):
        return np.asarray(part, np.float64) / np.asarray(whole, np.float64)


def _size(labels):
    return " x ".join(map(str, labels.shape))


def main():
    parser = argparse.ArgumentParser(description="Score a class map against its label.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--label", required=True, metavar="FILE", help="class ids or colours")
    parser.add_argument("--prediction", required=True, metavar="FILE", help="class ids or colours")
    parser.add_argument("--classes", default=DEFAULT_TABLE, metavar="FILE", help="class table")
    parser.add_argument("--csv", default=None, metavar="FILE", help="also save the table here")
    arguments = parser.parse_args()

    table = read_classes(arguments.classes)
    label = read_label(arguments.label, table)
    prediction = read_label(arguments.prediction, table)
    if label.shape != prediction.shape:
        raise ValueError(f"{arguments.prediction}: {_size(prediction)} pixels (height x width), "
                         f"but {arguments.label} has {_size(label)}; give two maps of one scene")
    scores = score_table(confusion_matrix(label, prediction, len(table)), table)
    print(format_scores(scores))
    if arguments.csv:
        write_text(arguments.csv, scores.to_csv())


if __name__ == "__main__":
    run_script(main)
