"""One tile in, one tile out, as TensorFlow ops: a crop, turned and coloured anew in every epoch.

Everything random is a function of a seed alone, so that a resumed run meets the same tiles.
"""

import tensorflow.compat.v1 as tf

from utils.classes import IGNORE
from utils.data.image import MEAN_PIXEL

# Luma of ITU-R BT.601, as in Pillow's conversion to grey.
GREY = (0.299, 0.587, 0.114)
# Folded into the seed, so that these numbers are not those of another use of the same seed.
STREAM = 1
DRAWS = ("row", "column", "scale", "transpose", "flip_vertical", "flip_horizontal",
         "brightness", "contrast", "saturation")


def check_crop(tile_size, crop_size, augmented, scale_range):
    """Raises ValueError where tiles of `tile_size` cannot be cut as the flags say."""
    if crop_size > tile_size:
        raise ValueError(f"--crop_size {crop_size} is larger than the tiles ({tile_size}); choose "
                         "a smaller one, or cut larger tiles with preprocess.py --tile_size")
    if crop_size < tile_size and not augmented:
        raise ValueError(f"--crop_size {crop_size} is smaller than the tiles ({tile_size}), of "
                         "which only --augment_online cuts crops; add it, or leave --crop_size out")
    low, high = scale_range
    if low > high:
        raise ValueError(f"--scale_range {low:g} {high:g}: LOW is above HIGH")
    if (low, high) != (1, 1) and not augmented:
        raise ValueError(f"--scale_range {low:g} {high:g} needs --augment_online")


def augment_online(image, label, seed, crop_size, scale_range=(1, 1), jitter=0.0):
    """A random crop, scaled, turned, mirrored and coloured: one draw of all.

    image: uint8 [height, width, bands]; label: uint8 [height, width]; both of known shape.
    seed: int64 [2], constant or tensor; the result is a function of it and the tile alone.
    crop_size: pixels, at most the tile's sides. scale_range: (low, high), above 0; the factor is
        log-uniform, so that a tile is as often reduced as enlarged by the same ratio. What a
        reduced tile does not cover is the mean pixel in the image and 255 in the label.
    jitter: in [0, 1), see `colour_jitter`; 0 leaves the colours alone. Only RGB has any.
    Gives (image uint8 [crop_size, crop_size, bands], label uint8 [crop_size, crop_size]).
    """
    bands = image.shape[-1]
    seed = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int64), STREAM)
    draw = dict(zip(DRAWS, tf.unstack(tf.random.stateless_uniform([len(DRAWS)], seed))))
    scaled = tuple(scale_range) != (1, 1)
    if scaled:
        low, high = (tf.math.log(float(limit)) for limit in scale_range)
        scale = tf.exp(low + draw["scale"] * (high - low))
        image, label = scale_and_crop(image, label, crop_size, scale, draw["row"], draw["column"])
    else:
        sizes = [crop_size, crop_size]
        image, label = crop(image, label, sizes, draw["row"], draw["column"])
    if jitter and bands == 3:
        image = colour_jitter(image, *(1 + jitter * (2 * draw[name] - 1)
                                       for name in ("brightness", "contrast", "saturation")))
    if scaled:
        image, label = pad(image, label, crop_size, draw["row"], draw["column"])
    image, label = turn(image, label, *(draw[name] < 0.5 for name in (
        "transpose", "flip_vertical", "flip_horizontal")))
    return (tf.ensure_shape(image, [crop_size, crop_size, bands]),
            tf.ensure_shape(label, [crop_size, crop_size]))


def crop(image, label, sizes, row, column):
    """A part of sizes (height, width) at a place that is uniform over all, the last included.

    row, column: float scalars in [0, 1), from which the place is taken.
    """
    row, column = (_place(free, side - size) for free, side, size in zip(
        (row, column), label.shape.as_list(), sizes))
    return (tf.slice(image, [row, column, 0], [*sizes, image.shape[-1]]),
            tf.slice(label, [row, column], sizes))


