"""A trained run as a function from windows to probabilities, and from scenes to strips."""

import contextlib
import math

import numpy as np
import tensorflow.compat.v1 as tf

from deeplab_v3 import deeplab_v3
from utils.classes import IGNORE
from utils.data.resampling import covering_window
from utils.inference.own_grid import on_own_grid
from utils.inference.sliding_window import predict_strips, turned_copies
from utils.memory import check_memory
from utils.inference.tta import augmented_probabilities
from utils.training.checkpoints import restore_model


@contextlib.contextmanager
def open_predictors(checkpoint, config, precision, all_options):
    """Gives for each InferenceOptions of `all_options` a function from windows to probabilities.

    They share one session and the weights at `checkpoint`. config: ModelConfig. The functions take
    uint8 [batch, window, window, channels] and return float32 [batch, window, window, classes];
    each call is one Session call. Raises ValueError for weights that do not fit.
    """
    for options in all_options:
        # Its turned and mirrored copies are fed to the network at once, its scales in turn.
        copies = turned_copies(options.rotations) * (1 + options.flips)
        largest = math.ceil(options.window * max(options.scales))
        check_memory(config, options.batch_size * copies, largest, False,
                     "lower --batch_size, --window or --scales")
    with tf.Graph().as_default(), tf.Session() as session:
        predictors = [build_predictor(session, config, precision, options)
                      for options in all_options]
        restore_model(session, checkpoint)
        yield predictors


def build_predictor(session, config, precision, options):
    """One such function, in the session's graph; it may be called once variables have values."""
    images = tf.placeholder(tf.uint8, [None, options.window, options.window, config.in_channels])
    probabilities = augmented_probabilities(images, probabilities_of(config, precision),
                                            turned_copies(options.rotations), options.flips,
                                            options.scales)

    def predict(batch):
        try:
            return session.run(probabilities, {images: batch})
        except tf.errors.ResourceExhaustedError:
            raise MemoryError(f"{len(batch)} windows of {batch.shape[1]} pixels do not fit into "
                              "the device's memory; lower --batch_size or --window") from None
    return predict


def probabilities_of(config, precision):
    """A function from a tensor of images to the model's probabilities; calls share variables."""
    def probabilities_of_images(images):
        return tf.nn.softmax(deeplab_v3(images, config, precision=precision)[0])
    return probabilities_of_images


def predict_classes(image, predict, options):
    """Yields (top, classes, probabilities) of a scene in strips, from the top down.

    image: an open utils.data.image.Image. predict: of `open_predictors`. options:
    InferenceOptions. classes: uint8 [rows, width], 255 where the scene has no data; probabilities:
    float32 [rows, width, classes]. Both are on the scene's own grid, whatever pixel size the model
    sees. Windows wholly without data are not computed.
    """
    seen = options.resample.view(image) if options.resample else image

    def has_data(*window):
        return image.has_data(*covering_window(window, seen, image))

    with contextlib.closing(predict_strips(seen.read, seen.height, seen.width, predict, options,
                                           has_data)) as strips:
        for top, probabilities in on_own_grid(strips, seen.height, image.height, image.width):
            classes = probabilities.argmax(axis=-1).astype(np.uint8)
            classes[~image.has_data(top, 0, *classes.shape)] = IGNORE
            yield top, classes, probabilities
