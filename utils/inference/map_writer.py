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
from utils.files import remedy, replacing, write_bytes
from utils.inference.category_names import category_names
from utils.inference.map_files import others_of
from utils.inference.map_form import (PROBABILITY_STEPS, MapForm, area_in_pixels,
                                      length_in_pixels)
from utils.inference.polygonize import merged_strips, write_polygons
from utils.inference.visualise import overlay, rgb_of
from utils.quiet import without_stderr
from utils.data.gdal_files import is_gdal_error
from utils.data.scenes import write_png

BLOCK = 256
# Pictures of larger scenes show every n-th pixel.
PICTURE_PIXELS = 1 << 24
# Bytes below which a disk that GDAL could not write to counts as full.
FULL_DISK = 1 << 20


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
            for path in [paths["class"], *others_of(paths)]:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(path)

        yield write
        write_png(paths["colour"], colour_map(pictures.classes, table))
        write_png(paths["overlay"], pictures.overlay)
        if whole is not None:
            write_polygons(paths["polygons"], *whole, image, table, form.simplify and
                           length_in_pixels(form.simplify, image))


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
