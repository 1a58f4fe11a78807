"""Scenes and labels open for reading, window by window. (Maps are written by utils.inference.map_writer.)

TIFFs stay on disk and GDAL (rasterio) reads what is asked for; PNG and JPEG can only be decoded
from the top, so they are decoded once, by OpenCV, and held in memory.
"""

import contextlib
import logging
import os
import threading
import warnings

import cv2
import numpy as np

# Tiles that GDAL holds, in megabytes; its own default is a share of the machine's memory. Read
# from the environment, since rasterio's own settings hold for one thread only.
os.environ.setdefault("GDAL_CACHEMAX", "256")
import rasterio  # noqa: E402
from rasterio.enums import ColorInterp  # noqa: E402
from rasterio.errors import NotGeoreferencedWarning  # noqa: E402
from rasterio.windows import Window  # noqa: E402

from utils.classes import decode_colours, decode_values  # noqa: E402
from utils.files import check_plain  # noqa: E402

# What is wrong with a file is said by the errors below, not by the libraries' lines on stderr.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
logging.getLogger("rasterio").setLevel(logging.CRITICAL)
warnings.simplefilter("ignore", NotGeoreferencedWarning)

TIFF = (".tif", ".tiff")
RGB = (1, 2, 3)
# Of a pixel, by which two rasters of one place may differ.
SHIFT_ALLOWED = 0.1
# A stretch takes these percentiles of each band to black and white.
STRETCH_PERCENTILES = (2, 98)
# ... estimated from about so many pixels a side of the scene.
SAMPLED_SIDE = 1024


def is_gdal_error(error):
    """Whether rasterio raised it. Not all that it raises of GDAL's has a public name."""
    return type(error).__module__.split(".")[0] == "rasterio"


class Raster:
    """A raster open for reading; any thread may read. Use it in a `with` statement.

    height, width: pixels. bands: their number. dtype: of the samples. is_tiff: read from disk.
    Raises OSError where the file cannot be opened and ValueError where it is damaged or no image.
    """

    def __init__(self, path):
        self.path = path
        self._lock = threading.Lock()
        self.is_tiff = path.lower().endswith(TIFF)
        if self.is_tiff:
            _check_readable(path)
            with self._reading():
                self._dataset = rasterio.open(path)
            self.height, self.width, self.bands = (
                self._dataset.height, self._dataset.width, self._dataset.count)
            self.dtype = self._dtype()
            # A file that was cut off lacks its end: better noticed now than after hours.
            self.samples(self.height - 1, self.width - 1, 1, 1, (1,))
        else:
            self._pixels = _decode(path)
            self.height, self.width, self.bands = self._pixels.shape
            self.dtype = self._pixels.dtype

    def _dtype(self):
        """That of the samples, for numpy."""
        name = self._dataset.dtypes[0]
        try:
            return np.dtype(name)
        except TypeError:  # complex_int16
            raise ValueError(f"{self.path}: samples of {name}; convert them to whole or real "
                             "numbers") from None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.is_tiff:
            self._dataset.close()

    def samples(self, top, left, height, width, bands):
        """The samples of a window as they are stored, [height, width, len(bands)]; bands from 1."""
        if not self.is_tiff:
            part = self._pixels[top:top + height, left:left + width]
            every = bands == tuple(range(1, self.bands + 1))
            return part if every else part[..., [band - 1 for band in bands]]
        with self._lock, self._reading():
            samples = self._dataset.read(list(bands), window=Window(left, top, width, height))
        return np.moveaxis(samples, 0, -1)

    def has_data(self, top, left, height, width):
        """bool [height, width]: False where nodata value, mask or alpha say that nothing is."""
        if not self.is_tiff:
            part = self._pixels[top:top + height, left:left + width]
            return part[..., -1] > 0 if self.bands in (2, 4) else np.ones(part.shape[:2], bool)
        with self._lock, self._reading():
            return self._dataset.dataset_mask(window=Window(left, top, width, height)) > 0

    def palette(self):
        """RGB uint8 [256, 3] of a band with a colour table, or None. (OpenCV applies it itself.)"""
        if not self.is_tiff or self.bands != 1:
            return None
        try:
            table = self._dataset.colormap(1)
        except ValueError:
            return None
        colours = np.zeros((256, 3), np.uint8)
        colours[list(table)] = [colour[:3] for colour in table.values()]
        return colours

    def georeference(self):
        """crs, transform and ground control points as rasterio's arguments, where there are any."""
        if not self.is_tiff:
            return {}
        found = {"crs": self._dataset.crs, "transform": self._dataset.transform}
        points, points_crs = self._dataset.gcps
        if points:
            found |= {"gcps": points, "crs": points_crs}
            del found["transform"]
        return found

    def sample(self, bands):
        """Samples [pixels, len(bands)] from all over the raster, and which of them are data.

        From the overviews where there are some, otherwise from a grid of small windows.
        """
        if self.is_tiff and self._dataset.overviews(1):
            share = min(1, SAMPLED_SIDE / max(self.height, self.width))
            size = max(1, round(self.height * share)), max(1, round(self.width * share))
            with self._lock, self._reading():
                samples = self._dataset.read(list(bands), out_shape=(len(bands), *size))
                data = self._dataset.dataset_mask(out_shape=size) > 0
            return samples.reshape(len(bands), -1).T, data.ravel()
        parts = [(self.samples(*window, bands).reshape(-1, len(bands)),
                  self.has_data(*window).ravel())
                 for window in _sample_windows(self.height, self.width)]
        samples, data = zip(*parts)
        return np.concatenate(samples), np.concatenate(data)

    @contextlib.contextmanager
    def _reading(self):
        # The environment turns GDAL's messages into Python's, in whichever thread reads.
        try:
            with rasterio.Env():
                yield
        except Exception as error:
            if not is_gdal_error(error):
                raise
            raise _broken(self.path) from None


