"""Files of polygons (GeoPackage, GeoJSON, Shapefile), read by pyogrio into a scene's own CRS."""

import numpy as np
import pyogrio
import shapely
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.transform import array_bounds
from rasterio.warp import transform, transform_bounds

from utils.data.gdal_files import check_readable, is_gdal_error

# A scene's bounds in another CRS are found from points on its border, and so widened by this share.
MARGIN = 0.01


def read_polygons(path, raster, attribute):
    """(geometries in the CRS of the raster, values of `attribute` or None), of the features that
    lie near it in the file's order.

    Shapely polygons [n] and an array [n]. raster: an open Raster. attribute: None for none.
    Raises ValueError, OSError naming the file and what to do.
    """
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
