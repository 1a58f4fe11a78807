"""Strips of probabilities brought from the grid that the model saw to the scene's own."""

import math

import cv2
import numpy as np

# Rows of the scene that are made at a time.
ROWS = 128


def on_own_grid(strips, seen_height, height, width):
    """Yields (top, probabilities float32 [rows, width, classes]) of a scene of `height` x `width`
    pixels from those of a grid of `seen_height` rows over the same ground, bilinear between the
    middles of its pixels.

    strips: pairs (top, probabilities) from the top down, of any number of rows. One strip and a row
    are held, and at most ROWS of the scene are made at a time.
    """
    scale, done, held = seen_height / height, 0, None
    for top, probabilities in strips:
        if probabilities.shape[1] == width and seen_height == height:
            yield top, probabilities
            continue
        held = probabilities if held is None else np.concatenate([held[-1:], probabilities])
        bottom = top + len(probabilities)
        first, last = bottom - len(held), bottom - 1
        # The rows whose middle is not below that of the last row seen.
        end = height if bottom == seen_height else math.floor((last + .5) / scale - .5) + 1
        for start in range(done, end, ROWS):
            rows = np.arange(start, min(start + ROWS, end))
            middles = np.clip((rows + .5) * scale - .5, first, last)
            above = middles.astype(int)
            share = (middles - above).astype(np.float32)[:, None, None]
            below = np.minimum(above + 1, last)
            values = held[above - first] * (1 - share) + held[below - first] * share
            values = cv2.resize(values, (width, len(rows)), interpolation=cv2.INTER_LINEAR)
            yield start, values.reshape(len(rows), width, -1)
        done = max(done, end)