def check_same_place(raster, other):
    """Raises ValueError, saying by how much, where two Rasters of one size are both georeferenced
    and do not lie on each other to SHIFT_ALLOWED of a pixel. `other` takes the blame."""
    one, two = raster.georeference(), other.georeference()
    if not (one.get("crs") and two.get("crs") and "transform" in one and "transform" in two):
        return
    if one["crs"] != two["crs"]:
        raise ValueError(f"{other.path}: its CRS is {two['crs']}, but {raster.path} has "
                         f"{one['crs']}; reproject it to the same grid")
    corners = [(0, 0), (other.width, 0), (0, other.height)]
    shifts = [np.subtract(~one["transform"] * (two["transform"] * corner), corner)
              for corner in corners]
    if np.abs(shifts).max() > SHIFT_ALLOWED:
        columns, rows = shifts[0]
        more = "" if np.allclose(shifts, shifts[0], atol=SHIFT_ALLOWED) else (
            ", and its pixels have another size or direction")
        raise ValueError(f"{other.path}: it lies {columns:+.4g} columns and {rows:+.4g} rows off "
                         f"{raster.path}{more}; warp it to the same grid")


class Image(Raster):
    """A scene open for reading as uint8, RGB unless other bands are chosen.

    bands: band numbers from 1, any number of them, in the order in which they are read. stretch: a
    pair (low, high) for each; samples of other than 8 bits are taken from them to 0 and 255. None
    takes the 2nd and 98th percentile of the scene itself. The pairs used are `stretch`, None for a
    scene of 8 bits.
    """

    def __init__(self, path, bands=RGB, stretch=None):
        super().__init__(path)
        self.chosen_bands = tuple(bands)
        if not self.is_tiff and max(bands) > len(RGB):
            raise ValueError(f"{path}: there is no band {max(bands)}; a PNG or JPEG has red, green "
                             "and blue at most, so other --bands need a GeoTIFF")
        if max(bands) > self.bands:
            advice = f"there is no band {max(bands)}; choose others with --bands"
            if tuple(bands) == RGB:
                advice = ("a scene needs three bands (red, green, blue); say which with --bands, "
                          f"as in --bands {'1 1 1' if self.bands < 3 else '3 2 1'}")
            raise ValueError(f"{path}: {self.bands} band(s) of {self.dtype}; {advice}")
        if self.dtype.kind not in "uif":
            raise ValueError(f"{path}: samples of {self.dtype}; a scene holds whole or real "
                             "numbers")
        # GDAL takes the last of four bands of 8 bits for alpha; chosen as a band, it is none.
        self._alpha_is_data = self.is_tiff and any(
            self._dataset.colorinterp[band - 1] == ColorInterp.alpha for band in bands)
        self.stretch = None
        if self.dtype != np.uint8:
            if stretch is None:
                stretch = percentile_stretch(self.sampled_data())
            self.stretch = np.array(stretch, np.float32)

    def read(self, top, left, height, width):
        """uint8 [height, width, bands] of a window within the scene."""
        samples = self.samples(top, left, height, width, self.chosen_bands)
        if self.stretch is None:
            return samples
        low, high = self.stretch.T
        # Clipped first: nodata such as -3.4e38 would overflow, with a warning on stderr.
        samples = np.clip(np.nan_to_num(samples, nan=0, posinf=0, neginf=0), low, high)
        samples = samples.astype(np.float32)
        return np.clip((samples - low) * (255 / (high - low)) + .5, 0, 255).astype(np.uint8)

    def has_data(self, top, left, height, width):
        data = (np.ones((height, width), bool) if self._alpha_is_data
                else super().has_data(top, left, height, width))
        if self.dtype.kind == "f":
            samples = self.samples(top, left, height, width, self.chosen_bands)
            data &= np.isfinite(samples).all(axis=-1)
        return data

    def sampled_data(self):
        """float64 [pixels, bands]: samples from all over the scene, without nodata."""
        samples, data = self.sample(self.chosen_bands)
        return samples[data & np.isfinite(samples).all(axis=-1)].astype(np.float64)


