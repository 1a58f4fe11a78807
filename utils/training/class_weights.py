"""The class frequencies that preprocess.py wrote: weights of the loss, and the classes' names."""

import os

import numpy as np
import pandas as pd

from utils.classes import IGNORE

CLASS_WEIGHTS = ("none", "median_frequency", "inverse_log")
FREQUENCIES, PIXELS = "class_frequencies.csv", "train_pixels"
# ENet's constant, which keeps its weights between 1 and 50 (arXiv 1606.02147, 5.2).
INVERSE_LOG_OFFSET = 1.02


def read_class_weights(kind, dataset, num_classes):
    """`weights_of` the training tiles in folder `dataset`; None for 'none'.

    Raises OSError, ValueError naming the file where the statistics are missing or not of
    `num_classes` classes.
    """
    if kind == "none":
        return None
    path = os.path.join(dataset, FREQUENCIES)
    again = "run preprocess.py again, or train with --class_weights none"
    try:
        rows = pd.read_csv(path).set_index("id")[PIXELS].drop(IGNORE)
        pixels = rows.to_numpy(float)
    except OSError as error:
        raise OSError(f"{path}: could not be read ({error.strerror}); {again}") from None
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: not the class frequencies of preprocess.py ({error}); "
                         f"{again}") from None
    if rows.index.tolist() != list(range(num_classes)):
        raise ValueError(f"{path}: its classes are not the {num_classes} of --classes; {again}")
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.any()):
        raise ValueError(f"{path}: {PIXELS} are not numbers of pixels, or all are 0; {again}")
    return weights_of(kind, pixels)


def check_classes(dataset, table):
    """Raises ValueError where the tiles in folder `dataset` were cut with other names for the ids
    of the ClassTable `table`; classes that only one of them has may follow."""
    path = os.path.join(dataset, FREQUENCIES)
    try:
        names = pd.read_csv(path, dtype={"name": str}).set_index("id")["name"].drop(IGNORE)
    except (OSError, KeyError, ValueError):  # `read_class_weights` tells where it is needed
        return
    other = [f"{number} is {name}, not {table.names[number]}" for number, name in names.items()
             if number < len(table) and name != table.names[number]]
    if other:
        raise ValueError(f"{path}: the tiles were cut with another class table ({other[0]}); give "
                         "the --classes of preprocess.py, or run that again")


def weights_of(kind, pixels):
    """float32 [classes]: the weight of each class, by its number of pixels [classes].

    'median_frequency': 1 / frequency (SegNet, arXiv 1511.00561, 3.1; its median is a factor that
    all classes share. A frequency here is a share of all pixels; SegNet's is one of the pixels of
    those images in which the class occurs). 'inverse_log': 1 / log(1.02 + frequency) (ENet,
    arXiv 1606.02147, 5.2), between the former and none.

    Scaled so that their mean over all counted pixels is 1, which leaves the loss at its size and
    the learning rate where it was. A class without pixels has weight 0. Raises ValueError.
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
