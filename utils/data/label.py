"""A label as class ids, and whether it fits its image."""

import contextlib

import numpy as np
import rasterio
import rasterio.warp
from rasterio.enums import MaskFlags

from utils.classes import IGNORE, decode_colours, decode_values
from utils.data.gdal_files import ground_of
from utils.data.rasters import RGB, Raster, strips
from utils.data.resampling import resampled_label

# Of a pixel, by which two rasters of one place may differ.
SHIFT_ALLOWED = 0.1


class Label(Raster):
    """A label open for reading as class ids; table: the ClassTable that it follows.

    by_colours: whether its palette's colours decide, and not the values; None finds out. Ignored is
    what a mask or alpha of its own leaves out, and its nodata value where that, or its colour, is
    not in the table.
    """

    def __init__(self, path, table, by_colours=None):
        super().__init__(path)
        self._table = table
        if self.reads_windows and self.bands >= len(RGB):
            self._find_type(RGB)
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
        nodata, self._masked = None, self.bands == 4  # of a picture, the last one is alpha
        if self.reads_windows:
            nodata = self._dataset.nodata
            self._masked = MaskFlags.per_dataset in self._dataset.mask_flag_enums[0]
        self._has_nodata = self._masked or nodata is not None and (
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
        pixels = self.samples(*window, RGB if self.bands >= 3 else (1,))
        if self._palette is not None:
            pixels = self._palette[pixels[..., 0]]
        decode, pixels = ((decode_colours, pixels) if pixels.shape[2] > 1
                          else (decode_values, pixels[..., 0]))
        ids = decode(pixels, self._table, self.path, nodata)
        return np.where(nodata, np.uint8(IGNORE), ids) if self._masked else ids


def check_same_place(raster, other):
    """Raises ValueError, saying by how much, where two Rasters of one size are both georeferenced
    and do not lie on each other to SHIFT_ALLOWED of a pixel. The error names `other`."""
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
