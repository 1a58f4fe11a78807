"""Cuts labelled scenes into augmented training tiles and plain validation tiles.

    python preprocess.py
    python preprocess.py --dataset dataset/demo --tiles 4000 --seed 1
    python preprocess.py --images 'train/*_sat.jpg' --labels 'train/*_mask.png'

Reads <dataset>/origin, or what the flags name; writes <dataset>/train, <dataset>/validation and
their lists.
"""

import utils  # noqa: F401  (first, for Ctrl-C)

import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from utils.classes import IGNORE, read_classes
from utils.cli import (above_zero, argument_parser, leave_on_signals, non_negative, positive,
                       probability, progress, run_script, side)
from utils.data.augment import AUGMENTATIONS, GAMMA_RANGE, TURNS, augment
from utils.data.pixel_size import add_pixel_size_flags, common_gsd
from utils.data.polygons import LabelOptions, add_label_flags
from utils.data.sampling import (AllowedCorners, choose_validation_tiles, rare_class_corners,
                                 tiles_by_scene)
from utils.data.scene_pixels import open_scenes
from utils.data.scene_table import (TRAIN, VALIDATION, add_scene_flags, named, scenes_by_split,
                                    write_scene_table)
from utils.data.scenes import common_stretch
from utils.data.tile_writer import (check_free_space, class_frequencies, replacing_tile_set,
                                    write_label_options, write_lists, write_tile)
from utils.data.tiles import SCENES, TRAINING_LIST, TileInput
from utils.idle_flags import PREPROCESS, tell_idle_flags
from utils.inference.sliding_window import window_starts
from utils.locks import locked

TILES_AT_ONCE = 32
TRIAL_TILES = 32  # of so many the size is measured before any is written
# First words of the random seeds, so that no two purposes ever draw the same numbers.
FOR_TILES, FOR_VALIDATION, FOR_SHARES, FOR_RARE_CLASSES = range(1, 5)


def parse_arguments(arguments=None):
    """The checked flags, of the command line or of a list of strings."""
    parser = argument_parser(__doc__)
    add = parser.add_argument_group("scenes").add_argument
    add("--scenes", nargs="+", metavar="NAME",
        help="scenes to train on; by default all labelled ones but --test_scene")
    add_scene_flags(add)
    add("--scene_table", metavar="CSV",
        help="table of scenes (image, label, split) instead of patterns, by default scenes.csv in "
        "--dataset if it is there; python -m utils.data.scene_table writes one")
    add("--bands", type=positive, nargs="+", metavar="BAND",
        help="bands of the scenes to learn from, as many as you like, of any depth; red, green and "
        "blue first suits pretrained weights. Other than 8 bits are stretched from the 2nd to the "
        "98th percentile of all training scenes. By default three bands of 8 bits")
    add("--memory", type=non_negative, default=4.0, metavar="GB",
        help="scenes that take more than this together are read from disk tile by tile, as far as "
        "they are read by window (TIFFs and the like); the tiles do not depend on it")
    add("--keep_nodata", action="store_true",
        help="learn from labels where the image has no data too, by its nodata value, mask or "
        "alpha, and is grey to the model; by default they are ignored there")
    add_label_flags(add)
    add_pixel_size_flags(parser)
    add = parser.add_argument_group("tiles").add_argument
    add("--tiles", type=positive, default=100000, help="number of training tiles")
    add("--tile_size", type=side, default=256, help="side of a tile, pixels")
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
            help="probability" + (", of at most one turn" if name in TURNS else ""))
    add("--gamma_range", type=above_zero, nargs=2, default=GAMMA_RANGE, metavar=("LOW", "HIGH"),
        help="gamma is drawn log-uniformly from it")
    parser.set_defaults(test_scene=None)  # scene 5 only in the default layout
    args = parser.parse_args(arguments)
    if args.no_augment:
        vars(args).update(dict.fromkeys(AUGMENTATIONS, 0.0))
    tell_idle_flags(parser, args, PREPROCESS)
    if args.gamma_range[0] > args.gamma_range[1]:
        parser.error("--gamma_range needs LOW <= HIGH")
    if sum(getattr(args, name) for name in TURNS) > 1:
        parser.error("--rotate_90, --rotate_180 and --rotate_270 add up to more than 1; at most "
                     "one turn is made")
    if args.validation_fraction > 0.5:
        parser.error("--validation_fraction is above 0.5; that leaves too little to train on")
    return args


def main():
    args = parse_arguments()
    leave_on_signals()
    with locked(args.dataset, "wait until it is done, or choose another --dataset"):
        cut_tile_set(args)


