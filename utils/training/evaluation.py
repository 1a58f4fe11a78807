"""Scores and pictures of a model in training, on validation tiles and on the held-out scene."""

import numpy as np
import tensorflow.compat.v1 as tf

from utils.classes import colour_map
from utils.metrics import (BoundaryF1, accuracy, confusion_matrix, intersection_over_union,
                           mean_iou)
from utils.inference.visualise import confusion_picture, rgb_of, side_by_side
from utils.data.scenes import encode_png, find_scenes, read_scene
from utils.inference.sliding_window import InferenceOptions, predict_strips
from utils.training.tensorboard import scalar_summary

PICTURES = 4


class Evaluator:
    """Scores the model on validation tiles and, where there is one, on the held-out scene.

    graph: train.py's Graph. tile_set: TileSet. held_out: (image, label) or None.
    window, batch_size: pixels and number of the windows in a call.
    """

    def __init__(self, session, graph, tile_set, held_out, window, batch_size):
        self._predict = lambda images: session.run(graph.probabilities, {graph.evaluated: images})
        self._tile_set, self._held_out = tile_set, held_out
        self._window, self._batch_size = window, batch_size

    def evaluate(self, step, writer):
        """Scores and pictures of this step to TensorBoard (an EventWriter).

        Returns {"mean_iou": the validation tiles', "held_out_mean_iou": the held-out scene's}, each
        None where there are none.
        """
        table = self._tile_set.table
        matrix = evaluate_tiles(self._predict, self._tile_set, self._batch_size)
        values = score_values("validation", matrix, table)
        if len(self._tile_set.validation):
            writer.add_summary(confusion_summary("validation", matrix, table), step)
        if self._held_out:
            image, label = self._held_out
            prediction = map_scene(self._predict, image, self._window, self._batch_size)
            matrix = confusion_matrix(label, prediction, len(table))
            values.update(score_values("held_out", matrix, table))
            values.update(boundary_values("held_out", label, prediction, table))
            writer.add_summary(confusion_summary("held_out", matrix, table), step)
            writer.add_summary(picture_summary(image, label, prediction, table, self._window),
                               step)
        writer.add_summary(scalar_summary(values), step)
        print(f"step {step}: " + ", ".join(
            f"{tag} {value:.4f}" for tag, value in values.items()
            if tag.endswith(("/mean_iou", "/accuracy", "/boundary_f1"))), flush=True)
        return {"mean_iou": values.get("validation/mean_iou"),
                "held_out_mean_iou": values.get("held_out/mean_iou")}


def read_held_out(folder, name, tile_set):
    """(image, label) of the scene that is only watched, or None, and a line, where there is none.

    folder: of the scenes. name: the scene's. tile_set: TileSet of the training.
    """
    if name in set(tile_set.training.get("scene", [])):
        print(f"warning: scene {name} is in the training tiles, so its scores are not those of a "
              "held-out scene; give --test_scene as to preprocess.py")
    try:
        return read_scene(find_scenes(folder)[name], tile_set.table, **tile_set.noted_bands)
    except (FileNotFoundError, KeyError):
        print(f"{folder}: no labelled scene {name}; training without watching it")
        return None


def evaluate_tiles(predict, tile_set, batch_size):
    """Confusion matrix over the validation tiles of the TileSet.

    predict: function from uint8 [batch_size, size, size, channels] to probabilities [..., classes].
    """
    classes = len(tile_set.table)
    matrix = np.zeros((classes, classes), np.int64)
    rows = list(tile_set.validation.itertuples())
    for first in range(0, len(rows), batch_size):
        images, labels = zip(*map(tile_set.read_tile, rows[first:first + batch_size]))
        # One batch shape, so that the graph is optimised once.
        filled = images + (images[0],) * (batch_size - len(images))
        predicted = predict(np.stack(filled))[:len(images)].argmax(-1).astype(np.uint8)
        matrix += confusion_matrix(np.stack(labels), predicted, classes)
    return matrix


def map_scene(predict, image, window, batch_size):
    """Class ids uint8 [height, width] of a scene in one pass of disjoint windows.

    The quick look of training; predict.py blends overlapping windows.
    """
    def read(top, left, height, width):
        return image[top:top + height, left:left + width]

    strips = predict_strips(read, *image.shape[:2], predict, InferenceOptions(
        window, overlap=0, blend="none", batch_size=batch_size))
    return np.concatenate([probabilities.argmax(-1).astype(np.uint8)
                           for _, probabilities in strips])


def score_values(group, matrix, table):
    """The scores of a confusion matrix as TensorBoard tags -> values; absent classes left out."""
    values = {f"{group}/mean_iou": mean_iou(matrix), f"{group}/accuracy": accuracy(matrix)}
    for name, value in zip(table.names, intersection_over_union(matrix)):
        values[f"{group}_iou/{name}"] = value
    return {tag: float(value) for tag, value in values.items() if np.isfinite(value)}


def boundary_values(group, label, prediction, table):
    """The boundary F1 of a whole map as {tag: value}; {} where no class has a boundary."""
    boundary_f1 = BoundaryF1(len(table))
    boundary_f1.add(label, prediction)
    score = boundary_f1.score()
    return {f"{group}/boundary_f1": score} if np.isfinite(score) else {}


def picture_summary(image, label, prediction, table, window):
    """tf.Summary of image | label | prediction at fixed places down the scene's diagonal."""
    values = []
    height, width = label.shape
    for number in range(PICTURES):
        top, left = (round(max(0, side - window) * (number + .5) / PICTURES)
                     for side in (height, width))
        part = slice(top, top + window), slice(left, left + window)
        picture = side_by_side([rgb_of(image[part]), colour_map(label[part], table),
                                colour_map(prediction[part], table)])
        values.append(_picture(f"held_out/row_{top}_column_{left}", picture))
    return tf.Summary(value=values)


def confusion_summary(name, matrix, table):
    """tf.Summary of a confusion matrix as a picture."""
    return tf.Summary(value=[
        _picture(f"confusion_matrix/{name}", confusion_picture(matrix, table))])


def _picture(tag, picture):
    """RGB uint8 [height, width, 3] as a value of a tf.Summary."""
    return tf.Summary.Value(tag=tag, image=tf.Summary.Image(
        height=picture.shape[0], width=picture.shape[1], colorspace=3,
        encoded_image_string=encode_png(picture)))