def percentile_stretch(samples):
    """Pairs (low, high) of each column of samples [pixels, bands], as plain floats."""
    if not len(samples):
        return [(0.0, 1.0)] * samples.shape[1]
    low, high = np.percentile(samples, STRETCH_PERCENTILES, axis=0).tolist()
    return [(a, b if b > a else a + 1) for a, b in zip(low, high)]


class Label(Raster):
    """A label open for reading as class ids; table: the ClassTable that it follows."""

    def __init__(self, path, table):
        super().__init__(path)
        self._table = table
        if self.bands > 1 and (self.dtype != np.uint8 or self.bands < 3):
            raise ValueError(f"{path}: {self.bands} bands of {self.dtype}; a label has one band of "
                             "class ids or three of 8-bit colours")
        self._palette = self.palette()

    def read(self, top, left, height, width):
        """Class ids uint8 [height, width] from ids or colours. Raises ValueError where one is
        not in the table."""
        if self.bands >= 3:
            return decode_colours(self.samples(top, left, height, width, RGB), self._table,
                                  self.path)
        pixels = self.samples(top, left, height, width, (1,))[..., 0]
        if self._palette is not None:
            # Palettes come in any order, so their colours decide where the table knows them.
            with contextlib.suppress(ValueError):
                return decode_colours(self._palette[pixels], self._table, self.path)
        return decode_values(pixels, self._table, self.path)


def _sample_windows(height, width, windows=12, side=SAMPLED_SIDE // 12):
    """(top, left, height, width) of a regular grid of windows over a raster."""
    def starts(length):
        return sorted({round(start) for start in np.linspace(0, max(0, length - side), windows)})

    for top in starts(height):
        for left in starts(width):
            yield top, left, min(side, height), min(side, width)


def _check_readable(path):
    try:
        path.encode()
    except UnicodeEncodeError:  # GDAL's names are UTF-8, and so are our tables
        raise ValueError(f"{path}: its name, or a folder's, is not UTF-8; rename it") from None
    check_plain(path)
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise OSError(f"{path}: could not be read ({error.strerror}); check the name and the "
                      "permissions") from None


def _decode(path):
    """PNG or JPEG as OpenCV decodes it, but RGB(A): [height, width, bands]."""
    _check_readable(path)
    with open(path, "rb") as file:
        data = file.read()
    if not _is_complete(data):
        raise _broken(path)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"{path}: OpenCV cannot read it: {error.err or error}") from None
    if pixels is None:
        raise _broken(path)
    if pixels.ndim == 2:
        return pixels[..., None]
    codes = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
    return cv2.cvtColor(pixels, codes[pixels.shape[2]]) if pixels.shape[2] in codes else pixels


def _is_complete(data):
    """False for no data and for a PNG without its end: OpenCV would fill up the rest. (A JPEG that
    is cut off it refuses by itself.)"""
    if data.startswith(b"\x89PNG"):
        return b"IEND\xae\x42\x60\x82" in data[-64:]
    return len(data) > 0


def _broken(path):
    return ValueError(f"{path}: truncated or not an image; fetch or export it again")