def cut_tile_set(args):
    """Reads the scenes and writes the tile set."""
    cv2.setNumThreads(1)  # the workers already fill the cores
    table = read_classes(args.classes)
    scenes = scenes_by_split(args)
    training, validation = scenes[TRAIN], scenes[VALIDATION]
    stretch = args.bands and common_stretch([scene.image_path for scene in training], args.bands)
    gsd, options = common_gsd(training, args.resample), LabelOptions.of(args)
    pixels = open_scenes(training + validation, table,
                         (args.bands, stretch, options, args.resample), args.tile_size,
                         args.memory * 1e9)
    # Where validation scenes are given, the training scenes keep all their pixels.
    blocks = [choose_validation_tiles(scene.label, 0 if validation else args.validation_fraction,
                                      random_for(FOR_VALIDATION, args.seed, number), scene.sparse)
              for number, scene in enumerate(pixels[:len(training)])]
    plan = plan_crops(args, pixels[:len(training)], blocks)
    blocks += [whole_grid(scene.shape, args.tile_size) for scene in pixels[len(training):]]

    with replacing_tile_set(args.dataset) as folder:
        trial = np.unique(np.linspace(0, args.tiles - 1, TRIAL_TILES).astype(int)).tolist()
        check_free_space(args.dataset, args.tiles + sum(map(len, blocks)), [
            cut_tile(number, args, pixels, plan)[:2] for number in trial])
        validation_tiles, validation_pixels = write_validation_tiles(folder, args, pixels, blocks)
        training_tiles, training_pixels = write_training_tiles(folder, args, pixels, plan)
        frequencies = class_frequencies(table, training_pixels, validation_pixels)
        write_lists(folder, [scene.name for scene in training + validation], training_tiles,
                    validation_tiles, frequencies,
                    TileInput(args.bands, stretch, gsd, args.resample))
        write_label_options(folder, options, args.dataset)
        write_scene_table(os.path.join(folder, SCENES), sum(scenes.values(), []), args.dataset)

    print(frequencies.to_string(index=False, float_format="{:.4f}".format, na_rep=""))
    print(f"{len(training_tiles)} training tiles of {named(s.name for s in training)}, "
          f"{len(validation_tiles)} validation tiles: {os.path.join(args.dataset, TRAINING_LIST)}")
    if not validation_tiles:
        print("warning: there are no validation tiles, so training cannot choose its best "
              "checkpoint; use larger scenes, a larger --validation_fraction or smaller tiles")


def available_cores():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def random_for(purpose, seed, index=0):
    """A Generator that depends on nothing else, so tile i is the same from any worker."""
    return np.random.default_rng([purpose, seed, index])


def whole_grid(shape, tile_size):
    """Corners int [tiles, 2] of the tiles that cover a validation scene; its last row and column
    are shifted inward to end with it."""
    rows, columns = (window_starts(length, tile_size, 0) for length in shape)
    return np.array([(row, column) for row in rows for column in columns])


def plan_crops(args, pixels, blocks):
    """What every tile's crop is drawn from: (scene of each tile, AllowedCorners by scene, corners
    and probabilities of the rare-class crops or None)."""
    areas = [1 if args.crops_per_scene == "equal" else scene.label.total.sum() if scene.sparse
             else np.prod(scene.shape) for scene in pixels]
    scenes = tiles_by_scene(areas, args.tiles, random_for(FOR_SHARES, args.seed))
    allowed = [AllowedCorners(scene.shape, corners, args.tile_size,
                              scene.label.valid if scene.sparse else None)
               for scene, corners in zip(pixels, blocks)]
    rare = None
    if args.rare_class_weight:
        rare = rare_class_corners([scene.label for scene in pixels], allowed,
                                  random_for(FOR_RARE_CLASSES, args.seed))
    return scenes, allowed, rare


def cut_tile(number, args, pixels, plan):
    """Training tile `number`: (image, label, (scene, row, column, augmentations))."""
    scenes, allowed, rare = plan
    random = random_for(FOR_TILES, args.seed, number)
    if rare and random.random() < args.rare_class_weight:
        corners, shares = rare
        scene, row, column = random.choice(corners[random.choice(len(corners), p=shares)])
    else:
        scene = scenes[number]
        row, column = pixels[scene].draw_crop(allowed[scene], random)
    probabilities = {name: getattr(args, name) for name in AUGMENTATIONS}
    image, label, done = augment(*pixels[scene].read((row, column), args.tile_size),
                                 probabilities, args.gamma_range, random)
    return image, label, (int(scene), int(row), int(column), done)


def write_validation_tiles(folder, args, pixels, blocks):
    """Writes every validation tile as it is, of sparse scenes those with a valid pixel: (rows of
    its list, pixels by label value [256])."""
    rows, counts = [], np.zeros(256, np.int64)
    for scene, corners in enumerate(blocks):
        for corner in corners.tolist():
            image, label = pixels[scene].read(corner, args.tile_size)
            if pixels[scene].sparse and (label == IGNORE).all():
                continue
            files = write_tile(folder, "validation", len(rows), image, label)
            rows.append((*files, scene, *corner, ""))
            counts += np.bincount(label.ravel(), minlength=256)
    return rows, counts


def write_training_tiles(folder, args, pixels, plan):
    """Writes all training tiles from worker threads: (rows of their list, pixels by value [256]).

    OpenCV, zlib and files leave the interpreter's lock, so threads fill the cores.
    """
    def write_some_tiles(start):
        rows, counts = [], np.zeros(256, np.int64)
        for number in range(start, min(start + TILES_AT_ONCE, args.tiles)):
            image, label, crop = cut_tile(number, args, pixels, plan)
            rows.append((*write_tile(folder, "train", number, image, label), *crop))
            counts += np.bincount(label.ravel(), minlength=256)
        return rows, counts

    rows, counts = [], np.zeros(256, np.int64)
    pool = ThreadPoolExecutor(args.workers)
    try:
        with progress(args.tiles, " tiles", "tiles") as bar:
            for some_rows, some_counts in pool.map(write_some_tiles,
                                                   range(0, args.tiles, TILES_AT_ONCE)):
                rows += some_rows
                counts += some_counts
                bar.update(len(some_rows))
    finally:
        # After a failure or Ctrl-C only what a thread has begun is finished.
        pool.shutdown(cancel_futures=True)
    return rows, counts


if __name__ == "__main__":
    run_script(main)
