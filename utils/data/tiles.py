"""A tile set: what preprocess.py writes into --dataset and train.py reads. Without TensorFlow.

train/images/, train/labels/, validation/images/, validation/labels/   tiles, PNG
path_list.csv, validation_list.csv    one row per tile: its files, its crop and what was done to it
class_frequencies.csv                 pixels of each class
scene_list.csv                        the scenes that they are of, and the held-out ones
bands.json                            what tiles show of their scenes: TileInput
labels.json                           LabelOptions: how polygons were read, and the area of interest
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from utils.classes import IGNORE
from utils.data.pixel_size import Resample
from utils.data.polygons import LabelOptions
from utils.data.rasters import RGB, Raster
from utils.data.scene_table import TEST, read_scene_table
from utils.data.scenes import read_label

TRAINING_LIST, VALIDATION_LIST = "path_list.csv", "validation_list.csv"
FREQUENCIES, BANDS, SCENES = "class_frequencies.csv", "bands.json", "scene_list.csv"
LABELS = "labels.json"
FOLDERS = ("train/images", "train/labels", "validation/images", "validation/labels")
# The list that train.py starts from comes last, and so is the last to be put in place.
LISTS = (FREQUENCIES, BANDS, LABELS, SCENES, VALIDATION_LIST, TRAINING_LIST)


class TileInput(NamedTuple):
    """What tiles show of their scenes, as bands.json has it.

    bands, stretch: numbers of the bands and their stretch, each None for plain scenes of 8 bits.
    gsd: metres a pixel of the tiles, or None. resample: the Resample at which scenes were seen, or
    None for their own pixels.
    """

    bands: list = None
    stretch: list = None
    gsd: float = None
    resample: Resample = None


class TileSet:
    """The tile set in `folder`, whose labels are of the ClassTable `table`.

    training, validation: DataFrames, one row per tile, whose columns image and label are paths. All
    else is read once, when it is first asked for. Raises OSError, ValueError naming the file.
    """

    def __init__(self, folder, table):
        self.folder, self.table = folder, table
        self._written = _time_written(folder)
        _check_class_names(folder, table)
        self.training = read_tile_list(folder)
        self.validation = read_tile_list(folder, VALIDATION_LIST)

    @functools.cached_property
    def shape(self):
        """(height, width, channels) that all tiles have: those of the first."""
        return self._read(next(self.training.itertuples()))[0].shape

    @property
    def tile_size(self):
        """Side of a tile, pixels."""
        return min(self.shape[:2])

    @property
    def channels(self):
        """Number of channels of a tile's image."""
        return self.shape[2]

    @functools.cached_property
    def noted_bands(self):
        """The fields of TileInput as a dict, each only where it is noted."""
        return read_bands(self.folder)

    @functools.cached_property
    def label_options(self):
        """The LabelOptions with which preprocess.py read the labels."""
        return read_label_options(self.folder)

    @functools.cached_property
    def held_out(self):
        """The held-out Scenes that preprocess.py noted; [] where it noted none."""
        return held_out_scenes(self.folder)

    @functools.cached_property
    def class_pixels(self):
        """float [classes]: pixels of each class in the training tiles."""
        path = os.path.join(self.folder, FREQUENCIES)
        again = "run preprocess.py again, or train with --class_weights none"
        try:
            rows = pd.read_csv(path).set_index("id")["train_pixels"].drop(IGNORE)
            pixels = rows.to_numpy(float)
        except OSError as error:
            raise OSError(f"{path}: could not be read ({error.strerror}); {again}") from None
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: not the class frequencies of preprocess.py ({error}); "
                             f"{again}") from None
        if rows.index.tolist() != list(range(len(self.table))):
            raise ValueError(f"{path}: its classes are not the {len(self.table)} of --classes; "
                             f"{again}")
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.any()):
            raise ValueError(f"{path}: train_pixels are not numbers of pixels, or all are 0; "
                             f"{again}")
        return pixels

    @functools.cached_property
    def fingerprint(self):
        """16 hexadecimal digits that change when preprocess.py cuts other tiles into the folder.

        Of the list, which tells every crop and its augmentations, and of the class frequencies
        where they are there: reading all tiles instead would take minutes.
        """
        return _fingerprint(self.folder)

    def check_unchanged(self):
        """Raises ValueError where the tiles are no longer those of `fingerprint`, or were cut
        again: from other bands, say, which the lists do not tell."""
        if (_time_written(self.folder) != self._written
                or _fingerprint(self.folder) != self.fingerprint):
            raise ValueError(f"{self.folder}: its tiles were replaced or removed meanwhile; choose "
                             "another --dataset for new tiles, and start this run again")

    def read_tile(self, row):
        """(image uint8 [size, size, channels], label uint8 [size, size]) of one row of a list.

        Raises OSError, ValueError naming the file.
        """
        image, label = self._read(row)
        if image.shape != self.shape:
            raise ValueError("{}: {} x {} pixels of {} band(s), not the {} x {} of {} of the first "
                             "tile; run preprocess.py again".format(
                                 row.image, *image.shape, *self.shape))
        return image, label

    def _read(self, row):
        # As maps do, tiles hold ids, whatever values the labels of scenes hold.
        image = read_tile_image(row.image)
        label = read_label(row.label, self.table.of_maps())
        if image.shape[:2] != label.shape:
            raise ValueError(f"{row.label}: its size differs from {row.image}; "
                             "run preprocess.py again")
        return image, label

    def name_faulty_tile(self):
        """Raises the ValueError or OSError of the first training tile that cannot be used; returns
        if all can. The graph only says that some tile could not be decoded; this looks which."""
        for row in self.training.itertuples():
            self.read_tile(row)
            if cv2.imread(row.label, cv2.IMREAD_UNCHANGED).ndim != 2:
                raise ValueError(f"{row.label}: a tile's label has one band of class ids; colour "
                                 "masks go through preprocess.py")


