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

BLENDS = ("cosine", "root_cosine", "tukey", "uniform", "none")
TUKEY = 0.25  # share of a window over which it fades, half of it at either edge
# One turn a window, four over the windows that cover a pixel at half overlap: see `axis_places`.
WOVEN = "woven"
ROTATIONS = (1, 2, 4, WOVEN)


@dataclass(frozen=True)
class InferenceOptions:
    """How the map of a scene is put together.

    window: side of the windows, pixels. overlap: share of a window that the next one covers again,
    in [0, 1). blend: one of BLENDS, see `window_weights`. batch_size: windows a call, at most;
    their copies come on top. rotations: one of ROTATIONS; a number, flips and scales are of the
    copies, see `utils.inference.tta`. resample: the utils.data.pixel_size.Resample at which the
    model sees the scene, None for its own pixels.
    """

    window: int
    overlap: float = 0.5
    blend: str = "cosine"
    batch_size: int = 4
    rotations: int | str = 1
    flips: bool = False
    scales: tuple = (1.0,)
    resample: tuple = None


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
    with the square root of its profile; 'tukey' (the tapered cosine window, Harris 1978) fades like
    'cosine', but only over the outer TUKEY / 2 at either edge; 'uniform' averages the windows over
    a pixel; 'none' gives a pixel to the first window over it (splicing).
    """
    if blend in ("cosine", "root_cosine", "tukey"):
        place = (np.arange(window) + 0.5) / window
        if blend == "tukey":
            place = np.minimum(np.minimum(place, 1 - place) / TUKEY, 0.5)
        profile = np.sin(np.pi * place) ** (1 if blend == "root_cosine" else 2)
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


def axis_places(length, options):
    """(start, parity) of the windows along an axis: a window's quarter turns are its parity down
    the rows and twice its parity along the columns.

    Parities of woven turns alternate, so that any two by two windows side by side have all four. At
    either end of the axis there are two windows in one place, so that the scene's edge, which only
    one row of windows covers, has all four turns too, and so has a scene of one window.
    """
    starts = window_starts(length, options.window, options.overlap)
    if options.rotations != WOVEN:
        return [(start, 0) for start in starts]
    return [(start, i % 2) for i, start in enumerate([0, *starts, *starts[1:][-1:]])]


def axis_weights(places, window, blend):
    """{place: its `window_weights`} of `axis_places`; windows in one place share the weights."""
    starts, windows = np.unique([start for start, _ in places], return_counts=True)
    weights = window_weights(starts, window, blend) / windows[:, None].astype(np.float32)
    return {place: weights[np.searchsorted(starts, place[0])] for place in places}


def window_batches(read, height, width, options, has_data=None):
    """Yields (places, images): [(top, left, quarter turns), ...], counter-clockwise, and uint8
    [batch, window, window, channels].

    read: function (top, left, height, width) -> uint8 [height, width, channels] within the scene of
    `height` x `width` pixels. options: InferenceOptions. Windows come row by row, turned. A
    scene smaller than a window is reflected to its size. Every batch has the same shape, so that a
    graph is optimised once, and is as small as the number of batches allows: the last one is filled
    up with zeros, and `places` is then shorter than the batch. has_data: None, or a function as
    `read` that gives bool [height, width]: windows where it is False throughout are left out (but
    for the first one where that is so in all).
    """
    window = options.window
    rows, columns = min(height, window), min(width, window)
    missing = ((0, window - rows), (0, window - columns), (0, 0))
    vertical, horizontal = (axis_places(length, options) for length in (height, width))
    count = len(vertical) * len(horizontal)
    batch_size = math.ceil(count / math.ceil(count / options.batch_size))
    all_places = ((top, left, row + 2 * column) for top, row in vertical
                  for left, column in horizontal)
    if has_data:
        some = (place for place in all_places if has_data(*place[:2], rows, columns).any())
        all_places = itertools.chain([next(some, (0, 0, 0))], some)
    while places := list(itertools.islice(all_places, batch_size)):
        images = [read(top, left, rows, columns) for top, left, _ in places]
        if (rows, columns) != (window, window):
            images = [np.pad(image, missing, mode="symmetric") for image in images]
        images = [np.rot90(image, turns) for image, (_, _, turns) in zip(images, places)]
        images += [np.zeros_like(images[0])] * (batch_size - len(places))
        yield places, np.stack(images)


def blend_windows(batches, height, width, options):
    """Yields finished strips (top, probabilities float32 [rows, width, classes]) from the top down.

    batches: pairs (places, probabilities float32 [batch, window, window, classes]) in the order of
    `window_batches` with the same sizes; they are turned back. Only the rows that windows still to
    come may touch are kept, so memory does not grow with the scene's height. Where no window was,
    there are zeros.
    """
    window = options.window
    vertical, horizontal = (axis_places(length, options) for length in (height, width))
    row_weights, column_weights = (axis_weights(places, window, options.blend)
                                   for places in (vertical, horizontal))
    right = horizontal[-1][0] + window
    open_top, sums = 0, None
    for places, probabilities in batches:
        for (top, left, turns), values in zip(places, probabilities):
            if sums is None:
                sums = np.zeros((window, right, values.shape[-1]), np.float32)
            while top > open_top:
                done = min(top - open_top, window)
                yield open_top, sums[:done, :width].copy()
                sums[:-done] = sums[done:].copy()
                sums[-done:] = 0
                open_top += done
            weights = (row_weights[top, turns % 2][:, None, None]
                       * column_weights[left, turns // 2][:, None])
            sums[:, left:left + window] += np.rot90(values, -turns) * weights
    while open_top < height:
        yield open_top, sums[:height - open_top, :width]
        sums, open_top = np.zeros_like(sums), open_top + window


def predict_strips(read, height, width, predict, options, has_data=None):
    """Yields (top, probabilities float32 [rows, width, classes]) of a scene, from the top down.

    read, has_data: as for `window_batches`. predict: function from uint8 [batch, window, window,
    channels] to probabilities float32 [batch, window, window, classes]. options: InferenceOptions.
    Both are called from threads of their own, a few batches ahead of the strips.
    """
    with contextlib.closing(in_background(
            window_batches(read, height, width, options, has_data))) as batches:
        with contextlib.closing(in_background(
                (corners, predict(images)) for corners, images in batches)) as predicted:
            yield from blend_windows(predicted, height, width, options)