def scale_and_crop(image, label, size, scale, row, column):
    """What becomes a square of `size` of the tile when it is scaled by the factor `scale` (scalar).

    The image is resampled linearly, the label by its nearest pixel. A side is below `size` where
    all of the scaled tile is: `pad` completes it. row, column: as for `crop`.
    """
    # Cut first, so that no pixel is computed in vain.
    window = tf.maximum(1, tf.cast(tf.round(size / scale), tf.int32))
    sources, targets = [], []
    for side in label.shape.as_list():
        sources.append(tf.minimum(side, window))
        reduced = tf.clip_by_value(tf.cast(tf.round(side * scale), tf.int32), 1, size)
        targets.append(tf.where_v2(window <= side, size, reduced))
    image, label = crop(image, label, sources, row, column)
    image = tf.image.resize_bilinear(image[None], targets, half_pixel_centers=True)[0]
    label = tf.image.resize_nearest_neighbor(label[None, ..., None], targets,
                                             half_pixel_centers=True)[0, ..., 0]
    return _to_uint8(image), label


def pad(image, label, size, row, column):
    """A square of `size`, of the mean pixel and 255 where image and label do not cover it.

    row, column: float scalars in [0, 1), from which the covered part's place is taken.
    """
    free = size - tf.shape(label)
    before = tf.stack([_place(row, free[0]), _place(column, free[1])])
    around = tf.stack([before, free - before], axis=1)
    return (tf.pad(image, tf.concat([around, [[0, 0]]], axis=0), constant_values=MEAN_PIXEL),
            tf.pad(label, around, constant_values=IGNORE))


def colour_jitter(image, brightness, contrast, saturation):
    """Three factors (scalars, 1 changes nothing), applied in this order, rounded once at the end.

    As Pillow's ImageEnhance and torchvision's ColorJitter define them: brightness scales towards
    black, contrast towards the image's mean grey, saturation each pixel towards its own grey.
    image: RGB uint8 [height, width, 3]; gives another.
    """
    pixels = tf.cast(image, tf.float32)
    # A column's sum of integers is exact in float32, and the sum of those in float64, in whatever
    # order threads add them up.
    total = tf.reduce_sum(tf.cast(tf.reduce_sum(pixels, 0), tf.float64), 0)
    mean = tf.cast(total / tf.cast(tf.size(image) // 3, tf.float64), tf.float32)
    # Each is linear, so together they are one matrix and one offset for all pixels.
    offset = (1 - contrast) * brightness * tf.reduce_sum(mean * GREY)
    to_grey = tf.tile(tf.constant(GREY)[:, None], [1, 3])
    matrix = saturation * tf.eye(3) + (1 - saturation) * to_grey
    changed = tf.matmul(tf.reshape(pixels, [-1, 3]), brightness * contrast * matrix) + offset
    return _to_uint8(tf.reshape(changed, tf.shape(image)))


def turn(image, label, transpose, flip_vertical, flip_horizontal):
    """Exchanges rows and columns, then reverses either, where the bool scalars say so.

    The eight combinations are the four quarter turns, each plain and mirrored. Square tiles only.
    """
    tile = image, label
    for drawn, change in ((transpose, _transpose),
                          (flip_vertical, lambda array: tf.reverse(array, [0])),
                          (flip_horizontal, lambda array: tf.reverse(array, [1]))):
        tile = _change_if(drawn, tile, change)
    return tile


def _transpose(array):
    # As float32, since oneDNN cannot transpose uint8 on every processor.
    return tf.cast(tf.transpose(tf.cast(array, tf.float32), [1, 0, 2][:array.shape.rank]), tf.uint8)


def _change_if(drawn, arrays, change):
    return tf.cond(drawn, lambda: tuple(map(change, arrays)), lambda: arrays)


def _place(share, free):
    """One of 0 ... free (int scalars), all equally likely where `share` is uniform in [0, 1)."""
    return tf.cast(share * tf.cast(free + 1, tf.float32), tf.int32)


def _to_uint8(pixels):
    return tf.saturate_cast(tf.round(pixels), tf.uint8)
