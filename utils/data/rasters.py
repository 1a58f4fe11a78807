"""Scenes and labels open for reading, window by window; utils.inference.map_writer writes maps.

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

import cv2
import numpy as np

# Tiles that GDAL holds, in megabytes; its own default is a share of the machine's memory. Read
# from the environment, since rasterio's own settings hold for one thread only.
os.environ.setdefault("GDAL_CACHEMAX", "256")
from utils.data.remote import is_remote, reading_failed  # noqa: E402  (before rasterio)
import rasterio  # noqa: E402
import rasterio.warp  # noqa: E402
from rasterio.enums import ColorInterp, MaskFlags, Resampling  # noqa: E402
from rasterio.env import hasenv  # noqa: E402
from rasterio.errors import NotGeoreferencedWarning  # noqa: E402
from rasterio.windows import Window  # noqa: E402

from utils.classes import decode_colours, decode_values  # noqa: E402
from utils.data.gdal_files import (BY_NAME_ONLY, PICTURES, format_by_name,  # noqa: E402
                                   georeference, ground_of, is_gdal_error, is_georeferenced,
                                   open_dataset, scaled)
from utils.data.resampling import resampled_label, resize_samples  # noqa: E402
from utils.files import check_plain  # noqa: E402

# What is wrong with a file is said by the errors below, not by the libraries' lines on stderr.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
logging.getLogger("rasterio").setLevel(logging.CRITICAL)
warnings.simplefilter("ignore", NotGeoreferencedWarning)

RGB = (1, 2, 3)
# Of a pixel, by which two rasters of one place may differ.
SHIFT_ALLOWED = 0.1
# A stretch takes these percentiles of each band to black and white.
STRETCH_PERCENTILES = (2, 98)
# ... estimated from about so many pixels a side of the scene.
SAMPLED_SIDE = 1024
# Pixels of a strip, where a pass over a whole raster goes strip by strip.
STRIP_PIXELS = 1 << 22


class Raster:
    """A raster open for reading; any thread may read. Use it in a `with` statement.

    height, width: pixels. bands: their number. dtype: of the samples. is_tiff: read from disk, as a
    TIFF is and all of READ_BY_WINDOW.
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
        self.is_tiff = is_remote(path) or self._dataset.driver not in PICTURES
        if self.is_tiff:
            self.height, self.width, self.bands = (
                self._dataset.height, self._dataset.width, self._dataset.count)
            if not self.bands:
                raise _broken(path)
            self.dtype = self._dtype()
            # A file that was cut off lacks its end: better noticed now than after hours.
            self.samples(self.height - 1, self.width - 1, 1, 1, (1,))
        else:
            self._dataset.close()
            if not is_georeferenced(self._georeference):
                self._georeference = {}
            self._pixels = _decode(path)
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
        view._georeference = scaled(self._georeference, self.height / height, self.width / width)
        if not self.is_tiff:
            view._pixels = resize_samples(self._pixels, height, width)
        return view

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
        self.close()

    def close(self):
        if self.is_tiff:
            self._dataset.close()

    def samples(self, top, left, height, width, bands):
        """The samples of a window as they are stored, [height, width, len(bands)]; bands from 1."""
        if not self.is_tiff:
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
        if not self.is_tiff:
            part = self._pixels[top:top + height, left:left + width]
            return part[..., -1] > 0 if self.bands in (2, 4) else np.ones(part.shape[:2], bool)
        with self._lock, self._reading():
            return self._dataset.dataset_mask(out_shape=(height, width), **self._in_file(
                top, left, height, width)) > 0

    def _in_file(self, top, left, height, width):
        """rasterio's arguments that read this window of the grid from the file."""
        rows, columns = self._dataset.height / self.height, self._dataset.width / self.width
        return {"window": Window(left * columns, top * rows, width * columns, height * rows),
                "resampling": Resampling.average if rows * columns > 1 else Resampling.bilinear}

    @property
    def bits(self):
        """Of a sample as it is stored, if GDAL says so; otherwise of its type."""
        told = self._dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "") if self.is_tiff else ""
        return int(told) if re.fullmatch("[1-9]|[1-6][0-9]", told) else 8 * self.dtype.itemsize

    def palette(self):
        """RGB uint8 [values, 3] of a band with a colour table, for all values of its type, or None.
        (OpenCV applies it itself.)"""
        if not self.is_tiff or self.bands != 1 or self.dtype not in (np.uint8, np.uint16):
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

        From the overviews where there are some, otherwise from a grid of small windows.
        """
        if self.is_tiff and self._dataset.overviews(1):
            share = min(1, SAMPLED_SIDE / max(self.height, self.width))
            size = max(1, round(self.height * share)), max(1, round(self.width * share))
            with self._lock, self._reading():
                samples = self._read(bands, out_shape=size)
                data = self._dataset.dataset_mask(out_shape=size) > 0
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
                   else _broken(self.path)) from None


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


def check_same_place(raster, other):
    """Raises ValueError, saying by how much, where two Rasters of one size are both georeferenced
    and do not lie on each other to SHIFT_ALLOWED of a pixel. `other` takes the blame."""
    if raster.georeference() == other.georeference():
        return
    one, two = (ground_of(each.georeference(), each.width, each.height) if each.georeference()
                else None for each in (raster, other))
    if one is None or two is None:
        return
    corners = [(0, 0), (other.width, 0), (0, other.height)]
    places = [two.transform * corner for corner in corners]
    is_other_crs = bool(one.crs and two.crs and one.crs != two.crs)
    if is_other_crs:  # or the same one in other words, which only its coordinates show
        with contextlib.suppress(rasterio.errors.RasterioError):
            places = zip(*rasterio.warp.transform(two.crs, one.crs, *zip(*places)))
    shifts = np.subtract([~one.transform * place for place in places], corners)
    if np.abs(shifts).max() <= SHIFT_ALLOWED:
        return
    if is_other_crs:
        raise ValueError(f"{other.path}: its CRS is {two.crs}, but {raster.path} has {one.crs}; "
                         "reproject it to the same grid")
    columns, rows = shifts[0]
    more = "" if np.allclose(shifts, shifts[0], atol=SHIFT_ALLOWED) else (
        ", and its pixels have another size or direction")
    raise ValueError(f"{other.path}: it lies {columns:+.4g} columns and {rows:+.4g} rows off "
                     f"{raster.path}{more}; warp it to the same grid")


def check_same_size(scene, image, label):
    """Raises ValueError where the shapes (height, width, ...) of image and label differ."""
    if image[:2] != label[:2]:
        raise ValueError(f"{scene.label_path}: {label[0]} x {label[1]} pixels (height x width), "
                         f"but its image {scene.image_path} has {image[0]} x {image[1]}; a label "
                         "must have its image's size")


class Image(Raster):
    """A scene open for reading as uint8, RGB unless other bands are chosen.

    bands: band numbers from 1, any number of them, in the order in which they are read. stretch: a
    pair (low, high) for each; samples of other than 8 bits are taken from them to 0 and 255. None
    takes the 2nd and 98th percentile of the scene itself. The pairs used are `stretch`, None for a
    scene of 8 bits. A palette is expanded to its colours, as three bands; samples of fewer than 8
    bits are scaled to 255. area: None, or a utils.data.polygons.Area; what lies outside counts as
    no data.
    """

    _palette = _levels = area = None

    def __init__(self, path, bands=RGB, stretch=None):
        super().__init__(path)
        self.chosen_bands = tuple(bands)
        self._palette = self.palette()
        if self._palette is not None:
            self.bands, self.dtype = len(RGB), np.dtype(np.uint8)
        elif self.is_tiff and self.dtype == np.uint8:
            if self.bits < 8:
                white = 2 ** self.bits - 1
                levels = np.minimum(np.arange(256), white) * (255 / white)
                self._levels = np.rint(levels).astype(np.uint8)
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
        self._alpha_is_data = self.is_tiff and self._palette is None and any(
            self._dataset.colorinterp[band - 1] == ColorInterp.alpha for band in bands)
        self.stretch = None
        if self.dtype != np.uint8:
            if stretch is None:
                stretch = percentile_stretch(self.sampled_data())
            self.stretch = np.array(stretch, np.float32)

    def _read(self, bands, out_shape, **part):
        if self._palette is not None:
            # Between two indices lies no colour.
            part["resampling"] = Resampling.nearest
            indices = super()._read((1,), out_shape, **part)[..., 0]
            return self._palette[indices][..., [band - 1 for band in bands]]
        samples = super()._read(bands, out_shape, **part)
        return samples if self._levels is None else self._levels[samples]

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
        if self.area:
            data = data & self.area.has_data(top, left, height, width)
        return data

    @property
    def is_complete(self):
        """Whether no pixel can be without data."""
        if not self.is_tiff:
            return self.bands not in (2, 4)
        return self.dtype.kind != "f" and (self._alpha_is_data or all(
            flags == [MaskFlags.all_valid] for flags in self._dataset.mask_flag_enums))

    def again(self):
        """The same image open once more."""
        image = Image(self.path, self.chosen_bands, self.stretch)
        return image.resampled(self.height, self.width)

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


def range_warning(image, limits):
    """A line that names both where the samples of an open Image lie in another range than a run's
    stretch limits, a pair (low, high) for each band or None. Otherwise None.

    That is where half of a band's range, from its 2nd to its 98th percentile, is beyond the limits,
    or where all bands lie within a tenth of them: input that is saturated or nearly even.
    """
    samples = image.sampled_data() if limits else []
    if not len(samples):
        return None
    own = percentile_stretch(samples)
    (first, last), (low, high) = np.transpose(own), np.transpose(limits)
    shared = np.minimum(last, high) - np.maximum(first, low)
    if (shared >= .5 * (last - first)).all() and (shared > .1 * (high - low)).any():
        return None
    told, known = (", ".join(f"{a:g} to {b:g}" for a, b in pairs) for pairs in (own, limits))
    taken = "the samples of 8 bits are taken as they are" if image.stretch is None else (
        "the samples are stretched from these all the same")
    return (f"warning: {image.path}: bands {' '.join(map(str, image.chosen_bands))} hold {told} "
            f"(2nd to 98th percentile), but the run was trained on {known}; {taken}, so check the "
            "scene's units")


class Label(Raster):
    """A label open for reading as class ids; table: the ClassTable that it follows.

    by_colours: whether its palette's colours decide, and not the values; None finds out. Where the
    label's own nodata value, or its colour, is not in the table, it is ignored.
    """

    def __init__(self, path, table, by_colours=None):
        super().__init__(path)
        self._table = table
        if self.bands > 1 and (self.dtype != np.uint8 or self.bands < 3):
            raise ValueError(f"{path}: {self.bands} bands of {self.dtype}; a label has one band of "
                             "class ids or three of 8-bit colours")
        self._palette = self._colours(by_colours)

    def _colours(self, by_colours):
        """Its palette, where its colours decide."""
        palette = self.palette()
        if palette is not None and self.bits == 1 and (
                sorted(palette[:2].tolist()) == [[0] * 3, [255] * 3]):
            palette = None  # GDAL's own for all samples of one bit, which are ids here
        nodata = self._dataset.nodata if self.is_tiff else None
        self._has_nodata = nodata is not None and (
            self.bands > 1 or palette is not None or nodata not in self._table.ids_of_values)
        if palette is not None and by_colours is None:
            by_colours = self._knows_colours(palette)
        return palette if by_colours else None

    def _knows_colours(self, palette):
        """Whether the table has all colours that occur. Palettes come in any order, so these decide
        then: for all windows alike, so that the whole label is looked at."""
        used = np.zeros(len(palette), bool)
        for top, rows in strips(self.height, self.width):
            window = top, 0, rows, self.width
            samples = self.samples(*window, (1,))[..., 0]
            used[samples[self.has_data(*window)] if self._has_nodata else samples] = True
        with contextlib.suppress(ValueError):
            decode_colours(palette[used], self._table, self.path)
            return True
        return False

    def again(self):
        """The same label open once more."""
        return Label(self.path, self._table, self._palette is not None)

    def resampled(self, height, width):
        """The label on a grid of `height` x `width` pixels over the same ground."""
        return resampled_label(self, height, width)

    def read(self, top, left, height, width):
        """Class ids uint8 [height, width] from ids or colours. Raises ValueError where one is
        not in the table."""
        window = top, left, height, width
        nodata = ~self.has_data(*window) if self._has_nodata else None
        if self.bands >= 3:
            return decode_colours(self.samples(*window, RGB), self._table, self.path, nodata)
        pixels = self.samples(*window, (1,))[..., 0]
        if self._palette is not None:
            return decode_colours(self._palette[pixels], self._table, self.path, nodata)
        return decode_values(pixels, self._table, self.path, nodata)


def _sample_windows(height, width, windows=12, side=SAMPLED_SIDE // 12):
    """(top, left, height, width) of a regular grid of windows over a raster."""
    def starts(length):
        return sorted({round(start) for start in np.linspace(0, max(0, length - side), windows)})

    for top in starts(height):
        for left in starts(width):
            yield top, left, min(side, height), min(side, width)


def check_readable(path):
    """Raises OSError naming `path` where it cannot be opened."""
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
    check_readable(path)
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
    if format_by_name(path) == BY_NAME_ONLY:
        return ValueError(f"{path}: it or a file that it names is missing, truncated or not an "
                          "image; build it again")
    with open(path, "rb") as file:
        if b"<VRTDataset" in file.read(1024):
            return ValueError(f"{path}: a list of other files (VRT), which is opened only where "
                              "its name says so; rename it to .vrt")
    return ValueError(f"{path}: truncated or not an image; fetch or export it again")
