"""The files of a mapped scene: class map, probabilities, pictures, polygons, strip by strip."""

import contextlib
import errno
import math
import os
import shutil

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.enums import Resampling
from rasterio.windows import Window

from utils.classes import IGNORE, colour_map
from utils.files import relative_path, remedy, replacing, write_bytes
from utils.inference.category_names import category_names
from utils.inference.map_form import (PROBABILITY_STEPS, MapForm, area_in_pixels,
                                      length_in_pixels)
from utils.inference.polygonize import merged_strips, write_polygons
from utils.inference.visualise import overlay, rgb_of
from utils.quiet import without_stderr
from utils.data.gdal_files import is_gdal_error
from utils.data.remote import is_remote
from utils.data.scenes import write_png

BLOCK = 256
# Pictures of larger scenes show every n-th pixel.
PICTURE_PIXELS = 1 << 24
SCORES = {"confusion": "confusion.png", "scores": "scores.csv", "matrix": "confusion.json"}
# Of all files that any call may write of a scene, after its name.
ENDINGS = ("class.tif", "class.png", "colour.png", "overlay.png", "area.csv", "probabilities.tif",
           "confidence.tif", "polygons.gpkg", "polygons.geojson", *SCORES.values())
# Bytes below which a disk that GDAL could not write to counts as full.
FULL_DISK = 1 << 20


def map_paths(folder, name, to_geotiff, form=MapForm(), scores=False):
    """Where the results of scene `name` go, as a dict; 'class' is written last of all."""
    endings = {"class": "class.tif" if to_geotiff else "class.png", "colour": "colour.png",
               "overlay": "overlay.png", "area": "area.csv"}
    endings |= {key: f"{key}.tif" for key in ("probabilities", "confidence") if getattr(form, key)}
    if form.polygons:
        endings["polygons"] = f"polygons.{form.polygons}"
    if scores:
        endings |= SCORES
    return {key: os.path.join(folder, f"{name}_{ending}") for key, ending in endings.items()}


def input_tags(image, folder):
    """Which scene it is, as seen from the map's `folder`, and how its samples became the model's
    input: for the map's file."""
    tags = {"image": _noted(image.path, folder), "bands": " ".join(map(str, image.chosen_bands))}
    if stretch := _stretch_of(image):
        tags["stretch"] = stretch
    if image.area:
        tags["aoi"] = os.path.basename(image.area.path)
    return tags


def _stretch_of(image):
    return image.stretch is not None and ", ".join(
        f"{low:g} {high:g}" for low, high in image.stretch)


def _noted(path, folder):
    """The path of a scene as its map notes it: of one on a server without the query, which may hold
    a password."""
    return path.split("?")[0] if is_remote(path) else relative_path(path, folder)


def describe(image, seen):
    """Size and stretch of an open Image, for the screen. seen: its view of which the model reads.
    """
    stretch = _stretch_of(image)
    return (f"{image.height} x {image.width} pixels"
            + (f", seen at {seen.height} x {seen.width}" if seen is not image else "")
            + (f", {image.dtype} stretched from {stretch}" if stretch else "")
            + (f", only inside {image.area.path}" if image.area else ""))


def find_complete(scene_paths):
    """The set of the scenes of which an earlier call has written every file; says so.

    scene_paths: {scene: its `map_paths`}. Raises ValueError where a map is of another scene of the
    same name, which is there still.
    """
    for scene, paths in scene_paths.items():
        _check_same_scene(scene.image_path, paths["class"])
    complete = [scene for scene, paths in scene_paths.items()
                if all(map(os.path.exists, paths.values()))]
    if complete:
        first, more = scene_paths[complete[0]]["class"], len(complete) - 1
        print(f"{first} and {more} more are there already; --overwrite maps them again" if more
              else f"{first} is there already; --overwrite maps it again")
    return set(complete)


def _check_same_scene(image_path, map_path):
    """Raises ValueError where the map notes another scene. (Maps of earlier versions note none.)"""
    if not os.path.exists(map_path):
        return
    folder, noted = os.path.dirname(map_path), None
    with contextlib.suppress(rasterio.errors.RasterioError):
        with rasterio.open(map_path) as dataset:
            noted = dataset.tags().get("image")
    if noted and noted != _noted(image_path, folder):
        other = noted if is_remote(noted) else os.path.normpath(os.path.join(folder, noted))
        if is_remote(noted) or os.path.exists(other):  # else it was moved
            raise ValueError(f"{map_path}: the map of {other}, not of {image_path}; choose another "
                             "folder with --out, or replace it with --overwrite")


