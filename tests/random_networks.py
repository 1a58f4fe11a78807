"""What tests of a backbone fill it with and compare by."""

import numpy as np


def random_weights(shapes, seed=0, symmetric=False):
    """Name -> float32 value: weights that keep the scale, and statistics far from 0 and 1.

    `symmetric` averages every kernel over the 8 turns and flips of the square.
    """
    random = np.random.default_rng(seed)
    values = {}
    for name, shape in shapes.items():
        kind = name.split("/")[-1].split(":")[0]
        if kind.endswith(("weights", "kernel")):
            # Of a depthwise kernel each channel sees its own nine taps only.
            fan_in = 9 if kind == "depthwise_weights" else np.prod(shape[:3])
            value = random.normal(0, (2 / fan_in) ** 0.5, shape)
            if symmetric and shape[0] > 1:
                flips = [value, value[::-1]]
                turns = [np.rot90(flip, turn) for flip in flips for turn in range(4)]
                value = np.mean(turns, axis=0) * 8 ** 0.5
        elif kind in ("gamma", "moving_variance"):
            value = random.uniform(0.5, 1.5, shape)
        else:
            value = random.normal(0, 0.3, shape)
        values[name] = value.astype(np.float32)
    return values


def random_images(*shape, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def relative_error(values, reference):
    assert values.shape == reference.shape
    return np.abs(values - reference).max() / np.abs(reference).max()
