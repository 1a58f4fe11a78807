"""Scores and pictures of a model in training, on validation tiles and on the held-out scene."""

import numpy as np
import tensorflow.compat.v1 as tf

from utils.classes import colour_map
from utils.metrics import accuracy, confusion_matrix, intersection_over_union, mean_iou
from utils.pictures import rgb_of, side_by_side
from utils.scenes import encode_png
from utils.sliding_window import predict_bands
from utils.tiles import read_tile

PICTURES = 4


def write_evaluation(session, model, writer, step, table, validation, held_out, tile_size,
                     batch_size):
    """Scores and pictures of this step to TensorBoard; returns the validation tiles' mean-IoU.

    Without validation tiles it returns 0, so that the newest always counts as the best.
    """
    def predict(images):
        return session.run(model["probabilities"], {model["evaluated"]: images})

    matrix = evaluate_tiles(predict, validation, table, batch_size)
    values = score_values("validation", matrix, table)
    score = values.get("validation/mean_iou", 0.0)
    if held_out:
        image, label = held_out
        prediction = map_scene(predict, image, tile_size, batch_size)
        values.update(score_values(
            "held_out", confusion_matrix(label, prediction, len(table)), table))
        writer.add_summary(picture_summary(image, label, prediction, table, tile_size), step)
    writer.add_summary(scalar_summary(values), step)
    writer.flush()
    print(f"step {step}: " + ", ".join(f"{tag} {value:.4f}" for tag, value in values.items()
                                       if tag.endswith(("/mean_iou", "/accuracy"))), flush=True)
    return score


def evaluate_tiles(predict, validation, table, batch_size):
    """Confusion matrix over the tiles of the list `validation`.

    predict: function from uint8 [batch_size, size, size, bands] to probabilities [..., classes].
    """
    matrix = np.zeros((len(table), len(table)), np.int64)
    rows, shape = list(validation.itertuples()), None
    for first in range(0, len(rows), batch_size):
        images, labels = zip(*(read_tile(row, table, shape)
                               for row in rows[first:first + batch_size]))
        shape = images[0].shape
        # One batch shape, so that the graph is optimised once.
        filled = images + (images[0],) * (batch_size - len(images))
        predicted = predict(np.stack(filled))[:len(images)].argmax(-1).astype(np.uint8)
        matrix += confusion_matrix(np.stack(labels), predicted, len(table))
    return matrix


def map_scene(predict, image, window, batch_size):
    """Class ids uint8 [height, width] of a scene in one pass of disjoint windows.

    The quick look of training; predict.py blends overlapping windows.
    """
    def read(top, left, height, width):
        return image[top:top + height, left:left + width]

    bands = predict_bands(read, *image.shape[:2], predict, (window, window), overlap=0,
                          batch_size=batch_size, blend="none")
    return np.concatenate([probabilities.argmax(-1).astype(np.uint8) for _, probabilities in bands])


def score_values(group, matrix, table):
    """The scores of a confusion matrix as TensorBoard tags -> values; absent classes left out."""
    values = {f"{group}/mean_iou": mean_iou(matrix), f"{group}/accuracy": accuracy(matrix)}
    for name, value in zip(table.names, intersection_over_union(matrix)):
        values[f"{group}_iou/{name}"] = value
    return {tag: float(value) for tag, value in values.items() if np.isfinite(value)}


def scalar_summary(values):
    """tf.Summary of tags -> float values."""
    return tf.Summary(value=[tf.Summary.Value(tag=tag, simple_value=float(value))
                             for tag, value in values.items()])


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
        values.append(tf.Summary.Value(
            tag=f"held_out/row_{top}_column_{left}", image=tf.Summary.Image(
                height=picture.shape[0], width=picture.shape[1], colorspace=3,
                encoded_image_string=encode_png(picture))))
    return tf.Summary(value=values)
