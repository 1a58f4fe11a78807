"""Test-time augmentation: probabilities averaged over turned, flipped and scaled copies."""

import tensorflow.compat.v1 as tf


def turn(images, quarter_turns, flip):
    """Tensor [batch, height, width, channels], flipped left to right if `flip`, then turned.

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

    images: uint8 [batch, height, width, channels] of static height and width. probabilities_of:
    function from float32 images in 0..255 of any size to float32 [batch, height, width, classes];
    its variables are shared. rotations: 1, 2 (by 0 and 180 degrees) or 4. Copies of one shape run
    as one batch; those that a quarter turn lays on their side run as another.
    """
    if rotations not in (1, 2, 4):
        raise ValueError(f"{rotations} rotations; there are 1, 2 or 4")
    turns = [(quarters, flip) for quarters in range(0, 4, 4 // rotations)
             for flip in ((False, True) if flips else (False,))]
    height, width = images.shape[1:3].as_list()
    # Before the turns, since oneDNN cannot transpose uint8 on every processor.
    images = tf.cast(images, tf.float32)
    means = []
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
        means.append(mean if scale == 1 else _resize(mean, [height, width]))
    return tf.add_n(means) / len(means)


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
