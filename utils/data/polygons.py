"""Polygons as labels and as areas of interest: read by pyogrio, burnt by rasterio window by window.

What is held in memory are the polygons that lie on the scene, in its CRS; nothing grows with its
pixels.
"""

import contextlib
from dataclasses import dataclass

import numpy as np
import shapely
from rasterio import Affine
from rasterio.features import rasterize

from utils.classes import IGNORE, decode_attribute, id_of
from utils.data.label import Label, check_same_place, check_same_size
from utils.data.vector_files import read_polygons

POLYGONS = (".gpkg", ".geojson", ".shp")


@dataclass(frozen=True)
class LabelOptions:
    """What flags say of labels; None where they say nothing.

    attribute: that of polygons which holds the class. background: id or name of the class of pixels
    without a polygon, by default 255. aoi: path of polygons outside which nothing counts.
    keep_nodata: labels hold where the image has no data too.
    """

    attribute: str = None
    background: str = None
    aoi: str = None
    keep_nodata: bool = False

    def is_sparse(self, scene):
        """Whether tiles of a Scene without a valid pixel are left out."""
        return bool(self.aoi) or is_polygons(scene.label_path)

    @staticmethod
    def of(args, noted=None):
        """Those of parsed flags; `noted`, LabelOptions, has what they leave open."""
        noted = noted or LabelOptions()
        return LabelOptions(args.label_attribute or noted.attribute,
                            args.label_background or noted.background, args.aoi or noted.aoi,
                            # Where a map is scored it has 255 there itself.
                            getattr(args, "keep_nodata", True))


def add_label_flags(add):
    """The flags of LabelOptions; add: add_argument of a parser or a group."""
    add("--label_attribute", metavar="NAME",
        help="of labels that are polygons (.gpkg, .geojson, .shp) the attribute that holds the "
        "class: an id, a name or a value of the class table")
    add("--label_background", metavar="CLASS",
        help="id or name of the class of pixels without a polygon; by default 255, ignored")
    add("--aoi", metavar="FILE",
        help="polygons of the area of interest (.gpkg, .geojson, .shp): outside, labels are "
        "ignored and maps are 255")


def is_polygons(path):
    """Whether a label of that name is a file of polygons."""
    return path.lower().endswith(POLYGONS)


@contextlib.contextmanager
def open_label(scene, image, table, options=LabelOptions(), resample=None):
    """Gives the label of a Scene as something with path, height, width and `read` as that of
    utils.data.label.Label, from a raster or from polygons; 255 outside the area of interest and,
    unless the options say otherwise, where the image has no data.

    image: the scene's open Image. table: ClassTable. resample: the Resample at which image and
    label are seen, or None. Raises ValueError, OSError naming the file.
    """
    seen = resample.view(image) if resample else image
    with contextlib.ExitStack() as stack:
        if is_polygons(scene.label_path):
            label = PolygonLabel(scene.label_path, seen, table, options)
        else:
            label = stack.enter_context(Label(scene.label_path, table))
            check_same_size(scene, (image.height, image.width), (label.height, label.width))
            check_same_place(image, label)
            label = resample.view(image, label) if resample else label
        masks = []
        if area := open_area(seen, options):
            masks.append(area)
        if not (options.keep_nodata or image.is_complete):
            masks.append(seen)
        yield MaskedLabel(label, masks) if masks else label


def open_area(image, options):
    """The Area of LabelOptions on a scene's open Raster, or None. Raises ValueError, OSError."""
    return Area(options.aoi, image) if options.aoi else None


class Polygons:
    """The polygons of a file that lie on a raster; any thread may burn.

    path: of the file. height, width: of the raster, pixels. values: of `attribute`, one for each
    feature, or None without it. Raises ValueError, OSError naming the file.
    """

    def __init__(self, path, raster, attribute=None):
        self.path, self.height, self.width = path, raster.height, raster.width
        self._transform = raster.georeference().get("transform", Affine.identity())
        geometries, self.values = read_polygons(path, raster, attribute)
        # A multipolygon's parts one by one: a window then burns only those that lie in it.
        self._parts, self._features = shapely.get_parts(geometries, return_index=True)
        self._tree = shapely.STRtree(self._parts)
        if not len(self._meeting(0, 0, self.height, self.width, "intersects")):
            raise ValueError(f"{path}: none of its polygons lies on {raster.path}; give the "
                             "polygons of this scene, or check their CRS")

    # Nothing is open, and memory does not grow with the raster: as a TIFF on disk.
    reads_windows = True

    def again(self):
        """The same: any thread may burn."""
        return self

    def close(self):
        pass

    def _meeting(self, top, left, height, width, predicate=None):
        """Numbers of the parts that meet a window or, without predicate, whose bounds do."""
        window = shapely.box(left, top, left + width, top + height)
        window = shapely.transform(window, lambda points: np.stack(
            self._transform * points.T, axis=-1))
        return np.sort(self._tree.query(window, predicate))

    def burn(self, window, ids, background):
        """uint8 [height, width] of window (top, left, height, width): ids [features] where a
        pixel's centre lies in a feature, of several the last; elsewhere `background`. (Where
        an edge meets a centre to the last digit, rounding decides on which side it lies.)"""
        top, left, height, width = window
        found = self._meeting(*window)
        if not len(found):
            return np.full((height, width), background, np.uint8)
        return rasterize(zip(self._parts[found], ids[self._features[found]].tolist()),
                         (height, width), background, dtype="uint8",
                         transform=self._transform * Affine.translation(left, top))


class PolygonLabel(Polygons):
    """A label of polygons, read as class ids."""

    def __init__(self, path, raster, table, options):
        super().__init__(path, raster, options.attribute or "")
        self._ids = decode_attribute(self.values, table, f"{path}: {options.attribute}")
        self._background = (IGNORE if options.background is None else
                            id_of(options.background, table, "--label_background"))

    def read(self, top, left, height, width):
        """Class ids uint8 [height, width]."""
        return self.burn((top, left, height, width), self._ids, self._background)


class Area(Polygons):
    """An area of interest."""

    def has_data(self, top, left, height, width):
        """bool [height, width]: where a pixel's centre lies in it."""
        ones = np.ones(len(self._parts), np.uint8)
        return self.burn((top, left, height, width), ones, 0) > 0


class MaskedLabel:
    """A label that is 255 where one of `masks` has no data: an Area, or the open Image."""

    def __init__(self, label, masks):
        self._label, self._masks = label, masks
        self.path, self.height, self.width = label.path, label.height, label.width
        self.reads_windows = label.reads_windows

    def again(self):
        """The same label open once more."""
        return MaskedLabel(self._label.again(), [mask.again() for mask in self._masks])

    def close(self):
        for part in (self._label, *self._masks):
            part.close()

    def read(self, top, left, height, width):
        """Class ids uint8 [height, width]."""
        ids = self._label.read(top, left, height, width)
        for mask in self._masks:
            ids = np.where(mask.has_data(top, left, height, width), ids, np.uint8(IGNORE))
        return ids
