"""Cuts labelled scenes into augmented training tiles and plain validation tiles.

    python preprocess.py
    python preprocess.py --dataset dataset/demo --tiles 4000 --seed 1

Reads <dataset>/origin; writes <dataset>/train, <dataset>/validation and their lists.
"""

import os
import shutil
from contextlib import closing

import cv2
import numpy as np
import pandas as pd

from utils.data.augment import AUGMENTATIONS, GAMMA_RANGE, TURNS, augment
from utils.classes import IGNORE, read_classes
from utils.cli import (argument_parser, leave_on_signals, positive, probability, progress,
                                run_script)
from utils.data.sampling import (allowed_corners, choose_validation_cells, draw_corner,
                         rare_class_corners, tiles_by_scene)
from utils.files import remove_unfinished, replace_set
from utils.data.scenes import (BANDS, choose_scenes, common_stretch, encode_png, encode_tile,
                          find_scenes, read_scene, write_bands)
from utils.data.workers import map_in_processes

TILE_FOLDERS = ("train/images", "train/labels", "validation/images", "validation/labels")
TRAIN_LIST = "path_list.csv"
# The list that train.py starts from comes last, and so is the last to be put in place.
LISTS = ("class_frequencies.csv", BANDS, "validation_list.csv", TRAIN_LIST)
COLUMNS = ["image", "label", "scene", "row", "column", "augmentations"]
UNFINISHED = ".partial-tiles-"
TILES_AT_ONCE = 32
# First words of the random seeds, so that no two purposes ever draw the same numbers.
FOR_TILES, FOR_VALIDATION, FOR_SHARES, FOR_RARE_CLASSES = range(1, 5)


def parse_arguments(arguments=None):
    """The checked flags, of the command line or of a list of strings."""
    parser = argument_parser(__doc__.splitlines()[0])
    parser.add_argument("--scenes", nargs="+", metavar="NAME",
                        help="scenes to train on; None means all labelled ones but --test_scene")
    parser.add_argument("--bands", type=positive, nargs="+", metavar="BAND",
                        help="bands of the scenes to learn from, as many as you like, of any "
                        "depth; red, green and blue first suits pretrained weights. Other than 8 "
                        "bits are stretched from the 2nd to the 98th percentile of all scenes "
                        "together; None means three bands of 8 bits")
    parser.add_argument("--tiles", type=positive, default=100000, help="number of training tiles")
    parser.add_argument("--tile_size", type=positive, default=256, help="side of a tile, pixels")
    parser.add_argument("--crops_per_scene", choices=("area", "equal"), default="area",
                        help="in proportion to a scene's area, or the same number from each")
    parser.add_argument("--rare_class_weight", type=probability, default=0.0, metavar="SHARE",
                        help="share of crops centred on a pixel of a class drawn by its inverse "
                        "frequency, whichever scene it lies in")
    parser.add_argument("--validation_fraction", type=probability, default=0.1, metavar="SHARE",
                        help="share of the training scenes set apart in blocks for validation")
    parser.add_argument("--processes", type=positive, default=available_cores(),
                        help="worker processes; the tiles do not depend on it")
    parser.add_argument("--no_augment", action="store_true",
                        help="plain tiles, for train.py --augment_online: takes every probability "
                        "below as 0")
    for name, default in AUGMENTATIONS.items():
        parser.add_argument(f"--{name}", type=probability, default=default, metavar="P",
                            help="probability" + (", of at most one turn" if name in TURNS else ""))
    parser.add_argument("--gamma_range", type=float, nargs=2, default=GAMMA_RANGE,
                        metavar=("LOW", "HIGH"), help="gamma is drawn log-uniformly from it")
    args = parser.parse_args(arguments)
    if args.no_augment:
        vars(args).update(dict.fromkeys(AUGMENTATIONS, 0.0))
    if not 0 < args.gamma_range[0] <= args.gamma_range[1] < np.inf:
        parser.error("--gamma_range needs 0 < LOW <= HIGH")
    if sum(getattr(args, name) for name in TURNS) > 1:
        parser.error("--rotate_90, --rotate_180 and --rotate_270 add up to more than 1; at most "
                     "one turn is made")
    if args.validation_fraction > 0.5:
        parser.error("--validation_fraction is above 0.5; that leaves too little to train on")
    return args


