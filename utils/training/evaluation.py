"""Scores and pictures of a model in training, on validation tiles and on the held-out scene."""

import itertools
import os
import typing
from collections import Counter

import numpy as np
import tensorflow.compat.v1 as tf

from utils.boundary_f1 import BoundaryF1, boundary_f1
from utils.classes import colour_map
from utils.metrics import accuracy, confusion_matrix, intersection_over_union, mean_iou
from utils.inference.visualise import confusion_picture, rgb_of, side_by_side
from utils.cli import TEST_SCENE
from utils.data.polygons import open_area, open_label
from utils.data.image import Image
from utils.data.rasters import RGB
from utils.data.scene_table import matching_names, named
from utils.data.scenes import encode_png, find_scenes, read_scene
from utils.data.tiles import SCENES
from utils.inference.sliding_window import InferenceOptions, predict_strips, window_starts
from utils.training.tensorboard import scalar_summary

PICTURES = 4


class EvaluationStopped(Exception):
    """An evaluation was asked to stop before its end."""


class Evaluator:
    """Scores the model on validation tiles and, where there are some, on the held-out scenes.

    graph: train.py's Graph. tile_set: TileSet, also an attribute. held_out: HeldOut. window,
    batch_size: pixels and number of the windows in a call.
    """

    def __init__(self, session, graph, tile_set, held_out, window, batch_size):
        self._predict = lambda images: session.run(graph.probabilities, {graph.evaluated: images})
        self.tile_set, self._held_out = tile_set, held_out
        self._window, self._batch_size = window, batch_size

    def evaluate(self, step, writer, asked):
        """Scores and pictures of this step to TensorBoard (an EventWriter).

        asked: threading.Event, looked at between windows; raises EvaluationStopped once it is set.
        Returns {"mean_iou": the validation tiles', "held_out_mean_iou": the held-out scenes'}, each
        None where there are none.
        """
        def predict(images):
            if asked.is_set():
                raise EvaluationStopped
            return self._predict(images)

        table = self.tile_set.table
        matrix = evaluate_tiles(predict, self.tile_set, self._batch_size)
        values = score_values("validation", matrix, table)
        if len(self.tile_set.validation):
            writer.add_summary(confusion_summary("validation", matrix, table), step)
        if self._held_out.parts:
            parts = [(*part, prediction) for part, prediction in
                     zip(self._held_out.parts, self._predict_held_out(predict))]
            matrix = sum(confusion_matrix(label, prediction, len(table))
                         for _, label, prediction in parts)
            values.update(score_values("held_out", matrix, table))
            values.update(boundary_values("held_out", [part[1:] for part in parts], table))
            writer.add_summary(confusion_summary("held_out", matrix, table), step)
            writer.add_summary(picture_summary(parts, table, self._window), step)
        writer.add_summary(scalar_summary(values), step)
        print(f"step {step}: " + ", ".join(
            f"{tag} {value:.4f}" for tag, value in values.items()
            if tag.endswith(("/mean_iou", "/accuracy", "/boundary_f1"))), flush=True)
        return {"mean_iou": values.get("validation/mean_iou"),
                "held_out_mean_iou": values.get("held_out/mean_iou")}

    def _predict_held_out(self, predict):
        """Class ids uint8 [height, width] of each part of the held-out scenes."""
        if self._held_out.whole:
            return [map_scene(predict, image, self._window, self._batch_size)
                    for image, _ in self._held_out.parts]
        # Windows fill batches; those of scenes that are smaller are padded with their reflection.
        images = [np.pad(image, [(0, self._window - side) for side in image.shape[:2]] + [(0, 0)],
                         mode="symmetric") for image, _ in self._held_out.parts]
        predictions = []
        for first in range(0, len(images), self._batch_size):
            part = images[first:first + self._batch_size]
            filled = part + [part[0]] * (self._batch_size - len(part))
            predictions += list(predict(np.stack(filled))[:len(part)].argmax(-1).astype(
                np.uint8))
        return [prediction[:label.shape[0], :label.shape[1]]
                for prediction, (_, label) in zip(predictions, self._held_out.parts)]


class HeldOut(typing.NamedTuple):
    """The held-out scenes, or a sample of windows of them.

    names: of the scenes. parts: (image, label) each. whole: whether the parts are the scenes.
    """

    names: list
    parts: list
    whole: bool


