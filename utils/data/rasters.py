"""Rasters open for reading, window by window; image.py and label.py say what their samples mean.

TIFFs and their like stay on disk and GDAL (rasterio) reads what is asked for; PNG and JPEG can only
be decoded from the top, so they are decoded once, by OpenCV, and held in memory.
"""

import contextlib
import copy
import logging
import os
import re
import threading
import warnings

import numpy as np

# Tiles that GDAL holds, in megabytes; its own default is a share of the machine's memory. Read
# from the environment, since rasterio's own settings hold for one thread only.
os.environ.setdefault("GDAL_CACHEMAX", "256")
from utils.data.remote import is_remote, reading_failed  # noqa: E402  (before rasterio)
import rasterio  # noqa: E402
import rasterio.warp  # noqa: E402
from rasterio.enums import Resampling  # noqa: E402
from rasterio.env import hasenv  # noqa: E402
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning  # noqa: E402
from rasterio.windows import Window  # noqa: E402

from utils.data.gdal_files import (PICTURES, UNPLACED, broken, check_readable,  # noqa: E402
                                   georeference, is_gdal_error, is_georeferenced, open_dataset,
                                   scaled)
from utils.data.pictures import decode_picture  # noqa: E402
from utils.data.resampling import resize_samples, resize_with_alpha  # noqa: E402

# What is wrong with a file is said by the errors below, not by the library's lines on stderr.
logging.getLogger("rasterio").setLevel(logging.CRITICAL)
warnings.simplefilter("ignore", NotGeoreferencedWarning)
warnings.simplefilter("ignore", NodataShadowWarning)

RGB = (1, 2, 3)
# About so many pixels a side of a raster are looked at where a sample of it has to do.
SAMPLED_SIDE = 1024
# Pixels of a strip, where a pass over a whole raster goes strip by strip.
STRIP_PIXELS = 1 << 22