def main():
    args = parse_arguments()
    leave_on_signals()
    # Forking a process in which OpenCV's threads run is not safe.
    cv2.setNumThreads(1)
    table = read_classes(args.classes)
    names, images, labels, stretch = read_training_scenes(args, table)
    cells = [choose_validation_cells(label, args.tile_size, args.validation_fraction,
                                     random_for(FOR_VALIDATION, args.seed, scene))
             for scene, label in enumerate(labels)]
    plan = plan_crops(args, labels, cells)

    remove_unfinished(args.dataset, UNFINISHED)
    folder = os.path.join(args.dataset, f"{UNFINISHED}{os.getpid()}")
    try:
        for name in TILE_FOLDERS:
            os.makedirs(os.path.join(folder, name))
        validation, validation_pixels = write_validation_tiles(folder, args, images, labels, cells)
        training, training_pixels = write_training_tiles(folder, args, images, labels, plan)
        frequencies = class_frequencies(table, training_pixels, validation_pixels)
        for name, rows in ((TRAIN_LIST, training), ("validation_list.csv", validation)):
            frame = pd.DataFrame(rows, columns=COLUMNS)
            frame["scene"] = [names[scene] for scene in frame["scene"]]
            frame.to_csv(os.path.join(folder, name), index=False, lineterminator="\n")
        frequencies.to_csv(os.path.join(folder, "class_frequencies.csv"), index=False,
                           lineterminator="\n", float_format="%.6f")
        write_bands(folder, args.bands, stretch)
        replace_set(args.dataset, folder, TILE_FOLDERS, LISTS)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(f"{args.dataset}: the tiles could not be written ({error.strerror or error});"
                      " free some space, or choose fewer --tiles or another --dataset") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)

    print(frequencies.to_string(index=False, float_format="{:.4f}".format, na_rep=""))
    print(f"{len(training)} training tiles of scenes {', '.join(names)}, {len(validation)} "
          f"validation tiles: {os.path.join(args.dataset, TRAIN_LIST)}")
    if not validation:
        print("warning: there are no validation tiles, so training cannot choose its best "
              "checkpoint; use larger scenes, a larger --validation_fraction or smaller tiles")


def available_cores():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def random_for(purpose, seed, index=0):
    """A Generator that depends on nothing else, so tile i is the same from any worker."""
    return np.random.default_rng([purpose, seed, index])


def read_training_scenes(args, table):
    """(names, images, labels, stretch) of the scenes to train on, each checked. ValueError,
    OSError."""
    folder = args.origin or os.path.join(args.dataset, "origin")
    scenes = find_scenes(folder)
    if args.scenes:
        if args.test_scene in args.scenes:
            raise ValueError(f"scene {args.test_scene} is held out (--test_scene) and cannot be "
                             "trained on; take it out of --scenes or hold out another")
        chosen = choose_scenes(scenes, list(dict.fromkeys(args.scenes)), folder)
    else:
        # Checked, since a misspelt name would let the held-out scene into the training tiles.
        choose_scenes(scenes, [args.test_scene], f"{folder} (--test_scene)")
        chosen = [scene for name, scene in scenes.items()
                  if name != args.test_scene and scene.label_path]
        if not chosen:
            raise FileNotFoundError(
                f"{folder}: no scene but the held-out {args.test_scene} has a label "
                "(N_class.png beside N.png)")
    stretch = args.bands and common_stretch([scene.image_path for scene in chosen], args.bands)
    images, labels = zip(*(read_scene(scene, table, args.bands, stretch) for scene in chosen))
    for scene, label in zip(chosen, labels):
        if min(label.shape) < args.tile_size:
            raise ValueError(f"{scene.image_path}: {label.shape[0]} x {label.shape[1]} pixels "
                             f"(height x width), smaller than a tile of {args.tile_size}; leave "
                             "it out with --scenes or choose a smaller --tile_size")
    return [scene.name for scene in chosen], images, labels, stretch