def read_held_out(args, tile_set, window, batch_size):
    """The HeldOut that train.py's flags and the TileSet name; told in a line where there is none,
    or where only a sample of windows of `window` pixels is watched.

    batch_size: windows in a call, those of a step of one device. The sample is fixed by --seed. An
    evaluation makes a call for every five steps, which takes less than a tenth of their time as
    long as a forward pass takes less than half of a step; but one call is always made.
    """
    names, source = args.test_scene, args.origin or os.path.join(args.dataset, "origin")
    noted = {} if args.origin else {scene.name: scene for scene in tile_set.held_out}
    if noted and names == [TEST_SCENE]:
        names = [*noted]
    try:
        if noted and set(matching_names(names, noted)) <= set(noted):
            source, found = os.path.join(args.dataset, SCENES), noted
        else:
            found = find_scenes(source)
        names = matching_names(names, found)
        scenes = [scene for scene in (found[name] for name in names)
                  if scene.label_path and os.path.exists(scene.image_path)]
        if not scenes:
            raise KeyError
    except (FileNotFoundError, KeyError):
        print(f"{source}: no labelled {named(names)}; training without watching it")
        return HeldOut(names, [], True)
    both = set(names) & set(tile_set.training.get("scene", []))
    if both:
        print(f"warning: {named(sorted(both))}: in the training tiles, so its scores are not those "
              "of a held-out scene; give --test_scene as to preprocess.py")
    calls = max(1, args.test_display // 5)
    parts, whole = _watched(scenes, tile_set, window, (calls, batch_size), args.seed)
    return HeldOut(names, parts, whole)


def _watched(scenes, tile_set, window, cost, seed):
    """(parts, whole) of a HeldOut: the scenes whole where `calls` calls of `batch_size` windows are
    enough for them, else windows for so many calls, of those that the area of interest meets.
    cost: (calls, batch_size)."""
    calls, batch_size = cost
    most = calls * batch_size
    bands, stretch, resample = (tile_set.noted_bands.get(name)
                                for name in ("bands", "stretch", "resample"))
    options, corners, inside = tile_set.label_options, [], []
    for number, scene in enumerate(scenes):
        with Image(scene.image_path, bands or RGB, stretch) as image:
            image = resample.view(image) if resample else image
            area = open_area(image, options)
            own = [(number, top, left) for top in window_starts(image.height, window, 0)
                   for left in window_starts(image.width, window, 0)]
            corners += own
            inside += [corner for corner in own
                       if area is None or area.has_data(*corner[1:], window, window).any()]
    # A scene that is mapped whole fills its last call up.
    if sum(-(-count // batch_size) for count in Counter(n for n, *_ in corners).values()) <= calls:
        return [read_scene(scene, tile_set.table, bands, stretch, options, resample)
                for scene in scenes], True
    if most < len(inside):
        print(f"watching {most:,} of the {len(inside):,} windows of the held-out scenes")
    most = min(most, len(inside))
    chosen = np.sort(np.random.default_rng(seed).choice(len(inside), most, replace=False))
    parts = []
    for number, own in itertools.groupby((inside[index] for index in chosen), lambda c: c[0]):
        scene = scenes[number]
        with (Image(scene.image_path, bands or RGB, stretch) as image,
              open_label(scene, image, tile_set.table, options, resample) as label):
            image = resample.view(image) if resample else image
            size = min(window, image.height), min(window, image.width)
            parts += [(image.read(top, left, *size), label.read(top, left, *size))
                      for _, top, left in own]
    return parts, False


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


def boundary_values(group, maps, table):
    """The boundary F1 of maps (label, prediction), their counts added up, as {tag: value}; {} where
    no class has a boundary."""
    counts = 0
    for label, prediction in maps:
        one = BoundaryF1(len(table))
        one.add(label, prediction)
        counts += one.counts()
    score = boundary_f1(counts)
    return {f"{group}/boundary_f1": score} if np.isfinite(score) else {}


def picture_summary(parts, table, window):
    """tf.Summary of image | label | prediction at fixed places: down the diagonals of `parts`, a
    list of such three each, or of some of them where they are many."""
    values = []
    for number in range(PICTURES):
        index = number * len(parts) // PICTURES
        image, label, prediction = parts[index]
        top, left = (round(max(0, side - window) * (number + .5) / PICTURES)
                     for side in label.shape)
        part = slice(top, top + window), slice(left, left + window)
        picture = side_by_side([rgb_of(image[part]), colour_map(label[part], table),
                                colour_map(prediction[part], table)])
        name = f"part_{index}_" if len(parts) > 1 else ""
        values.append(_picture(f"held_out/{name}row_{top}_column_{left}", picture))
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
