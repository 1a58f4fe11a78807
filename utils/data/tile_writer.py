"""Writing a tile set; utils.data.tiles reads it and knows the names of its files."""

import contextlib
import dataclasses
import json
import os
import shutil

import numpy as np
import pandas as pd

from utils.classes import IGNORE
from utils.data.rasters import RGB
from utils.data.scenes import encode_png
from utils.data.tiles import (BANDS, FOLDERS, FREQUENCIES, LABELS, LISTS, TRAINING_LIST,
                              VALIDATION_LIST)
from utils.files import relative_path, remedy, remove_unfinished, replace_set, write_bytes

COLUMNS = ["image", "label", "scene", "row", "column", "augmentations"]
UNFINISHED = ".partial-tiles-"
BLOCK = 4096  # bytes; most disks give a file whole blocks


@contextlib.contextmanager
def replacing_tile_set(folder):
    """Gives a new folder to write a tile set to, which replaces the one in `folder` if all went
    well; else that stays as it is. Raises OSError."""
    _check_one_disk(folder)
    remove_unfinished(folder, UNFINISHED)
    new = os.path.join(folder, f"{UNFINISHED}{os.getpid()}")
    try:
        for name in FOLDERS:
            os.makedirs(os.path.join(new, name))
        yield new
        replace_set(folder, new, FOLDERS, LISTS)
    except OSError as error:
        if error.errno is None:
            raise
        reason = error.strerror or str(error)
        raise OSError(f"{folder}: the tiles could not be written ({reason}); {remedy(reason)}, or "
                      "choose fewer --tiles or another --dataset") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _check_one_disk(folder):
    """Raises OSError where folders of the old tiles lie on another disk than `folder`, to which new
    ones cannot be renamed."""
    for place in {os.path.dirname(os.path.join(folder, name)) for name in FOLDERS}:
        if os.path.exists(place) and os.stat(place).st_dev != os.stat(folder).st_dev:
            raise OSError(f"{place}: on another disk than {folder}, by a link or a mount; link all "
                          "of --dataset there, or choose another")


def check_free_space(folder, count, sample):
    """Raises OSError where `count` tiles do not fit on the disk of `folder`.

    sample: some of them, (image, label) each, from which the bytes of all are estimated.
    """
    sizes = [sum(-(-len(data) // BLOCK) * BLOCK for data in (encode_tile(image), encode_png(label)))
             for image, label in sample]
    needed, free = np.mean(sizes) * count / 1e9, shutil.disk_usage(folder).free / 1e9
    if needed > free:
        raise OSError(f"{folder}: {count} tiles take about {needed:.3g} GB there, and {free:.3g} "
                      "GB are free; free some space, or choose fewer --tiles or another --dataset")


def write_tile(folder, part, number, image, label):
    """Writes both PNGs of a tile. part: 'train' or 'validation'. Gives their names relative to
    `folder`, with forward slashes."""
    names = f"{part}/images/{number:06d}.png", f"{part}/labels/{number:06d}.png"
    for name, data in zip(names, (encode_tile(image), encode_png(label))):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)
    return names


def write_lists(folder, scenes, training, validation, frequencies, tile_input):
    """Writes what belongs to the tiles in `folder`.

    training, validation: rows of COLUMNS, whose scene is an index of the names `scenes`.
    frequencies: of `class_frequencies`. tile_input: TileInput.
    """
    for name, rows in ((TRAINING_LIST, training), (VALIDATION_LIST, validation)):
        frame = pd.DataFrame(rows, columns=COLUMNS)
        frame["scene"] = [scenes[index] for index in frame["scene"]]
        frame.to_csv(os.path.join(folder, name), index=False, lineterminator="\n")
    frequencies.to_csv(os.path.join(folder, FREQUENCIES), index=False, lineterminator="\n",
                       float_format="%.6f")
    noted = {"bands": tile_input.bands, "stretch": tile_input.stretch}
    if tile_input.gsd:
        noted["gsd"] = tile_input.gsd
    if tile_input.resample:
        noted["resample"] = tile_input.resample.to_json()
    write_bytes(os.path.join(folder, BANDS), json.dumps(noted).encode() + b"\n")


def class_frequencies(table, training, validation):
    """A row a class and one for ignore; frequencies are shares of the pixels not ignored.

    training, validation: pixels by label value, int [256].
    """
    frame = pd.DataFrame({"id": [*range(len(table)), IGNORE], "name": [*table.names, "ignore"]})
    for part, pixels in (("train", training), ("validation", validation)):
        counts = pixels[frame["id"]]
        share = counts / max(counts[:-1].sum(), 1)
        frame[f"{part}_pixels"] = counts
        frame[f"{part}_frequency"] = [*share[:-1], np.nan]
    return frame


def encode_tile(image):
    """uint8 [size, size, channels] -> bytes of a PNG, without loss.

    Three channels are RGB. PNG has no place for two channels or five, so any other number is grey
    with the channels below each other: [channels * size, size].
    """
    if image.shape[2] != len(RGB):
        return encode_png(np.concatenate(np.moveaxis(image, -1, 0)))
    return encode_png(image, photo=True)


def write_label_options(folder, options, dataset):
    """Notes LabelOptions in `folder`, the area's path relative to `dataset`, where that will be."""
    aoi = options.aoi and relative_path(options.aoi, dataset)
    values = dataclasses.asdict(options) | {"aoi": aoi}
    write_bytes(os.path.join(folder, LABELS), json.dumps(values).encode() + b"\n")
