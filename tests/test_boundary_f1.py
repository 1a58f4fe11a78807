"""utils/boundary_f1.py against its definition, and at its limits."""

import numpy as np
import pytest
import scipy.ndimage

from utils.boundary_f1 import BoundaryF1


def _boundary_f1(label, prediction, num_classes, tolerance):
    """The definition, pixel by pixel and with scipy's distances: an independent formulation."""
    counted = (label != 255) & (prediction != 255)

    def boundary(classes, number):
        edge = np.zeros(classes.shape, bool)
        for y, x in np.argwhere(counted & (classes == number)):
            for row, column in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= row < classes.shape[0] and 0 <= column < classes.shape[1]:
                    edge[y, x] |= counted[row, column] and classes[row, column] != number
        return edge

    def near(edge):
        if not edge.any():
            return np.zeros(edge.shape, bool)
        return scipy.ndimage.distance_transform_edt(~edge) <= tolerance

    scores = []
    for number in range(num_classes):
        truth, found = boundary(label, number), boundary(prediction, number)
        if truth.any() or found.any():
            right = found[near(truth)].sum() / max(1, found.sum())
            caught = truth[near(found)].sum() / max(1, truth.sum())
            scores.append(2 * right * caught / (right + caught) if right + caught else 0)
    return np.mean(scores) if scores else np.nan


def _score_strips(label, prediction, num_classes, heights, tolerance=3):
    score, top = BoundaryF1(num_classes, tolerance), 0
    for height in heights:
        score.add(label[top:top + height], prediction[top:top + height])
        top += height
    assert top >= len(label)
    return score.score()


@pytest.mark.parametrize("tolerance", [1, 3])
@pytest.mark.parametrize("shift", [0, 2, 4])
def test_boundary_f1_is_its_definition_however_the_scene_is_cut(draw_scene, shift, tolerance):
    _, label = draw_scene(83, 120, seed=4)
    prediction = np.roll(label, (shift, shift - 1), (0, 1))
    prediction[30:50, 60:64] = (prediction[30:50, 60:64] + 1) % 5
    prediction[70:75, :30] = 255
    expected = _boundary_f1(label, prediction, 7, tolerance)
    assert .1 < expected < 1
    for heights in ([83], [1] * 83, [2, 3, 40, 1, 37], [80, 3]):
        assert _score_strips(label, prediction, 7, heights, tolerance) == pytest.approx(expected)


def test_boundary_f1_at_its_limits(draw_scene):
    _, label = draw_scene(60, 70)
    assert _score_strips(label, label, 5, [60]) == 1
    flat = np.zeros_like(label)
    assert _score_strips(label, flat, 5, [30, 30]) == 0
    assert np.isnan(_score_strips(flat, flat, 5, [60]))
    ignored = np.full_like(label, 255)
    assert np.isnan(_score_strips(ignored, label, 5, [60]))
    # Off by the tolerance is right, by one more is wrong.
    for shift, expected in ((0, 1), (3, 1), (4, 0)):
        edge, moved = (np.tile(np.arange(40) >= start, (20, 1)).astype(np.uint8)
                       for start in (20, 20 + shift))
        assert _score_strips(edge, moved, 2, [7, 13]) == expected
