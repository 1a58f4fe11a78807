"""The files of a mapped scene, written strip by strip: class map, probabilities, pictures."""

import contextlib
import errno
import math
import os
import shutil

import numpy as np
import rasterio
from rasterio.windows import Window

from utils.classes import IGNORE, colour_map
from utils.files import remedy, replacing
from utils.inference.visualise import overlay, rgb_of
from utils.quiet import without_stderr
from utils.data.rasters import is_gdal_error
from utils.data.scenes import write_png

BLOCK = 256
# Probabilities are written as whole numbers up to this one; 255 is left for nodata.
PROBABILITY_STEPS = 254
# Pictures of larger scenes show every n-th pixel.
PICTURE_PIXELS = 1 << 26
# Bytes below which a disk that GDAL could not write to counts as full.
FULL_DISK = 1 << 20


def map_paths(folder, name, is_tiff, probabilities=False, scores=False):
    """Where the results of scene `name` go, as a dict; 'class' is written last of all."""
    endings = {"class": "class.tif" if is_tiff else "class.png", "colour": "colour.png",
               "overlay": "overlay.png"}
    if probabilities:
        endings["probabilities"] = "probabilities.tif"
    if scores:
        endings |= {"confusion": "confusion.png", "scores": "scores.csv",
                    "matrix": "confusion.json"}
    return {key: os.path.join(folder, f"{name}_{ending}") for key, ending in endings.items()}


def input_tags(image):
    """How the scene's samples became the model's input, for the map's file."""
    tags = {"bands": " ".join(map(str, image.chosen_bands))}
    if image.stretch is not None:
        tags["stretch"] = ", ".join(f"{low:g} {high:g}" for low, high in image.stretch)
    return tags


def describe(image):
    """Size and stretch of an open Image, for the screen."""
    stretch = input_tags(image).get("stretch")
    return (f"{image.height} x {image.width} pixels"
            + (f", {image.dtype} stretched from {stretch}" if stretch else ""))


def find_complete(scene_paths):
    """The set of the scenes of which an earlier call has written every file; says so.

    scene_paths: {scene: its `map_paths`}.
    """
    complete = [scene for scene, paths in scene_paths.items()
                if all(map(os.path.exists, paths.values()))]
    if complete:
        first, more = scene_paths[complete[0]]["class"], len(complete) - 1
        print(f"{first} and {more} more are there already; --overwrite maps them again" if more
              else f"{first} is there already; --overwrite maps it again")
    return set(complete)


def check_output_folder(folder, scenes):
    """Fails now rather than after the work; and never lets a map replace a scene's label."""
    inputs = {os.path.realpath(os.path.dirname(path)) for scene in scenes
              for path in (scene.image_path, scene.label_path) if path}
    if os.path.realpath(folder) in inputs:
        raise ValueError(f"{folder}: a scene or its label is in that folder, and the label could "
                         "be replaced by the map; choose another folder with --out")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise OSError(f"{folder}: could not be made ({error.strerror}); choose another folder with "
                      "--out") from None
    if not os.access(folder, os.W_OK):
        raise OSError(f"{folder}: not writable; choose another folder with --out")


@contextlib.contextmanager
def writing_map(paths, image, table, tags):
    """Gives a function (top, classes, probabilities) that writes the next rows of a map.

    paths: of `map_paths`. image: utils.data.rasters.Image that is mapped. table: ClassTable. tags:
    dict of texts for the GeoTIFFs. classes: uint8 [rows, width], 255 for nodata; probabilities:
    float32 [rows, width, classes]. The class map gets its name when everything before it stands, so
    a class map says that all is there. Raises OSError naming the file that could not be written.
    """
    with contextlib.ExitStack() as stack:
        if paths["class"].lower().endswith(".png"):
            write_classes = stack.enter_context(_writing_png(paths["class"]))
        else:
            write_classes = stack.enter_context(_writing_geotiff(
                paths["class"], image, 1, tags, table=table))
        write_probabilities = None
        if "probabilities" in paths:
            write_probabilities = stack.enter_context(_writing_geotiff(
                paths["probabilities"], image, len(table), tags, names=table.names))
        pictures = _Pictures(image, table)

        def write(top, classes, probabilities):
            write_classes(classes)
            if write_probabilities:
                steps = np.rint(probabilities * PROBABILITY_STEPS).astype(np.uint8)
                steps[classes == IGNORE] = IGNORE
                write_probabilities(steps)
            pictures.add(top, classes)

        yield write
        write_png(paths["colour"], colour_map(pictures.classes, table))
        write_png(paths["overlay"], pictures.overlay)


