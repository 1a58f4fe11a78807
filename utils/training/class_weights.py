"""Weights of the classes in the loss, by their frequencies."""

import numpy as np

CLASS_WEIGHTS = ("none", "median_frequency", "inverse_log")
# ENet's constant, which keeps its weights between 1 and 50 (arXiv 1606.02147, 5.2).
INVERSE_LOG_OFFSET = 1.02


def class_weights(kind, tile_set):
    """`weights_of` the training tiles of a TileSet; None for 'none'. Raises OSError, ValueError."""
    return None if kind == "none" else weights_of(kind, tile_set.class_pixels)


def weights_of(kind, pixels):
    """float32 [classes]: the weight of each class, by its number of pixels [classes].

    'median_frequency': 1 / frequency (Eigen and Fergus, arXiv 1411.4734, and SegNet, 1511.00561,
    3.2; the median is a factor that all classes share. A frequency here is a share of all pixels;
    theirs is one of the pixels of those images in which the class occurs). 'inverse_log':
    1 / log(1.02 + frequency) (ENet, arXiv 1606.02147, 5.2), between the former and none.

    Scaled so that their mean over all valid pixels is 1; the loss is divided by the sum of its
    pixels' weights, so that a common factor changes nothing. A class without pixels has weight 0.
    Raises ValueError.
    """
    frequency = pixels / pixels.sum()
    occurs = frequency > 0
    weights = np.zeros(len(frequency))
    if kind == "median_frequency":
        weights[occurs] = 1 / frequency[occurs]
    elif kind == "inverse_log":
        weights[occurs] = 1 / np.log(INVERSE_LOG_OFFSET + frequency[occurs])
    else:
        raise ValueError(f"class weights {kind!r} are none of {', '.join(CLASS_WEIGHTS)}")
    return (weights / (frequency * weights).sum()).astype(np.float32)
