"""Cuts labelled scenes into augmented training tiles and plain validation tiles.

    python preprocess.py
    python preprocess.py --dataset dataset/demo --tiles 4000 --seed 1

Reads <dataset>/origin; writes <dataset>/train, <dataset>/validation and their lists.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from utils.classes import read_classes
from utils.cli import (argument_parser, leave_on_signals, positive, probability, progress,
                       run_script)
from utils.data.augment import AUGMENTATIONS, GAMMA_RANGE, TURNS, augment
from utils.data.sampling import (allowed_corners, choose_validation_tiles, draw_corner,
                                 rare_class_corners, tiles_by_scene)
from utils.data.scenes import choose_scenes, common_stretch, find_scenes, read_scene
from utils.data.tiles import (TRAINING_LIST, check_free_space, class_frequencies,
                              replacing_tile_set, write_lists, write_tile)

TILES_AT_ONCE = 32
TRIAL_TILES = 32  # of so many the size is measured before any is written
# First words of the random seeds, so that no two purposes ever draw the same numbers.
FOR_TILES, FOR_VALIDATION, FOR_SHARES, FOR_RARE_CLASSES = range(1, 5)


def parse_arguments(arguments=None):
    """The checked flags, of the command line or of a list of strings."""
    parser = argument_parser(__doc__.splitlines()[0])
    add = parser.add_argument_group("scenes").add_argument
    add("--scenes", nargs="+", metavar="NAME",
        help="scenes to train on; by default all labelled ones but --test_scene")
    add("--bands", type=positive, nargs="+", metavar="BAND",
        help="bands of the scenes to learn from, as many as you like, of any depth; red, green and "
        "blue first suits pretrained weights. Other than 8 bits are stretched from the 2nd to the "
        "98th percentile of all scenes together. By default three bands of 8 bits")
    add = parser.add_argument_group("tiles").add_argument
    add("--tiles", type=positive, default=100000, help="number of training tiles")
    add("--tile_size", type=positive, default=256, help="side of a tile, pixels")
    add("--crops_per_scene", choices=("area", "equal"), default="area",
        help="in proportion to a scene's area, or the same number from each")
    add("--rare_class_weight", type=probability, default=0.0, metavar="SHARE",
        help="share of crops centred on a pixel of a class drawn by its inverse frequency, "
        "whichever scene it lies in")
    add("--validation_fraction", type=probability, default=0.1, metavar="SHARE",
        help="share of the training scenes set apart in blocks for validation")
    add("--workers", "--processes", type=positive, default=available_cores(),
        help="threads that cut and write; the tiles do not depend on it")
    add = parser.add_argument_group("augmentation").add_argument
    add("--no_augment", action="store_true",
        help="plain tiles, for train.py --augment_online: takes every probability below as 0")
    for name, default in AUGMENTATIONS.items():
        add(f"--{name}", type=probability, default=default, metavar="P",
            help="probability" + ("; at most one of the turns is made" if name in TURNS else ""))
    add("--gamma_range", type=float, nargs=2, default=GAMMA_RANGE, metavar=("LOW", "HIGH"),
        help="gamma is drawn log-uniformly from it")
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
    cv2.setNumThreads(1)  # the workers already fill the cores
    table = read_classes(args.classes)
    names, images, labels, stretch = read_training_scenes(args, table)
    blocks = [choose_validation_tiles(label, args.tile_size, args.validation_fraction,
                                     random_for(FOR_VALIDATION, args.seed, scene))
             for scene, label in enumerate(labels)]
    plan = plan_crops(args, labels, blocks)

    with replacing_tile_set(args.dataset) as folder:
        trial = np.unique(np.linspace(0, args.tiles - 1, TRIAL_TILES).astype(int)).tolist()
        check_free_space(args.dataset, args.tiles + sum(map(len, blocks)), [
            cut_tile(number, args, images, labels, plan)[:2] for number in trial])
        validation, validation_pixels = write_validation_tiles(folder, args, images, labels, blocks)
        training, training_pixels = write_training_tiles(folder, args, images, labels, plan)
        frequencies = class_frequencies(table, training_pixels, validation_pixels)
        write_lists(folder, names, training, validation, frequencies, (args.bands, stretch))

    print(frequencies.to_string(index=False, float_format="{:.4f}".format, na_rep=""))
    print(f"{len(training)} training tiles of scenes {', '.join(names)}, {len(validation)} "
          f"validation tiles: {os.path.join(args.dataset, TRAINING_LIST)}")
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


def plan_crops(args, labels, blocks):
    """What every tile's crop is drawn from: (scene of each tile, allowed corners by scene,
    corners and probabilities of the rare-class crops or None)."""
    areas = [label.size if args.crops_per_scene == "area" else 1 for label in labels]
    scenes = tiles_by_scene(areas, args.tiles, random_for(FOR_SHARES, args.seed))
    allowed = [allowed_corners(label.shape, corners, args.tile_size)
               for label, corners in zip(labels, blocks)]
    rare = None
    if args.rare_class_weight:
        rare = rare_class_corners(labels, allowed, args.tile_size,
                                  random_for(FOR_RARE_CLASSES, args.seed))
    return scenes, allowed, rare


def cut_tile(number, args, images, labels, plan):
    """Training tile `number`: (image, label, (scene, row, column, augmentations))."""
    scenes, allowed, rare = plan
    random = random_for(FOR_TILES, args.seed, number)
    if rare and random.random() < args.rare_class_weight:
        corners, shares = rare
        scene, row, column = random.choice(corners[random.choice(len(corners), p=shares)])
    else:
        scene = scenes[number]
        row, column = draw_corner(allowed[scene], random)
    window = np.s_[row:row + args.tile_size, column:column + args.tile_size]
    probabilities = {name: getattr(args, name) for name in AUGMENTATIONS}
    image, label, done = augment(images[scene][window], labels[scene][window], probabilities,
                                 args.gamma_range, random)
    return image, label, (int(scene), int(row), int(column), done)


def write_validation_tiles(folder, args, images, labels, blocks):
    """Writes every validation tile as it is: (rows of its list, pixels by label value [256])."""
    rows, pixels = [], np.zeros(256, np.int64)
    for scene, corners in enumerate(blocks):
        for row, column in corners.tolist():
            window = np.s_[row:row + args.tile_size, column:column + args.tile_size]
            label = labels[scene][window]
            files = write_tile(folder, "validation", len(rows), images[scene][window], label)
            rows.append((*files, scene, row, column, ""))
            pixels += np.bincount(label.ravel(), minlength=256)
    return rows, pixels


def write_training_tiles(folder, args, images, labels, plan):
    """Writes all training tiles from worker threads: (rows of their list, pixels [256]).

    OpenCV, zlib and files leave the interpreter's lock, so threads fill the cores.
    """
    def write_some_tiles(start):
        rows, pixels = [], np.zeros(256, np.int64)
        for number in range(start, min(start + TILES_AT_ONCE, args.tiles)):
            image, label, crop = cut_tile(number, args, images, labels, plan)
            rows.append((*write_tile(folder, "train", number, image, label), *crop))
            pixels += np.bincount(label.ravel(), minlength=256)
        return rows, pixels

    rows, pixels = [], np.zeros(256, np.int64)
    pool = ThreadPoolExecutor(args.workers)
    try:
        with progress(args.tiles, " tiles", "tiles") as bar:
            for some_rows, counts in pool.map(write_some_tiles,
                                              range(0, args.tiles, TILES_AT_ONCE)):
                rows += some_rows
                pixels += counts
                bar.update(len(some_rows))
    finally:
        # After a failure or Ctrl-C only what a thread has begun is finished.
        pool.shutdown(cancel_futures=True)
    return rows, pixels


if __name__ == "__main__":
    run_script(main)