class _Pictures:
    """Classes, and scene with classes over it, at the size of a picture."""

    def __init__(self, image, table):
        self._scene, self._table = image, table
        self._step = math.ceil(math.sqrt(image.height * image.width / PICTURE_PIXELS))
        shape = -(-image.height // self._step), -(-image.width // self._step)
        self.classes, self.overlay = np.empty(shape, np.uint8), np.empty((*shape, 3), np.uint8)

    def add(self, top, classes):
        first, step = -top % self._step, self._step
        shown = classes[first::step, ::step]
        if len(shown):
            place = slice((top + first) // step, (top + first) // step + len(shown))
            scene = self._scene.read(top, 0, *classes.shape)[first::step, ::step]
            self.classes[place] = shown
            self.overlay[place] = overlay(rgb_of(scene), shown, self._table)


@contextlib.contextmanager
def _writing_png(path):
    """Gives a function for the next rows. PNG is for scenes that were held in memory anyway."""
    held = []
    yield held.append
    write_png(path, np.concatenate(held))


@contextlib.contextmanager
def _writing_geotiff(path, image, bands, tags, table=None, names=()):
    """Gives a function that writes the next rows, uint8 [rows, width] or [rows, width, bands].

    Of the size and place of `image`; tiled and deflated, nodata 255; whole or not at all. bands:
    how many. table: ClassTable for the colours of a class map. names: of the bands, which then hold
    probabilities. Raises OSError naming `path`.
    """
    with replacing(path) as temporary:
        try:
            dataset = rasterio.open(
                temporary, "w", driver="GTiff", height=image.height, width=image.width, count=bands,
                dtype="uint8", nodata=IGNORE, tiled=True, blockxsize=BLOCK, blockysize=BLOCK,
                compress="deflate", interleave="band", bigtiff="if_safer",
                **image.georeference())
            try:
                if table is not None:
                    colours = dict(enumerate(map(tuple, table.colours.tolist())))
                    dataset.write_colormap(1, colours | {IGNORE: table.ignore_colour})
                for band, name in enumerate(names, start=1):
                    dataset.set_band_description(band, name)
                if names:
                    dataset.scales = [1 / PROBABILITY_STEPS] * bands
                dataset.update_tags(**tags)
                rows = _BlockRows(dataset)
                yield rows.write
                rows.write_rest()
            finally:
                with without_stderr():
                    dataset.close()
        except Exception as error:
            if not is_gdal_error(error):
                raise
            # GDAL does not say why, and its file is still there to fill the disk.
            folder = os.path.dirname(temporary) or "."
            reason = str(error)
            if not os.path.isdir(folder):
                reason = os.strerror(errno.ENOENT)
            elif shutil.disk_usage(folder).free < FULL_DISK:
                reason = os.strerror(errno.ENOSPC)
            raise OSError(f"{path}: could not be written ({reason}); {remedy(reason)} or choose "
                          "another folder") from None


class _BlockRows:
    """Gathers rows until they fill a row of blocks: a compressed block written twice wastes its
    first place in the file."""

    def __init__(self, dataset):
        self._dataset, self._top, self._held = dataset, 0, []

    def write(self, rows):
        self._held.append(np.atleast_3d(rows))
        while sum(map(len, self._held)) >= BLOCK:
            held = np.concatenate(self._held)
            self._put(held[:BLOCK])
            self._held = [held[BLOCK:].copy()]

    def write_rest(self):
        if sum(map(len, self._held)):
            self._put(np.concatenate(self._held))

    def _put(self, rows):
        window = Window(0, self._top, rows.shape[1], len(rows))
        # TIFF's library complains of a full disk by itself, before GDAL raises its error.
        with without_stderr():
            self._dataset.write(np.moveaxis(rows, -1, 0), window=window)
        self._top += len(rows)
