"""Area on the ground: of pixels, and of each class of a map as a table."""

import re

import numpy as np
import pandas as pd
from rasterio.crs import CRS
from rasterio.enums import WktVersion
from rasterio.warp import transform as transform_points

from utils.files import write_text

WGS84 = CRS.from_epsg(4326)
# Of a scene, from which the mean area of a pixel is taken.
SAMPLED_ROWS = 100


def pixel_areas(georeference, rows, width):
    """Square metres of each pixel of `rows` (numbers, from the top): float64, to be broadcast to
    [len(rows), width]; None where the scene's place is not known.

    georeference: of utils.data.rasters.Raster. In degrees and in Mercator's projections (web
    Mercator too), whose metres are none, pixels are measured on the ellipsoid, by their centres'
    latitude; other projected CRS are taken as plane. On the ellipsoid an area of dx by dy radians
    is M N cos(latitude) dx dy, with the radii of curvature M and N of Snyder, Map Projections: A
    Working Manual (USGS Professional Paper 1395, 1987), equations 4-19 and 4-20.
    """
    crs, transform = georeference.get("crs"), georeference.get("transform")
    if not crs or transform is None or transform.is_identity:
        return None
    area = abs(transform.determinant)
    is_mercator = _is_mercator(crs)
    unit = crs.units_factor[1]  # metres or radians
    if not (crs.is_geographic or is_mercator):
        return np.full((len(rows), 1), area * unit ** 2)
    # Along a row the latitude changes only where the scene is turned.
    columns = np.arange(width) if transform.d else np.zeros(1)
    columns, rows = np.meshgrid(columns + 0.5, np.asarray(rows) + 0.5)
    y = transform.d * columns + transform.e * rows + transform.f
    major, flattening = _ellipsoid(WGS84 if is_mercator else crs)
    if is_mercator:
        latitude, degrees = _in_degrees(crs, y)
        area = area * degrees
    else:
        latitude, area = y * unit, area * unit ** 2
    squared = flattening * (2 - flattening)  # of the eccentricity
    curvature = 1 - squared * np.sin(latitude) ** 2
    return area * major ** 2 * (1 - squared) * np.cos(latitude) / curvature ** 2


def mean_pixel_area(georeference, height, width):
    """Square metres of a pixel, the mean over the scene; None where its place is not known."""
    rows = np.linspace(0, height - 1, min(height, SAMPLED_ROWS))
    areas = pixel_areas(georeference, rows, width)
    return None if areas is None else float(areas.mean())


def _is_mercator(crs):
    """Whether it is a normal Mercator projection, also as a part of a CRS with heights."""
    method = re.search(r'METHOD\["([^"]*)"', crs.to_wkt(version=WktVersion.WKT2_2019))
    return bool(method) and ("Pseudo Mercator" in method[1] or method[1].startswith("Mercator"))


def _in_degrees(crs, y, step=100):
    """Of points of a Mercator projection with these y: (latitude in radians, square radians of
    latitude and longitude in a square unit of the CRS), float64 of the shape of y, on WGS84.

    By PROJ; the derivatives are differences over `step` units to either side, whose error is below
    1e-10 of them."""
    shape, y = y.shape, y.ravel()
    x = np.zeros_like(y)

    def geographic(x, y):
        return np.radians(transform_points(crs, WGS84, x, y)[:2])

    latitude = geographic(x, y)[1]
    of_latitude = geographic(x, y + step)[1] - geographic(x, y - step)[1]
    west, east = geographic(x[:1] - step, y[:1])[0], geographic(x[:1] + step, y[:1])[0]
    scale = of_latitude * ((east - west + np.pi) % (2 * np.pi) - np.pi) / (2 * step) ** 2
    return latitude.reshape(shape), scale.reshape(shape)


def _ellipsoid(crs):
    """(semi-major axis in metres, flattening)."""
    wkt = crs.to_wkt(version=WktVersion.WKT2_2019)
    major, inverse = map(float, re.search(
        r'ELLIPSOID\["[^"]*",([\d.]+),([\d.]+)', wkt).groups())
    return major, 1 / inverse if inverse else 0.0


class ClassAreas:
    """Pixels and square metres by class, gathered strip by strip. image: an open Raster."""

    def __init__(self, image, table):
        self._georeference, self._table = image.georeference(), table
        self._pixels = np.zeros(len(table), np.int64)
        self._areas = np.zeros(len(table))

    def add(self, top, classes):
        """The next rows of the map, uint8 [rows, width]; 255 is not counted."""
        ids, count = classes.ravel(), len(self._table)
        self._pixels += np.bincount(ids, minlength=256)[:count]
        areas = pixel_areas(self._georeference, range(top, top + len(classes)), classes.shape[1])
        if areas is None:
            self._areas[:] = np.nan
        else:
            self._areas += np.bincount(ids, np.broadcast_to(areas, classes.shape).ravel(),
                                       minlength=256)[:count]

    def frame(self):
        """By class and of all: pixels, share of those that have a class, area_m2, hectares (NaN
        where the scene's place is not known)."""
        frame = pd.DataFrame({"pixels": self._pixels, "area_m2": self._areas},
                             index=pd.Index(self._table.names, name="class"))
        total = frame.sum(skipna=False).to_frame("all").T
        frame = pd.concat([frame, total]).rename_axis("class").astype({"pixels": np.int64})
        frame.insert(1, "share", frame["pixels"] / max(1, frame["pixels"].iloc[-1]))
        frame["hectares"] = frame["area_m2"] / 1e4
        return frame

    def write(self, path):
        write_text(path, self.frame().round({"share": 6, "area_m2": 2, "hectares": 6}).to_csv())

    def format(self):
        """The table as text for the screen."""
        frame = self.frame().drop(columns="area_m2")
        return frame.to_string(na_rep="-", formatters={
            "pixels": "{:,}".format, "share": "{:.4f}".format, "hectares": "{:,.4f}".format})
