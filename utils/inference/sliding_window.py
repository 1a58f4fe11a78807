"""Where windows go over a scene and how they are weighted.

Along either axis the weights of all windows add up to 1 at every pixel (a partition of unity), so
the weighted sum of the windows' probabilities needs no division, and constant probabilities come
out as they went in, at the last pixel of the border too.
"""

import contextlib
import itertools
import math
from dataclasses import dataclass

import numpy as np
from utils.inference.background import in_background

BLENDS = ("cosine", "root_cosine", "uniform", "none")
# One turn a window, four over the windows that cover a pixel at half overlap: see `woven_turns`.
WOVEN = "woven"
ROTATIONS = (1, 2, 4, WOVEN)


@dataclass(frozen=True)
class InferenceOptions:
    """How the map of a scene is put together.

    window: side of the windows, pixels. overlap: share of a window that the next one covers again,
    in [0, 1). blend: one of BLENDS, see `window_weights`. batch_size: windows a call, at most;
    their copies come on top. rotations: one of ROTATIONS; a number, flips and scales are of the
    copies, see `utils.inference.tta`.
    """

    window: int
    overlap: float = 0.5
    blend: str = "cosine"
    batch_size: int = 4
    rotations: int | str = 1
    flips: bool = False
    scales: tuple = (1.0,)


def turned_copies(rotations):
    """How many turned copies of each window are computed."""
    return 1 if rotations == WOVEN else rotations


def window_starts(length, window, overlap):
    """Where windows of `window` pixels begin along an axis of `length` pixels, as a list of int.

    overlap: share of a window that the next one covers again, in [0, 1). The last window is
    shifted inward to end with the axis. An axis shorter than a window has one window, at 0.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"an overlap of {overlap} is not in [0, 1)")
    step = max(1, round(window * (1 - overlap)))
    starts = list(range(0, max(1, length - window), step))
    if starts[-1] + window < length:
        starts.append(length - window)
    return starts


def window_weights(starts, window, blend):
    """float32 [windows, window]: each window's share in its pixels along an axis.

    blend: 'cosine' lets a window fade towards its edges without reaching zero, 'root_cosine' too,
    with the square root of its profile, 'uniform' averages the windows over a pixel, 'none' gives a
    pixel to the first window over it (splicing).
    """
    if blend in ("cosine", "root_cosine"):
        profile = np.sin(np.pi * (np.arange(window) + 0.5) / window)
        if blend == "cosine":
            profile **= 2
    elif blend in ("uniform", "none"):
        profile = np.ones(window)
    else:
        raise ValueError(f"blend {blend!r} is none of {', '.join(BLENDS)}")
    weights = np.tile(profile, (len(starts), 1))
    if blend == "none":
        for i in range(1, len(starts)):
            weights[i, :max(0, starts[i - 1] + window - starts[i])] = 0
    total = np.zeros(starts[-1] + window)
    for start, weight in zip(starts, weights):
        total[start:start + window] += weight
    for start, weight in zip(starts, weights):
        weight /= total[start:start + window]
    return weights.astype(np.float32)


def woven_turns(corners, height, width, options):
    """Quarter turns of the windows at `corners`, int [windows] from 0 to 3, counter-clockwise.

    They alternate along both axes, so any two by two windows side by side have all four.
    """
    row, column = (np.searchsorted(window_starts(length, options.window, options.overlap), starts)
                   for length, starts in zip((height, width), zip(*corners)))
    return row % 2 + 2 * (column % 2)


def turn_windows(windows, quarter_turns):
    """Array [batch, window, window, channels] with the first windows turned counter-clockwise, each
    by its number of quarters; exact. The same numbers negated turn back."""
    turned = windows.copy()
    for window, quarters, result in zip(windows, quarter_turns, turned):
        result[:] = np.rot90(window, quarters)
    return turned


def window_batches(read, height, width, options):
    """Yields (corners, images): [(top, left), ...] and uint8 [batch, window, window, channels].

    read: function (top, left, height, width) -> uint8 [height, width, channels] within the scene of
    `height` x `width` pixels. options: InferenceOptions. Windows come row by row. A scene smaller
    than a window is reflected to its size. Every batch has the same shape, so that a graph is
    optimised once, and is as small as the number of batches allows: the last one is filled up with
    zeros, and `corners` is then shorter than the batch.
    """
    window, overlap = options.window, options.overlap
    rows, columns = min(height, window), min(width, window)
    missing = ((0, window - rows), (0, window - columns), (0, 0))
    tops, lefts = (window_starts(length, window, overlap) for length in (height, width))
    count = len(tops) * len(lefts)
    batch_size = math.ceil(count / math.ceil(count / options.batch_size))
    all_corners = itertools.product(tops, lefts)
    while corners := list(itertools.islice(all_corners, batch_size)):
        images = [read(top, left, rows, columns) for top, left in corners]
        if (rows, columns) != (window, window):
            images = [np.pad(image, missing, mode="symmetric") for image in images]
        images += [np.zeros_like(images[0])] * (batch_size - len(corners))
        yield corners, np.stack(images)


def blend_windows(batches, height, width, options):
    """Yields finished strips (top, probabilities float32 [rows, width, classes]) from the top down.

    batches: pairs (corners, probabilities float32 [batch, window, window, classes]) in the order of
    `window_batches` with the same sizes. Only the rows that windows still to come may touch are
    kept, so memory does not grow with the scene's height.
    """
    window = options.window
    tops = window_starts(height, window, options.overlap)
    lefts = window_starts(width, window, options.overlap)
    row_weights = dict(zip(tops, window_weights(tops, window, options.blend)))
    column_weights = dict(zip(lefts, window_weights(lefts, window, options.blend)))
    open_top, sums = 0, None
    for corners, probabilities in batches:
        for (top, left), values in zip(corners, probabilities):
            if sums is None:
                sums = np.zeros((window, lefts[-1] + window, values.shape[-1]), np.float32)
            if top > open_top:
                done = top - open_top
                yield open_top, sums[:done, :width].copy()
                sums[:-done] = sums[done:].copy()
                sums[-done:] = 0
                open_top = top
            weights = row_weights[top][:, None, None] * column_weights[left][:, None]
            sums[:, left:left + window] += values * weights
    yield open_top, sums[:height - open_top, :width]


def predict_strips(read, height, width, predict, options):
    """Yields (top, probabilities float32 [rows, width, classes]) of a scene, from the top down.

    read: as for `window_batches`. predict: function from uint8 [batch, window, window, channels] to
    probabilities float32 [batch, window, window, classes]. options: InferenceOptions.
    Both are called from threads of their own, a few batches ahead of the strips.
    """
    def predict_turned(corners, images):
        if options.rotations != WOVEN:
            return predict(images)
        quarters = woven_turns(corners, height, width, options)
        return turn_windows(predict(turn_windows(images, quarters)), -quarters)

    with contextlib.closing(in_background(
            window_batches(read, height, width, options))) as batches:
        with contextlib.closing(in_background(
                (corners, predict_turned(corners, images))
                for corners, images in batches)) as predicted:
            yield from blend_windows(predicted, height, width, options)