def plan_crops(args, labels, cells):
    """What every tile's crop is drawn from: (scene of each tile, allowed corners by scene,
    corners and probabilities of the rare-class crops or None)."""
    areas = [label.size if args.crops_per_scene == "area" else 1 for label in labels]
    scenes = tiles_by_scene(areas, args.tiles, random_for(FOR_SHARES, args.seed))
    allowed = [allowed_corners(label.shape, corners, args.tile_size)
               for label, corners in zip(labels, cells)]
    rare = None
    if args.rare_class_weight:
        rare = rare_class_corners(labels, allowed, args.tile_size,
                                  random_for(FOR_RARE_CLASSES, args.seed))
    return scenes, allowed, rare


def write_tile(folder, part, number, image, label):
    """Writes both PNGs; gives their names relative to `folder`, with forward slashes."""
    names = f"{part}/images/{number:06d}.png", f"{part}/labels/{number:06d}.png"
    for name, data in zip(names, (encode_tile(image), encode_png(label))):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)
    return names


def write_validation_tiles(folder, args, images, labels, cells):
    """Writes every validation cell as it is: (rows of its list, pixels by label value [256])."""
    rows, pixels = [], np.zeros(256, np.int64)
    for scene, corners in enumerate(cells):
        for row, column in corners.tolist():
            window = np.s_[row:row + args.tile_size, column:column + args.tile_size]
            label = labels[scene][window]
            names = write_tile(folder, "validation", len(rows), images[scene][window], label)
            rows.append((*names, scene, row, column, ""))
            pixels += np.bincount(label.ravel(), minlength=256)
    return rows, pixels


def write_training_tiles(folder, args, images, labels, plan):
    """Writes all training tiles from worker processes: (rows of their list, pixels [256])."""
    starts = range(0, args.tiles, TILES_AT_ONCE)
    parts, pixels = {}, np.zeros(256, np.int64)
    shared = (folder, args, images, labels, plan)
    with progress(args.tiles, " tiles", "tiles") as bar, closing(
            map_in_processes(write_some_tiles, starts, args.processes, shared)) as results:
        for start, (rows, counts) in results:
            parts[start] = rows
            pixels += counts
            bar.update(len(rows))
    return [row for start in starts for row in parts[start]], pixels


def write_some_tiles(start, folder, args, images, labels, plan):
    """Cuts, augments and writes TILES_AT_ONCE tiles: (their rows, pixels by label value [256])."""
    scenes, allowed, rare = plan
    probabilities = {name: getattr(args, name) for name in AUGMENTATIONS}
    rows, pixels = [], np.zeros(256, np.int64)
    for number in range(start, min(start + TILES_AT_ONCE, args.tiles)):
        random = random_for(FOR_TILES, args.seed, number)
        if rare and random.random() < args.rare_class_weight:
            corners, shares = rare
            scene, row, column = random.choice(corners[random.choice(len(corners), p=shares)])
        else:
            scene = scenes[number]
            row, column = draw_corner(allowed[scene], random)
        window = np.s_[row:row + args.tile_size, column:column + args.tile_size]
        image, label, done = augment(images[scene][window], labels[scene][window], probabilities,
                                     args.gamma_range, random)
        names = write_tile(folder, "train", number, image, label)
        rows.append((*names, int(scene), int(row), int(column), done))
        pixels += np.bincount(label.ravel(), minlength=256)
    return rows, pixels


def class_frequencies(table, training, validation):
    """A row a class and one for ignore; frequencies are shares of the pixels not ignored."""
    frame = pd.DataFrame({"id": [*range(len(table)), IGNORE], "name": [*table.names, "ignore"]})
    for part, pixels in (("train", training), ("validation", validation)):
        counts = pixels[frame["id"]]
        share = counts / max(counts[:-1].sum(), 1)
        frame[f"{part}_pixels"] = counts
        frame[f"{part}_frequency"] = [*share[:-1], np.nan]
    return frame


if __name__ == "__main__":
    run_script(main)
