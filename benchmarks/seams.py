"""How much more often a map changes class across window borders than elsewhere.

Run as: python -m benchmarks.seams --origin ../shared/data/dubai --run dubai --precision bfloat16

The scene is mapped again and again with the whole grid of windows moved on by 16 pixels at a time,
which leaves every line of pixels the same place on the network's feature grid (stride 16). So each
line is a window's border in some maps and not in the others, and the scene's own edges cancel out:

    excess = changes of class across lines where they are borders
             / mean changes across the same lines in the maps where they are not, - 1

Its error is a bootstrap over pieces of lines as long as a window. A second table shows the changes
by distance from the nearest border, against those anywhere but at borders.
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
from utils.classes import colour_map
from utils.cli import argument_parser, positive, progress, run_script
from utils.inference.predictor import open_predictors
from utils.inference.visualise import side_by_side
from utils.training.checkpoints import BEST, Checkpoints
from utils.training.run import RunSettings, find_run
from utils.data.scenes import choose_scenes, find_scenes, read_image, write_png
from utils.inference.sliding_window import (InferenceOptions, blend_windows, window_batches,
                                            window_starts)

STRIDE = 16
# name: (overlap, blend)
WAYS = {"splicing": (0, "none"), "averaging": (0.5, "uniform"), "blending": (0.5, "cosine")}


def map_grids(image, predict, window, batch_size, offsets):
    """For each way a list of (offset, class map uint8): one for every place of its grid.

    A map with an offset leaves out so many rows and columns at the top and left.
    """
    maps = {way: [] for way in WAYS}
    with progress(len(offsets), "grid", "mapping") as bar:
        for offset in offsets:
            part = image[offset:, offset:]
            for overlap in (0, 0.5):
                if offset >= window * (1 - overlap):
                    continue
                options = InferenceOptions(window, overlap, batch_size=batch_size)
                predicted = predict_all(part, predict, options)
                for way, (its_overlap, blend) in WAYS.items():
                    if its_overlap == overlap:
                        strips = blend_windows(predicted, *part.shape[:2],
                                               replace(options, blend=blend))
                        classes = [probabilities.argmax(-1).astype(np.uint8)
                                   for _, probabilities in strips]
                        maps[way].append((offset, np.concatenate(classes)))
            bar.update()
    return maps


def predict_all(image, predict, options):
    """[(corners, probabilities)] of all windows; kept, since several ways of blending share it."""
    def read(top, left, height, width):
        return image[top:top + height, left:left + width]
    return [(corners, predict(images)) for corners, images in window_batches(
        read, *image.shape[:2], options)]


def borders_of(length, window, overlap):
    """Where windows begin or end along an axis: the lines between pixels i - 1 and i.

    Without overlap a pixel is the first window's, so where a shifted last window begins nothing
    changes hands.
    """
    starts = window_starts(length, window, overlap)
    ends = {start + window for start in starts}
    return sorted((ends | set(starts) if overlap else ends) - {0, length})


def changes_of_lines(grids, window, overlap):
    """Changes of class by piece of line: float [pieces, grids] and distance int [pieces, grids].

    A piece is `window` pixels of a line that lies on the feature grid; distance: from the line to
    the nearest border in that grid's map. Only what all maps cover is counted.
    """
    largest = max(offset for offset, _ in grids)
    changes, distances = [], []
    for axis in (0, 1):
        by_grid, far = [], []
        for offset, classes in grids:
            classes = np.moveaxis(classes, axis, 0)
            borders = np.array(borders_of(len(classes), window, overlap)) + offset
            lines = np.arange(largest + STRIDE, len(classes) + offset, STRIDE)
            common = classes[:, largest - offset:]
            differs = common[lines - offset] != common[lines - offset - 1]
            pieces = differs.shape[1] // window
            counted = differs[:, :pieces * window].reshape(len(lines), pieces, window).sum(-1)
            by_grid.append(counted.ravel())
            nearest = np.abs(lines[:, None] - borders).min(axis=1)
            far.append(np.repeat(nearest, pieces))
        changes.append(np.stack(by_grid, axis=1))
        distances.append(np.stack(far, axis=1))
    return np.concatenate(changes).astype(float), np.concatenate(distances)


def excess_at_borders(changes, distances, rng, resamples=2000):
    """(excess, its standard error, changes counted at borders) as shares; see this file's top."""
    at_border, elsewhere = distances == 0, distances >= STRIDE
    used = at_border.any(1) & elsewhere.any(1)
    changes, at_border, elsewhere = changes[used], at_border[used], elsewhere[used]
    border = (changes * at_border).sum(1) / at_border.sum(1)
    other = (changes * elsewhere).sum(1) / elsewhere.sum(1)
    drawn = rng.integers(len(border), size=(resamples, len(border)))
    ratios = border[drawn].sum(1) / other[drawn].sum(1)
    return border.sum() / other.sum() - 1, ratios.std(), int((changes * at_border).sum())