def _time_written(folder):
    """When the list of the training tiles was written, in nanoseconds; None where there is none."""
    with contextlib.suppress(OSError):
        return os.stat(os.path.join(folder, TRAINING_LIST)).st_mtime_ns


def _fingerprint(folder):
    digest = hashlib.sha256()
    for name in (TRAINING_LIST, FREQUENCIES):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            with open(path, "rb") as file:
                digest.update(file.read())
    return digest.hexdigest()[:16]


def read_tile_list(folder, name=TRAINING_LIST):
    """One list of the tile set in `folder`, its columns image and label made full paths.

    Raises FileNotFoundError, ValueError where the list is missing, empty or not one of ours.
    """
    path = os.path.join(folder, name)
    try:
        tiles = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no list of tiles there; run 'python preprocess.py "
                                f"--dataset {folder}' first") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a list of tiles ({error}); "
                         "run preprocess.py again") from None
    if not {"image", "label"} <= set(tiles.columns):
        raise ValueError(f"{path}: it has no columns image and label; run preprocess.py again")
    if name == TRAINING_LIST and tiles.empty:
        raise ValueError(f"{path}: it names no tile; run preprocess.py again")
    for column in ("image", "label"):
        tiles[column] = [os.path.join(folder, file) for file in tiles[column]]
    return tiles


def held_out_scenes(folder):
    """The held-out Scenes that preprocess.py noted in `folder`, whether or not their files are
    still there; [] where it noted none."""
    path = os.path.join(folder, SCENES)
    scenes = read_scene_table(path, check=False) if os.path.exists(path) else []
    return [scene for scene in scenes if scene.split == TEST]


def read_bands(folder):
    """The TileInput that `write_lists` noted in `folder`, as a dict without what is None. Raises
    ValueError naming the file."""
    path = os.path.join(folder, BANDS)
    try:
        with open(path, encoding="utf-8") as file:
            noted = json.load(file)
        bands, stretch = noted["bands"], noted["stretch"]
        if bands and not are_bands(bands) or stretch and not (
                are_limits(stretch) and len(stretch) == len(bands)):
            raise ValueError
        if noted.get("resample"):
            noted["resample"] = Resample(**noted["resample"])
        return {name: noted[name] for name in TileInput._fields if noted.get(name)}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: not what preprocess.py writes; run it again") from None


def read_label_options(folder):
    """The LabelOptions noted in `folder`, those of no flags where none are. Raises ValueError
    naming the file."""
    path = os.path.join(folder, LABELS)
    try:
        with open(path, encoding="utf-8") as file:
            options = LabelOptions(**json.load(file))
        return dataclasses.replace(options, aoi=options.aoi and os.path.join(folder, options.aoi))
    except FileNotFoundError:
        return LabelOptions()
    except (ValueError, TypeError):
        raise ValueError(f"{path}: not what preprocess.py writes; run it again") from None


def are_bands(value):
    """Whether a plain value is numbers of bands."""
    return (isinstance(value, list) and len(value) > 0
            and all(type(band) is int and band > 0 for band in value))


def are_limits(value):
    """Whether a plain value is a stretch: a list of pairs of numbers, low < high."""
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(type(x) in (int, float) for x in pair)
        and -np.inf < pair[0] < pair[1] < np.inf for pair in value)


def _check_class_names(folder, table):
    """Raises ValueError where the tiles were cut with other names for the ids of `table`; classes
    that only one of them has may follow."""
    path = os.path.join(folder, FREQUENCIES)
    try:
        names = pd.read_csv(path, dtype={"name": str}).set_index("id")["name"].drop(IGNORE)
    except (OSError, KeyError, ValueError):  # `class_pixels` tells where it is needed
        return
    other = [f"{number} is {name}, not {table.names[number]}" for number, name in names.items()
             if number < len(table) and name != table.names[number]]
    if other:
        raise ValueError(f"{path}: the tiles were cut with another class table ({other[0]}); give "
                         "the --classes of preprocess.py, or run that again")


def read_tile_image(path):
    """uint8 [size, size, channels] of a PNG of `encode_tile`. Raises OSError, ValueError."""
    with Raster(path) as tile:
        size, channels = tile.width, tile.height // tile.width
        if tile.dtype == np.uint8 and tile.bands >= len(RGB):
            return tile.samples(0, 0, tile.height, size, RGB)
        if tile.dtype == np.uint8 and tile.bands == 1 and tile.height == channels * size:
            grey = tile.samples(0, 0, tile.height, size, (1,))
            return np.moveaxis(grey.reshape(channels, size, size), 0, -1)
        raise ValueError(f"{path}: not a tile (RGB, or bands of one size below each other, of 8 "
                         "bits); run preprocess.py again")