class Raster:
    """A raster open for reading; any thread may read. Use it in a `with` statement.

    height, width: pixels. bands: their number. dtype: of the samples, of all bands or of the first.
    bits: of a sample as it is stored. reads_windows: whether a window is read from disk, as of a
    TIFF and all of READ_BY_WINDOW; else all pixels are in memory.
    Raises OSError where the file cannot be opened and ValueError where it is damaged or no image.
    """

    def __init__(self, path):
        self.path = path
        self._lock = threading.Lock()
        if not is_remote(path):
            check_readable(path)
        with self._reading():
            self._dataset = open_dataset(path)
            self._georeference = georeference(self._dataset)
        # What lies on a server GDAL decodes too.
        self.reads_windows = is_remote(path) or self._dataset.driver not in PICTURES
        if self.reads_windows:
            self.height, self.width, self.bands = (
                self._dataset.height, self._dataset.width, self._dataset.count)
            if not self.bands:
                raise broken(path)
            self._find_type((1,))
            # A file that was cut off lacks its end: better noticed now than after hours.
            self.samples(self.height - 1, self.width - 1, 1, 1, (1,))
        else:
            bits = _stored_bits(self._dataset)
            self._dataset.close()
            if not is_georeferenced(self._georeference):
                self._georeference = {}
            self._pixels, self.bits = decode_picture(path, bits)
            self.height, self.width, self.bands = self._pixels.shape
            self.dtype = self._pixels.dtype

    def resampled(self, height, width):
        """The raster on a grid of `height` x `width` pixels over the same ground: a view that reads
        the same open file. Samples are averages where that are fewer pixels, otherwise bilinear;
        GDAL takes them from overviews where the file has some."""
        if (height, width) == (self.height, self.width):
            return self
        view = copy.copy(self)
        view.height, view.width = height, width
        view._georeference = scaled(self._georeference or UNPLACED, self.height / height,
                                    self.width / width)
        if not self.reads_windows:
            resize = resize_with_alpha if self.bands in (2, 4) else resize_samples
            view._pixels = resize(self._pixels, height, width)
        return view

    def _find_type(self, bands):
        """Sets dtype and bits to those of these bands of a file that is read by window."""
        names = sorted({self._dataset.dtypes[band - 1] for band in bands})
        if len(names) > 1:
            raise ValueError(f"{self.path}: bands {' '.join(map(str, bands))} have samples of "
                             f"{' and '.join(names)}; choose bands of one type with --bands")
        try:
            self.dtype = np.dtype(names[0])
        except TypeError:  # complex_int16
            raise ValueError(f"{self.path}: samples of {names[0]}; convert them to whole or real "
                             "numbers") from None
        self.bits = _stored_bits(self._dataset, bands[0]) or 8 * self.dtype.itemsize

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.reads_windows:
            self._dataset.close()

    def samples(self, top, left, height, width, bands):
        """The samples of a window as they are stored, [height, width, len(bands)]; bands from 1."""
        if not self.reads_windows:
            part = self._pixels[top:top + height, left:left + width]
            every = bands == tuple(range(1, self.bands + 1))
            return part if every else part[..., [band - 1 for band in bands]]
        with self._lock, self._reading():
            return self._read(bands, out_shape=(height, width),
                              **self._in_file(top, left, height, width))

    def _read(self, bands, out_shape, **part):
        """[*out_shape, len(bands)] of what rasterio's arguments `part` say."""
        samples = self._dataset.read(list(bands), out_shape=(len(bands), *out_shape), **part)
        return np.moveaxis(samples, 0, -1)

    def has_data(self, top, left, height, width):
        """bool [height, width]: False where nodata value, mask or alpha say that nothing is."""
        if not self.reads_windows:
            part = self._pixels[top:top + height, left:left + width]
            return part[..., -1] > 0 if self.bands in (2, 4) else np.ones(part.shape[:2], bool)
        with self._lock, self._reading():
            return self._mask(out_shape=(height, width),
                              **self._in_file(top, left, height, width))

    def _mask(self, out_shape, **part):
        """bool [*out_shape] of what rasterio's arguments `part` say, as for has_data."""
        return self._dataset.dataset_mask(out_shape=out_shape, **part) > 0

    def _in_file(self, top, left, height, width):
        """rasterio's arguments that read this window of the grid from the file."""
        rows, columns = self._dataset.height / self.height, self._dataset.width / self.width
        return {"window": Window(left * columns, top * rows, width * columns, height * rows),
                "resampling": Resampling.average if rows * columns > 1 else Resampling.bilinear}

    def palette(self):
        """RGB uint8 [values, 3] of a band with a colour table, for all values of its type, or None.
        (OpenCV applies it itself.)"""
        if not self.reads_windows or self.bands != 1 or self.dtype not in (np.uint8, np.uint16):
            return None
        try:
            table = self._dataset.colormap(1)
        except ValueError:
            return None
        colours = np.zeros((np.iinfo(self.dtype).max + 1, 3), np.uint8)
        colours[list(table)] = [colour[:3] for colour in table.values()]
        return colours

    def georeference(self):
        """crs, transform, ground control points and RPCs as rasterio's arguments, where there are
        any."""
        return self._georeference

    def sample(self, bands):
        """Samples [pixels, len(bands)] from all over the raster, and which of them are data.

        From the overviews where there are some, otherwise of a large raster from a grid of windows.
        """
        if self.reads_windows and self._dataset.overviews(1):
            share = min(1, SAMPLED_SIDE / max(self.height, self.width))
            size = max(1, round(self.height * share)), max(1, round(self.width * share))
            with self._lock, self._reading():
                samples = self._read(bands, out_shape=size)
                data = self._mask(out_shape=size)
            return samples.reshape(-1, len(bands)), data.ravel()
        parts = [(self.samples(*window, bands).reshape(-1, len(bands)),
                  self.has_data(*window).ravel())
                 for window in _sample_windows(self.height, self.width)]
        samples, data = zip(*parts)
        return np.concatenate(samples), np.concatenate(data)

    @contextlib.contextmanager
    def _reading(self):
        # The environment turns GDAL's messages into Python's, in whichever thread reads. A thread
        # keeps its own: to make one takes as long as to read a small window.
        try:
            if not hasenv():
                rasterio.Env().__enter__()
            yield
        except Exception as error:
            if not is_gdal_error(error):
                raise
            raise (reading_failed(self.path, error) if is_remote(self.path)
                   else broken(self.path)) from None


def _stored_bits(dataset, band=1):
    """Of a sample in the file, if GDAL says so and they are not those of its type, or None."""
    told = dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", "")
    return int(told) if re.fullmatch("[1-9]|[1-6][0-9]", told) else None


def strips(height, width, multiple=None):
    """(top, rows) of strips down a raster, of STRIP_PIXELS at most but one row at least; none has
    both sides of a multiple of `multiple` rows."""
    most = max(1, STRIP_PIXELS // width)
    for start in range(0, height, multiple or height):
        end = min(start + (multiple or height), height)
        for top in range(start, end, most):
            yield top, min(most, end - top)


def read_strips(source, multiple=None):
    """(top, pixels) of the `strips` of what has height, width and read. Where a pixel of a strip
    cannot be decoded, the ValueError says which rows are meant."""
    for top, rows in strips(source.height, source.width, multiple):
        try:
            pixels = source.read(top, 0, rows, source.width)
        except ValueError as error:
            if rows == source.height:
                raise
            raise ValueError(f"{error} (rows {top} to {top + rows - 1}; those below were not "
                             "looked at)") from None
        yield top, pixels


def _sample_windows(height, width, windows=12, side=SAMPLED_SIDE // 12):
    """(top, left, height, width) of a regular grid of windows over a raster, or all of a small one.
    """
    if height * width <= SAMPLED_SIDE ** 2:
        yield 0, 0, height, width
        return

    def starts(length):
        return sorted({round(start) for start in np.linspace(0, max(0, length - side), windows)})

    for top in starts(height):
        for left in starts(width):
            yield top, left, min(side, height), min(side, width)