def changes_by_distance(changes, distances, largest):
    """Series: changes across lines at each distance from a border, relative to all but borders.

    Each line is compared with itself in the other grids' maps, as for the excess. largest: the
    farthest that a line may be from a border, but for where the last window is shifted.
    """
    elsewhere = distances >= STRIDE
    usual = (changes * elsewhere).sum(1) / np.maximum(1, elsewhere.sum(1))
    relative = {}
    for distance in range(0, largest + 1, STRIDE):
        here = (distances == distance) & elsewhere.any(1)[:, None]
        if here.any():
            relative[distance] = (changes * here).sum() / (usual[:, None] * here).sum() - 1
    return pd.Series(relative)


def most_visible_seams(spliced, blended, window, side):
    """(top, left) of the `side` x `side` part with most changes at borders that blending has not.
    """
    seams = np.zeros(spliced.shape, np.float32)
    for axis in (0, 1):
        turned = np.moveaxis(seams, axis, 0)
        lines = borders_of(len(turned), window, 0)
        maps = [np.moveaxis(classes, axis, 0) for classes in (spliced, blended)]
        jumps = [classes[lines] != classes[np.array(lines) - 1] for classes in maps]
        turned[lines] += jumps[0].astype(np.float32) - jumps[1]
    total = cv2.integral(seams)
    inside = (total[side:, side:] - total[:-side, side:] - total[side:, :-side]
              + total[:-side, :-side])
    return tuple(int(place) for place in np.unravel_index(inside.argmax(), inside.shape))


def main():
    parser = argument_parser(__doc__.splitlines()[0])
    parser.add_argument("--logs", default="logs", metavar="FOLDER")
    parser.add_argument("--run", help="name of the run; by default the latest")
    parser.add_argument("--scenes", nargs="+", default=None, metavar="NAME",
                        help="counted together; by default --test_scene. More scenes, less error")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch_size", type=positive, default=16, help="windows per call")
    parser.add_argument("--side", type=positive, default=384, help="of the picture's part, pixels")
    parser.add_argument("--picture", default="images/seams.png", metavar="PNG",
                        help="of a part of the first scene")
    parser.add_argument("--picture_only", action="store_true",
                        help="draw it from one grid instead of counting over sixteen")
    arguments = parser.parse_args()
    origin = arguments.origin or f"{arguments.dataset}/origin"
    scenes = choose_scenes(find_scenes(origin), arguments.scenes or arguments.test_scene, origin)
    run = find_run(arguments.logs, arguments.run)
    settings = RunSettings.read(run)
    window = settings.crop_size

    if arguments.picture_only:
        scenes, offsets = scenes[:1], [0]
    else:
        offsets = range(0, window, STRIDE)
        print(f"windows of {window}, one pass each, {arguments.precision}; class changes at window "
              "borders")
    counts = {way: [] for way in WAYS}
    with open_predictors(Checkpoints(run, BEST).find()[0], settings.model, arguments.precision,
                         [InferenceOptions(window)]) as [predict]:
        for scene in scenes:
            image = read_image(scene.image_path)
            print(f"{scene.image_path}: {image.shape[0]} x {image.shape[1]} pixels")
            maps = map_grids(image, predict, window, arguments.batch_size, offsets)
            if not arguments.picture_only:
                for way, (overlap, _) in WAYS.items():
                    counts[way].append(changes_of_lines(maps[way], window, overlap))
            if scene == scenes[0]:
                side = min(arguments.side, *image.shape[:2])
                write_picture(arguments.picture, image, maps, window, side, settings.classes)
    if not arguments.picture_only:
        print_excess(counts, window, np.random.default_rng(arguments.seed))


def print_excess(counts, window, rng):
    """counts: for each way the pairs of `changes_of_lines` of all scenes."""
    rows, profiles = [], {}
    for way, pairs in counts.items():
        changes, distances = map(np.concatenate, zip(*pairs))
        excess, error, counted = excess_at_borders(changes, distances, rng)
        rows.append({"way": way, "grids": changes.shape[1], "changes at borders": counted,
                     "excess %": 100 * excess, "standard error %": 100 * error})
        farthest = round(window * (1 - WAYS[way][0])) // 2
        profiles[way] = 100 * changes_by_distance(changes, distances, farthest)
    print(pd.DataFrame(rows).set_index("way").round(1).to_string())
    print("\nchanges by distance from the nearest border, % above all but borders")
    print(pd.DataFrame(profiles).rename_axis("pixels").round(1).to_string(na_rep=""))


def write_picture(path, image, maps, window, side, table):
    """Writes a part of scene, spliced and blended map side by side, where seams show most."""
    spliced, blended = (maps[way][0][1] for way in ("splicing", "blending"))
    top, left = most_visible_seams(spliced, blended, window, side)
    shown = slice(top, top + side), slice(left, left + side)
    write_png(path, side_by_side([image[shown], colour_map(spliced[shown], table),
                                  colour_map(blended[shown], table)]))
    print(f"written: {path}: rows from {top}, columns from {left}: scene, spliced, blended")


if __name__ == "__main__":
    run_script(main)
