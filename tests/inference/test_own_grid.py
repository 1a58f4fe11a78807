"""Strips brought to the scene's own grid, against OpenCV on the whole."""

import cv2
import numpy as np
import pytest

from utils.inference.own_grid import ROWS, on_own_grid


@pytest.mark.parametrize("seen, own", [
    ((50, 70), (100, 140)), ((50, 70), (101, 139)), ((30, 21), (97, 70)), ((200, 150), (103, 75)),
    ((300, 40), (30, 4)), ((1, 1), (7, 5)), ((7, 5), (1, 1)), ((40, 60), (40, 61)),
    ((40, 60), (400, 600))])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_strips_are_the_whole_enlarged_in_parts(seen, own, rows):
    whole = np.random.default_rng(0).random((*seen, 5), np.float32)
    strips = [(top, whole[top:top + rows]) for top in range(0, seen[0], rows)]
    found = list(on_own_grid(strips, seen[0], *own))
    tops = [top for top, _ in found]
    assert tops == [0, *np.cumsum([len(part) for _, part in found])[:-1]]
    assert max(len(part) for _, part in found) <= ROWS
    np.testing.assert_allclose(np.concatenate([part for _, part in found]),
                               cv2.resize(whole, own[::-1], interpolation=cv2.INTER_LINEAR),
                               atol=1e-5)


def test_probabilities_stay_probabilities_and_one_class_keeps_its_axis():
    ones = [(0, np.ones((3, 4, 1), np.float32))]
    [(top, values)] = on_own_grid(ones, 3, 6, 8)
    assert top == 0 and values.shape == (6, 8, 1) and (values == 1).all()


def test_the_scenes_own_strips_are_left_alone():
    strip = (0, np.zeros((300, 4, 2), np.float32))
    assert next(on_own_grid([strip], 300, 300, 4))[1] is strip[1]