def check_output_folder(folder, scenes, aoi=None):
    """Fails now rather than after the work; and never lets a map replace a scene's label, nor the
    area of interest at the path `aoi`."""
    inputs = {os.path.realpath(os.path.dirname(path)) for scene in scenes
              for path in (scene.image_path, scene.label_path) if path}
    if os.path.realpath(folder) in inputs:
        raise ValueError(f"{folder}: a scene or its label is in that folder, and the label could "
                         "be replaced by the map; choose another folder with --out")
    if aoi and os.path.realpath(aoi) in {
            os.path.join(os.path.realpath(folder), f"{scene.name}_{ending}")
            for scene in scenes for ending in ENDINGS}:
        raise ValueError(f"{aoi}: it would be replaced by what is written for that scene; rename "
                         "it, or choose another folder with --out")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise OSError(f"{folder}: could not be made ({error.strerror}); choose another folder with "
                      "--out") from None
    if not os.access(folder, os.W_OK):
        raise OSError(f"{folder}: not writable; choose another folder with --out")


@contextlib.contextmanager
def writing_map(paths, image, table, tags, form=MapForm()):
    """Gives a function that writes a map: from its strips (top, classes, probabilities), from the
    top down, to (top, classes) as they were written, which `form.min_area` changes.

    paths: of `map_paths`. image: utils.data.image.Image that is mapped. table: ClassTable. tags:
    dict of texts for the map files. classes: uint8 [rows, width], 255 for nodata; probabilities:
    float32 [rows, width, classes]. The class map gets its name when everything before it stands, so
    a class map says that all is there. Raises OSError naming the file that could not be written.
    """
    shape = image.height, image.width
    whole = np.empty((2, *shape), np.uint8) if "polygons" in paths else None
    with contextlib.ExitStack() as stack:
        if paths["class"].lower().endswith(".png"):
            write_classes = stack.enter_context(_writing_png(paths["class"], tags))
        else:
            write_classes = stack.enter_context(_writing_geotiff(
                paths["class"], image, 1, tags, table=table, cog=form.cog))
        write_steps = {
            key: stack.enter_context(_writing_geotiff(paths[key], image, len(names), tags,
                                                      names=names, cog=form.cog))
            for key, names in (("probabilities", table.names), ("confidence", ("confidence",)))
            if key in paths}
        pictures = _Pictures(image, table)

        def write_probabilities(strips):
            for top, classes, probabilities in strips:
                nodata = classes == IGNORE
                for key, write_rows in write_steps.items():
                    write_rows(_steps(probabilities if key == "probabilities" else
                                      probabilities.max(-1), nodata))
                if whole is not None:
                    whole[1, top:top + len(classes)] = _steps(probabilities.max(-1), nodata)
                yield top, classes

        def write(strips):
            written = write_probabilities(strips)
            if form.min_area:
                written = merged_strips(written, *shape, area_in_pixels(form.min_area, image))
            for top, classes in written:
                write_classes(classes)
                pictures.add(top, classes)
                if whole is not None:
                    whole[0, top:top + len(classes)] = classes
                yield top, classes
            # What comes now belongs to the new map: nothing of an old one may stand beside it.
            for path in [paths["class"], *_others_of(paths)]:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(path)

        yield write
        write_png(paths["colour"], colour_map(pictures.classes, table))
        write_png(paths["overlay"], pictures.overlay)
        if whole is not None:
            write_polygons(paths["polygons"], *whole, image, table, form.simplify and
                           length_in_pixels(form.simplify, image))


def _others_of(paths):
    """What an earlier call may have written of the scene, and this one does not."""
    start = paths["class"].rpartition("class.")[0]
    return [start + ending for ending in ENDINGS if start + ending not in paths.values()]


def _steps(probabilities, nodata):
    """Probabilities [rows, width] or [rows, width, bands] as they are stored, uint8."""
    steps = np.rint(probabilities * PROBABILITY_STEPS).astype(np.uint8)
    steps[nodata] = IGNORE
    return steps


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
def _writing_png(path, tags):
    """Gives a function for the next rows. PNG is for scenes that were held in memory anyway."""
    held = []
    yield held.append
    write_png(path, np.concatenate(held), tags)


@contextlib.contextmanager
def _writing_geotiff(path, image, bands, tags, table=None, names=(), cog=False):
    """Gives a function that writes the next rows, uint8 [rows, width] or [rows, width, bands].

    Of the size and place of `image`; tiled and deflated, with overviews, nodata 255; whole or not
    at all. bands: how many. table: ClassTable for the colours of a class map. names: of the bands,
    which then hold probabilities. cog: as a Cloud-Optimized GeoTIFF. Raises OSError naming `path`.
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
                if not cog:
                    with without_stderr():
                        dataset.build_overviews(_overview_factors(image), Resampling.nearest)
            finally:
                with without_stderr():
                    dataset.close()
            if cog:  # whose order of parts GDAL can only write from a whole file
                with replacing(temporary) as ordered, without_stderr():
                    rasterio.shutil.copy(
                        temporary, ordered, driver="COG", compress="deflate", blocksize=BLOCK,
                        overview_resampling="nearest", bigtiff="if_safer")
            if table is not None:
                write_bytes(path + ".aux.xml", category_names(table))
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


def _overview_factors(image):
    """2, 4, ... until the whole scene fits into a block."""
    side, factors = max(image.height, image.width), []
    while side > BLOCK * 2 ** len(factors):
        factors.append(2 ** (len(factors) + 1))
    return factors


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
