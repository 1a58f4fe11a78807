"""Where windows go over a scene, how they are weighted, and test-time augmentation.

Along either axis the weights of all windows add up to 1 at every pixel (a partition of unity), so
the weighted sum of the windows' probabilities needs no division, and constant probabilities come
out as they went in, at the last pixel of the border too.
"""

import contextlib
import itertools

import numpy as np
import tensorflow.compat.v1 as tf

from utils.inference.background import in_background

BLENDS = ("cosine", "uniform", "none")


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

    blend: 'cosine' lets a window fade towards its edges without reaching zero, 'uniform' averages
    the windows over a pixel, 'none' gives a pixel to the first window over it (splicing).
    """
    if blend == "cosine":
        profile = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2
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


def window_batches(read, height, width, window, overlap, batch_size):
    """Yields (corners, images): [(top, left), ...] and uint8 [batch_size, *window, bands].

    read: function (top, left, height, width) -> uint8 [height, width, bands] within the scene of
    `height` x `width` pixels. Windows come row by row. A scene smaller than a window is reflected
    to its size. Every batch has the same shape, so that a graph is optimised once: the last one is
    filled up with zeros, and `corners` is then shorter than the batch.
    """
    rows, columns = min(height, window[0]), min(width, window[1])
    missing = ((0, window[0] - rows), (0, window[1] - columns), (0, 0))
    all_corners = itertools.product(window_starts(height, window[0], overlap),
                                    window_starts(width, window[1], overlap))
    while corners := list(itertools.islice(all_corners, batch_size)):
        images = [read(top, left, rows, columns) for top, left in corners]
        if (rows, columns) != tuple(window):
            images = [np.pad(image, missing, mode="symmetric") for image in images]
        images += [np.zeros_like(images[0])] * (batch_size - len(corners))
        yield corners, np.stack(images)


def blend_windows(batches, height, width, window, overlap, blend="cosine"):
    """Yields finished bands (top, probabilities float32 [rows, width, classes]), from the top down.

    batches: pairs (corners, probabilities float32 [batch, *window, classes]) in the order of
    `window_batches` with the same sizes. Only the rows that windows still to come may touch are
    kept, so memory does not grow with the scene's height.
    """
    tops = window_starts(height, window[0], overlap)
    lefts = window_starts(width, window[1], overlap)
    row_weights = dict(zip(tops, window_weights(tops, window[0], blend)))
    column_weights = dict(zip(lefts, window_weights(lefts, window[1], blend)))
    open_top, sums = 0, None
    for corners, probabilities in batches:
        for (top, left), values in zip(corners, probabilities):
            if sums is None:
                sums = np.zeros((window[0], lefts[-1] + window[1], values.shape[-1]), np.float32)
            if top > open_top:
                done = top - open_top
                yield open_top, sums[:done, :width].copy()
                sums[:-done] = sums[done:].copy()
                sums[-done:] = 0
                open_top = top
            weights = row_weights[top][:, None, None] * column_weights[left][:, None]
            sums[:, left:left + window[1]] += values * weights
    yield open_top, sums[:height - open_top, :width]


def predict_bands(read, height, width, predict, window, overlap=0.5, batch_size=4, blend="cosine"):
    """Yields (top, probabilities float32 [rows, width, classes]) of a scene, from the top down.

    read: as for `window_batches`. predict: function from uint8 [batch_size, *window, bands] to
    probabilities float32 [batch_size, *window, classes]. window: (height, width) in pixels.
    Both are called from threads of their own, a few batches ahead of the bands.
    """
    with contextlib.closing(in_background(window_batches(
            read, height, width, window, overlap, batch_size))) as batches:
        with contextlib.closing(in_background(
                (corners, predict(images)) for corners, images in batches)) as predicted:
            yield from blend_windows(predicted, height, width, window, overlap, blend)


def turn(images, quarter_turns, flip):
    """Tensor [batch, height, width, bands], flipped left to right if `flip`, then turned.

    quarter_turns: how often it is turned by 90 degrees, counter-clockwise as in np.rot90. Exact:
    pixels only change places.
    """
    if flip:
        images = tf.reverse(images, [2])
    if quarter_turns % 2:
        images = tf.transpose(images, [0, 2, 1, 3])
    reversed_axes = {0: [], 1: [1], 2: [1, 2], 3: [2]}[quarter_turns % 4]
    return tf.reverse(images, reversed_axes) if reversed_axes else images


def turn_back(images, quarter_turns, flip):
    """The inverse of `turn` with the same arguments."""
    images = turn(images, -quarter_turns, False)
    return tf.reverse(images, [2]) if flip else images


def augmented_probabilities(images, probabilities_of, rotations=1, flips=False, scales=(1.0,)):
    """Probabilities of images, averaged over turned, flipped and scaled copies, in one graph.

    images: uint8 [batch, height, width, 3] of static height and width. probabilities_of: function
    from float32 images in 0..255 of any size to float32 [batch, height, width, classes]; its
    variables are shared. rotations: 1, 2 (by 0 and 180 degrees) or 4. Copies of one shape run as
    one batch; those that a quarter turn lays on their side run as another.
    """
    if rotations not in (1, 2, 4):
        raise ValueError(f"{rotations} rotations; there are 1, 2 or 4")
    turns = [(quarters, flip) for quarters in range(0, 4, 4 // rotations)
             for flip in ((False, True) if flips else (False,))]
    height, width = images.shape[1:3].as_list()
    # Before the turns, since oneDNN cannot transpose uint8 on every processor.
    images = tf.cast(images, tf.float32)
    total = []
    for scale in scales:
        scaled = images
        if scale != 1:
            size = [max(1, round(height * scale)), max(1, round(width * scale))]
            scaled = _resize(images, size)
        square = scaled.shape[1] == scaled.shape[2]
        groups = [turns] if square else [[t for t in turns if t[0] % 2 == odd] for odd in (0, 1)]
        copies = []
        for group in filter(None, groups):
            copies += _turned_probabilities(scaled, probabilities_of, group)
        # All copies of a scale are averaged before the one resize, which is linear.
        mean = tf.add_n(copies) / len(copies)
        total.append(mean if scale == 1 else _resize(mean, [height, width]))
    return tf.add_n(total) / len(total)


def _turned_probabilities(images, probabilities_of, turns):
    """One run over all `turns` of images, each turned back: a list of tensors like `images`."""
    batch = tf.concat([turn(images, *one) for one in turns], axis=0)
    with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
        probabilities = probabilities_of(batch)
    return [turn_back(part, *one)
            for part, one in zip(tf.split(probabilities, len(turns)), turns)]


def _resize(images, size):
    """Bilinear with pixels taken as areas (half-pixel centres), so nothing shifts."""
    return tf.image.resize_bilinear(images, size, half_pixel_centers=True)
