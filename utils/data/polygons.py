"""Polygons as labels and as areas of interest: read by pyogrio, burnt by rasterio window by window.

What is held in memory are the polygons that lie on the scene, in its CRS; nothing grows with its
pixels.
"""

import contextlib
from dataclasses import dataclass

import numpy as np
import pyogrio
import shapely
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.features import rasterize
from rasterio.transform import array_bounds
from rasterio.warp import transform, transform_bounds

from utils.classes import IGNORE, decode_attribute, id_of
from utils.data.gdal_files import is_gdal_error
from utils.data.label import Label, check_same_place, check_same_size
from utils.data.rasters import check_readable

POLYGONS = (".gpkg", ".geojson", ".shp")
# A scene's bounds in another CRS are found from points on its border, and so widened by this share.
MARGIN = 0.01


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
        geometries, self.values = _read(path, raster, attribute)
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


def _read(path, raster, attribute):
    """(geometries in the CRS of the raster, values of `attribute` or None), of the features that
    lie near it in the file's order."""
    check_readable(path)
    try:
        layer = _layer(path)
        info = pyogrio.read_info(path, layer=layer, force_feature_count=True)
        _check_kinds(path, [info["geometry_type"].split(" ")[0]])  # as in 'Polygon Z'
        fields = info["fields"].tolist()
        if attribute is not None and attribute not in fields:
            raise ValueError(f"{path}: " + (f"there is no attribute {attribute}" if attribute else
                             "which attribute holds the class is not said") + "; choose with "
                             f"--label_attribute among {', '.join(fields) or 'none'}")
        crs, to_scene = _placement(path, info["crs"], raster)
        _, numbers, found, columns = pyogrio.raw.read(
            path, layer=layer, columns=[attribute] if attribute else [], force_2d=True,
            bbox=_bounds(raster, crs), return_fids=True)
        geometries = shapely.from_wkb(found)
    except (RuntimeError, shapely.GEOSException) as error:  # pyogrio's errors are the former
        raise ValueError(f"{path}: no readable polygons ({error}); export them again") from None
    if not info["features"]:
        raise ValueError(f"{path}: it holds no polygon; export it again")
    # A GeoPackage's spatial index gives features in an order of its own. A GeoJSON has no index,
    # and its numbers may be anything.
    order = (np.argsort(numbers) if info["driver"] == "GPKG" else np.arange(len(numbers)))
    order = order[~(shapely.is_missing(geometries) | shapely.is_empty(geometries))[order]]
    geometries, values = geometries[order], columns[0][order] if attribute else None
    _check_kinds(path, [shapely.GeometryType(kind).name.title()
                        for kind in np.unique(shapely.get_type_id(geometries))])
    geometries = shapely.transform(geometries, to_scene)
    finite = np.isfinite(shapely.bounds(geometries)).all(axis=-1)
    if not finite.all():
        raise ValueError(f"{path}: {(~finite).sum()} polygons have no place in the CRS of "
                         f"{raster.path}; leave them out")
    return geometries, values


def _check_kinds(path, kinds):
    """Raises ValueError where a layer or its features are of other kinds than polygons."""
    others = [kind for kind in kinds if "Point" in kind or "Line" in kind or "Collection" in kind]
    if others:
        raise ValueError(f"{path}: it holds {', '.join(others)}, not polygons alone; leave out "
                         "what is none, or buffer it")


def _layer(path):
    """The name of the file's one layer with geometries (QGIS keeps its styles in another)."""
    layers = [name for name, kind in pyogrio.list_layers(path) if kind is not None]
    if len(layers) != 1:
        raise ValueError(f"{path}: {len(layers)} layers with geometries "
                         f"({', '.join(layers) or 'none'}); a label or an area of interest has one")
    return layers[0]


def _placement(path, crs, raster):
    """(CRS of the file or None, function from its coordinates [n, 2] to those of the scene)."""
    place = raster.georeference()
    if "gcps" in place:
        raise ValueError(f"{raster.path}: control points place it, on which polygons cannot be "
                         "laid; warp it first (gdalwarp)")
    scene_crs = place.get("crs")
    try:
        crs = CRS.from_user_input(crs) if crs else None
    except CRSError as error:
        raise ValueError(f"{path}: its CRS is not known ({error}); assign it again") from None
    if scene_crs and not crs:
        raise ValueError(f"{path}: it has no CRS, but {raster.path} has {scene_crs}; assign the "
                         "one that its coordinates are in")
    if crs and not scene_crs:
        raise ValueError(f"{path}: its CRS is {crs}, but {raster.path} has none; georeference the "
                         "scene, or give polygons without CRS in pixels (column, row)")

    def to_scene(points):
        if crs == scene_crs:
            return points
        try:
            return np.stack(transform(crs, scene_crs, *points.T), axis=-1)
        except Exception as error:
            if not is_gdal_error(error):
                raise
            raise ValueError(f"{path}: its coordinates cannot be brought from {crs} to {scene_crs} "
                             f"({error}); check its CRS") from None
    return crs, to_scene


def _bounds(raster, crs):
    """(left, bottom, right, top) around the raster in that CRS, so that of a country's polygons
    only a scene's are read; None where they are not known."""
    place = raster.georeference()
    corners = array_bounds(raster.height, raster.width, place.get("transform", Affine.identity()))
    corners = *np.minimum(corners[:2], corners[2:]), *np.maximum(corners[:2], corners[2:])
    if crs:
        try:
            corners = transform_bounds(place["crs"], crs, *corners)
        except Exception as error:
            if not is_gdal_error(error):
                raise
            return None
    left, bottom, right, top = corners
    if not np.isfinite(corners).all() or left > right:  # the latter beyond 180 degrees
        return None
    x, y = MARGIN * (right - left), MARGIN * (top - bottom)
    return left - x, bottom - y, right + x, top + y
