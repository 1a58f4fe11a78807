"""How well the boundaries of a class map agree with its label's."""

import cv2
import numpy as np

from utils.classes import IGNORE
from utils.metrics import share_of

# Distance in pixels up to which two boundaries agree.
BOUNDARY_TOLERANCE = 3


class BoundaryF1:
    """F1 of the classes' boundaries, added up from the top of a scene down, strip by strip.

    After Csurka et al., 'What is a good evaluation measure for semantic segmentation?', BMVC 2013:
    for each class, precision is the share of the prediction's boundary pixels that lie within
    `tolerance` pixels (Euclidean) of a boundary pixel of the label, recall the share of the label's
    within that distance of the prediction's; F1 is their harmonic mean, and the score its mean over
    the classes that have a boundary in either map. A boundary pixel of a class has one of its four
    neighbours in another class. Pixels that are 255 in either map are taken out of both: they
    neither have nor make a boundary. Strips are of any height: the rows that they share are carried
    over, so their score is exactly the scene's. Counts of several scenes add up to those of all.
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

    def counts(self):
        """int64 [classes, 4] once all rows are added, for `boundary_f1`."""
        if self._held is not None:
            self._count(self._held, self._held.shape[1])
        return self._counts

    def score(self):
        """The mean F1 once all rows are added; NaN where no class has a boundary."""
        return boundary_f1(self.counts())

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


def boundary_f1(counts):
    """The mean F1 of `BoundaryF1.counts`, of a scene or summed over scenes."""
    predicted, right, labelled, found = counts.T
    present = predicted + labelled > 0
    precision, recall = share_of(right, predicted), share_of(found, labelled)
    with np.errstate(invalid="ignore"):
        f1 = np.nan_to_num(2 * precision * recall / (precision + recall))
    return float(f1[present].mean()) if present.any() else float("nan")


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
