"""A trained run as a function from windows to probabilities, from scenes to bands of classes, and
as a SavedModel."""

import contextlib
import os
import shutil
from dataclasses import dataclass

import numpy as np
import tensorflow.compat.v1 as tf

from deeplab_v3 import deeplab_v3
from utils.classes import IGNORE
from utils.files import replacing
from utils.training.checkpoints import error_reason, restore_model
from utils.inference.sliding_window import augmented_probabilities, predict_bands

@dataclass(frozen=True)
class Method:
    """How a scene's probabilities are put together; the terms are those of utils.inference.sliding_window."""

    name: str
    overlap: float
    blend: str
    rotations: int
    flips: bool
    scales: tuple


def build_predictors(session, config, window, precision, methods):
    """For each method a function from uint8 windows to probabilities; they share one model.

    config: ModelConfig. The functions take [batch, window, window, channels] and return
    float32 [batch, window, window, classes]; each call is one Session call. They may be called
    once the variables have their values.
    """
    images = tf.placeholder(tf.uint8, [None, window, window, config.in_channels], "images")
    return [_predictor(session, images, augmented_probabilities(
        images, _probabilities_of(config, precision), method.rotations, method.flips,
        method.scales)) for method in methods]


def predict_classes(image, predict, window, batch_size, method):
    """Yields (top, classes, probabilities) of a scene from the top down.

    image: an open utils.data.rasters.Image. predict: of `build_predictors`. classes: uint8 [rows,
    width], 255 where the scene has no data; probabilities: float32 [rows, width, classes].
    """
    with contextlib.closing(predict_bands(
            image.read, image.height, image.width, predict, (window, window), method.overlap,
            batch_size, method.blend)) as bands:
        for top, probabilities in bands:
            classes = probabilities.argmax(axis=-1).astype(np.uint8)
            classes[~image.has_data(top, 0, *classes.shape)] = IGNORE
            yield top, classes, probabilities


def export_model(folder, checkpoint, settings, precision):
    """Writes the run's model as a SavedModel to `folder`, which must not exist or be empty.

    Its signature serving_default takes `images`, uint8 [batch, height, width, bands] of any size,
    RGB unless the run was trained on other bands, and gives `probabilities`, float32 [batch,
    height, width, classes]. The run's settings lie beside it: the class table, and where the tiles
    were cut with --bands the scenes' band numbers in the order of the last axis (`bands`) and, for
    samples of other than 8 bits, the limits that became 0 and 255 (`stretch`). Raises OSError and
    ValueError.
    """
    folder = os.path.normpath(folder)
    if os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise ValueError(f"{folder}: there is something already; export to a new folder")
    with tf.Graph().as_default(), tf.Session() as session:
        images = tf.placeholder(tf.uint8, [None, None, None, settings.model.in_channels], "images")
        probabilities = _probabilities_of(settings.model, precision)(images)
        restore_model(session, checkpoint)
        with replacing(folder) as temporary:
            try:
                tf.saved_model.simple_save(session, temporary, {"images": images},
                                           {"probabilities": probabilities})
                settings.write(temporary)
            except BaseException as error:
                shutil.rmtree(temporary, ignore_errors=True)
                if not isinstance(error, tf.errors.OpError):
                    raise
                raise OSError(f"{folder}: the model could not be written "
                              f"({error_reason(error)}); free some space or choose another folder"
                              ) from None


def _probabilities_of(config, precision):
    def probabilities_of(images):
        return tf.nn.softmax(deeplab_v3(images, config, precision=precision)[0])
    return probabilities_of


def _predictor(session, images, probabilities):
    def predict(batch):
        try:
            return session.run(probabilities, {images: batch})
        except tf.errors.ResourceExhaustedError:
            raise MemoryError(f"{len(batch)} windows of {batch.shape[1]} pixels do not fit into "
                              "the device's memory; lower --batch_size or --window") from None
    return predict
