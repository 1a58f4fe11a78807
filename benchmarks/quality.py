"""What each way of putting a map together costs and gives: overlaps, blends, turns.

Run as: python -m benchmarks.quality \\
            --model logs/dubai '../shared/data/dubai/[35].jpg' '../shared/data/dubai/[35]_class.png'

Of every model (a run, its held-out scenes and their labels; give --model several times) and of all
of them together a table: evaluations of the network per pixel of the scenes, without what fills
calls up; mean-IoU, accuracy and boundary F1; and the excess of class changes at window borders with
its standard error, as `benchmarks.seams` defines both. All together, every class of every model
counts as a class of its own. Windows are of the run's size. All ways share one forward pass for
each window and turn, so they differ in nothing else; a part of a scene is held in memory.
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import argparse
import itertools
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks.seams import STRIDE, changes_of_lines, excess_at_borders
from utils.boundary_f1 import BoundaryF1, boundary_f1
from utils.cli import positive, progress, run_script
from utils.data.scenes import read_scene, scenes_of
from utils.inference.predictor import open_predictors
from utils.inference.sliding_window import (WOVEN, InferenceOptions, axis_places, blend_windows,
                                            turned_copies, window_batches)
from utils.metrics import accuracy, confusion_matrix, mean_iou
from utils.training.checkpoints import BEST, LATEST, Checkpoints
from utils.training.run import RunSettings

# Of the grids, moved on by STRIDE each, woven turns have all, the others every so many-th: that
# woven turns make no seams has to be shown, of the others it is known (benchmarks/seams.txt).
OTHER_GRIDS = 3
# name: overlap, blend, rotations
WAYS = {"spliced": (0, "none", 1), "overlap .125": (0.125, "cosine", 1),
        "overlap .25": (0.25, "cosine", 1), "overlap .25, two turns": (0.25, "cosine", 2),
        "blended": (0.5, "cosine", 1),
        "woven, cosine": (0.5, "cosine", WOVEN), "woven, root cosine": (0.5, "root_cosine", WOVEN),
        "woven, Tukey": (0.5, "tukey", WOVEN),
        "four turns": (0.5, "cosine", 4)}


class Counts(NamedTuple):
    """Of one way on some scenes of one model."""

    evaluated: int  # pixels of windows with their copies
    pixels: int
    matrix: np.ndarray  # of confusion_matrix
    boundary: np.ndarray  # of BoundaryF1
    lines: list  # pairs of changes_of_lines, one a scene


def predict_once(image, predict, options, known):
    """Yields the (places, probabilities) of all windows, for `blend_windows`.

    known: {(top, left, quarter turns): probabilities of the turned window}, to which is added what
    is not there yet.
    """
    def read(top, left, height, width):
        return image[top:top + height, left:left + width]

    copies = turned_copies(options.rotations)
    for places, images in window_batches(read, *image.shape[:2], options):
        found = []
        for turns in range(0, 4, 4 // copies):
            turned = [(top, left, (own + turns) % 4) for top, left, own in places]
            if new := [i for i, place in enumerate(turned) if place not in known]:
                answers = predict(np.rot90(images[new], turns, (1, 2)))
                known.update(zip((turned[i] for i in new), answers))
            found.append([np.rot90(known[place], -turns) for place in turned])
        yield places, [sum(copies_of_one) / copies for copies_of_one in zip(*found)]


def map_all_ways(image, predict, window, batch_size, offsets):
    """{way: [(offset, class map)]} as `benchmarks.seams.map_grids`."""
    maps = {way: [] for way in WAYS}
    overlaps = sorted({overlap for overlap, _, _ in WAYS.values()})
    with progress(len(offsets), "grid", "mapping") as bar:
        for offset, overlap in itertools.product(offsets, overlaps):
            if offset < round(window * (1 - overlap)):
                part = image[offset:, offset:]
                shared = {way: InferenceOptions(window, overlap, blend, batch_size, rotations)
                          for way, (its, blend, rotations) in WAYS.items() if its == overlap
                          and (rotations == WOVEN or offset % (OTHER_GRIDS * STRIDE) == 0)}
                known = {}
                for way, options in shared.items():
                    strips = blend_windows(predict_once(part, predict, options, known),
                                           *part.shape[:2], options)
                    maps[way].append((offset, np.concatenate(
                        [strip.argmax(-1).astype(np.uint8) for _, strip in strips])))
            if overlap == overlaps[-1]:
                bar.update()
    return maps


def count_scene(maps, label, window, num_classes):
    """{way: Counts} of one scene."""
    counts = {}
    for way, (overlap, _, rotations) in WAYS.items():
        classes, boundary = maps[way][0][1], BoundaryF1(num_classes)
        boundary.add(label, classes)
        options = InferenceOptions(window, overlap, rotations=rotations)
        windows = np.prod([len(axis_places(length, options)) for length in label.shape])
        counts[way] = Counts(windows * window ** 2 * turned_copies(rotations), label.size,
                             confusion_matrix(label, classes, num_classes), boundary.counts(),
                             [changes_of_lines(maps[way], window, overlap)])
    return counts


def pool(counts):
    """Counts of several scenes of one model, as those of one."""
    return Counts(*(sum(values[1:], values[0]) for values in zip(*counts)))


def side_by_side(counts):
    """Counts of several models as those of one that has the classes of all."""
    evaluated, pixels, matrices, boundaries, lines = zip(*counts)
    ends = np.cumsum([len(matrix) for matrix in matrices])
    matrix = np.zeros((ends[-1], ends[-1]), np.int64)
    for end, one in zip(ends, matrices):
        matrix[end - len(one):end, end - len(one):end] = one
    return Counts(sum(evaluated), sum(pixels), matrix, np.concatenate(boundaries), sum(lines, []))


def excess_of(lines, rng):
    """(excess, standard error) over all scenes. Models of other window sizes have other numbers of
    grids: what one lacks is filled up with a distance that counts neither at borders nor
    elsewhere."""
    grids = max(changes.shape[1] for changes, _ in lines)
    changes, distances = (np.concatenate([
        np.pad(pair[i], ((0, 0), (0, grids - pair[i].shape[1])), constant_values=i)
        for pair in lines]) for i in (0, 1))
    return excess_at_borders(changes, distances, rng)[:2]


def print_table(title, counts, rng):
    """counts: {way: Counts}."""
    rows = []
    for way, one in counts.items():
        excess, error = excess_of(one.lines, rng)
        rows.append({"setting": way, "evaluations/pixel": one.evaluated / one.pixels,
                     "mean-IoU": 100 * mean_iou(one.matrix), "accuracy": 100 * accuracy(one.matrix),
                     "boundary F1": 100 * boundary_f1(one.boundary), "seam excess %": 100 * excess,
                     "standard error": 100 * error})
    print(f"\n{title}")
    print(pd.DataFrame(rows).set_index("setting").round({"seam excess %": 1, "standard error": 1})
          .round(2).to_string())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs=3, action="append", required=True,
                        metavar=("RUN", "IMAGES", "LABELS"),
                        help="folder of a run; its scenes and their labels, as for predict.py")
    parser.add_argument("--checkpoint", choices=(BEST, LATEST), default=BEST)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch_size", type=positive, default=16, help="windows per call")
    parser.add_argument("--side", type=positive, metavar="PIXELS",
                        help="of a scene only the upper left square of this side")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    args = parser.parse_args()
    models = []
    for run, images, labels in args.model:
        settings = RunSettings.read(run)
        checkpoint, step = Checkpoints(run, args.checkpoint).find()
        window, scenes = settings.crop_size, []
        with open_predictors(checkpoint, settings.model, args.precision,
                             [InferenceOptions(window)]) as [predict]:
            for scene in scenes_of([images], [labels]):
                image, label = (part[:args.side, :args.side]
                                for part in read_scene(scene, settings.classes))
                print(f"{scene.image_path}: {image.shape[0]} x {image.shape[1]} pixels", flush=True)
                maps = map_all_ways(image, predict, window, args.batch_size,
                                    range(0, window, STRIDE))
                scenes.append(count_scene(maps, label, window, len(settings.classes)))
        models.append({way: pool([scene[way] for scene in scenes]) for way in WAYS})
        print_table(f"{run}, step {step}: windows of {window}, {len(scenes)} scene(s)", models[-1],
                    np.random.default_rng(args.seed))
    if len(models) > 1:
        print_table(f"all {len(models)} models together",
                    {way: side_by_side([model[way] for model in models]) for way in WAYS},
                    np.random.default_rng(args.seed))


if __name__ == "__main__":
    run_script(main)
