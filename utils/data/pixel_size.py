"""Ground sampling distance (GSD, metres a pixel) of scenes, and seeing scenes at another one."""

import math
import sys
from typing import NamedTuple

import numpy as np
from rasterio.crs import CRS
from rasterio.transform import from_gcps
from rasterio.warp import transform as transform_points

from utils.cli import number
from utils.data.gdal_files import is_gdal_error, maps_to_geotiff
from utils.data.rasters import Raster
from utils.data.resampling import resampled_label
from utils.data.scene_table import named

# Largest ratio of two pixel sizes that count as alike: a quarter.
ALIKE = 1.25
# Share by which --gsd may be missed, for factors that are whole numbers or one over such. The scale
# of UTM alone is up to a thousandth off.
SAME = 0.01
FACTORS = 0.01, 10


class Resample(NamedTuple):
    """The pixel size to see scenes at: `gsd` in metres, or `factor` on the number of rows and
    columns (0.5: half the resolution). The other one is None."""

    gsd: float = None
    factor: float = None

    def __str__(self):
        return f"--gsd {self.gsd:g}" if self.gsd else f"--resample {self.factor:g}"

    def to_json(self):
        """Plain values; Resample(**values) is the inverse."""
        return {name: value for name, value in self._asdict().items() if value}

    def view(self, image, label=None):
        """The open Image, or else its `label` (path, height, width, read), as it is seen at this
        pixel size of the image. Raises ValueError where a GSD is wanted and the image has none."""
        factors = self.factor, self.factor
        if self.gsd:
            metres = pixel_metres(image)
            if metres is None:
                raise ValueError(f"{image.path}: it is not georeferenced, so {self} cannot be met; "
                                 "give --resample FACTOR")
            factors = [_rounded(length / self.gsd) for length in metres]
        if not all(FACTORS[0] <= factor <= FACTORS[1] for factor in factors):
            raise ValueError(f"{image.path}: {self} resamples it by {factors[0]:.3g}; between "
                             f"{FACTORS[0]} and {FACTORS[1]} is possible")
        size = [max(1, round(side * factor))
                for side, factor in zip((image.height, image.width), factors)]
        return resampled_label(label, *size) if label else image.resampled(*size)


def _rounded(factor):
    """The factor itself, or a whole number, or one over such, where that is as good as the same."""
    if factor < 1:
        return 1 / _rounded(1 / factor)
    return round(factor) if abs(factor / round(factor) - 1) < SAME else factor


def add_pixel_size_flags(parser):
    """--gsd and --resample, of which one may be given; either makes args.resample a Resample."""
    add = parser.add_argument_group("pixel size").add_mutually_exclusive_group().add_argument
    add("--gsd", dest="resample", metavar="METRES",
        type=lambda text: Resample(gsd=number(float, above=0)(text)),
        help="see scenes at this ground sampling distance (metres a pixel); they must be "
        "georeferenced")
    add("--resample", metavar="FACTOR",
        type=lambda text: Resample(factor=number(float, *FACTORS)(text)),
        help="see scenes with so many times the rows and columns; .5 is half the resolution")


def pixel_metres(raster):
    """(height, width) of a pixel in the middle of an open Raster, metres on the ground; None where
    its place on the Earth is not known.

    Measured by PROJ in an azimuthal equidistant projection about that pixel, which is true to scale
    there (Snyder, Map Projections: A Working Manual, 1987, p. 191). So degrees, feet and Mercator's
    scale are no cases of their own.
    """
    place = raster.georeference()
    transform = from_gcps(place["gcps"]) if place.get("gcps") else place.get("transform")
    if not place.get("crs") or transform is None or transform.is_identity:
        return None
    row, column = raster.height / 2, raster.width / 2
    xs, ys = zip(*(transform * point for point in
                   ((column, row), (column, row + 1), (column + 1, row))))
    try:
        [longitude], [latitude] = transform_points(place["crs"], "EPSG:4326", xs[:1], ys[:1])
        local = CRS.from_dict(proj="aeqd", lon_0=longitude, lat_0=latitude, datum="WGS84")
        xs, ys = transform_points(place["crs"], local, xs, ys)
    except Exception as error:
        if not is_gdal_error(error):
            raise
        return None
    metres = tuple(math.hypot(x - xs[0], y - ys[0]) for x, y in zip(xs[1:], ys[1:]))
    return metres if all(map(math.isfinite, metres)) and min(metres) > 0 else None


def gsd_of(raster):
    """Metres a pixel of an open Raster, the root of a pixel's area, to six digits; or None."""
    metres = pixel_metres(raster)
    return metres and float(f"{math.sqrt(math.prod(metres)):.6g}")


def common_gsd(scenes, resample=None):
    """The median GSD of Scenes as seen at a Resample; None where none is georeferenced. Warns where
    one differs from it by more than a quarter."""
    found = {}
    for scene in scenes:
        if maps_to_geotiff(scene.image_path):  # without a georeference there is no GSD
            with Raster(scene.image_path) as raster:
                found[scene.name] = gsd_of(resample.view(raster) if resample else raster)
    found = {name: gsd for name, gsd in found.items() if gsd}
    if not found:
        return None
    gsd = float(np.median([*found.values()]))
    others = [name for name, other in found.items() if not _alike(gsd, other)]
    if others:
        print(f"warning: {named(others)}: {found[others[0]]:.3g} m a pixel, the median is "
              f"{gsd:.3g}; --gsd {gsd:.3g} brings all scenes to it")
    return gsd


def choose_resample(given, trained):
    """The Resample that flags gave or else, which a line tells, that of the training; or None."""
    if trained and not given:
        print(f"scenes are seen at {trained}, as the run was trained; --gsd or --resample changes "
              "that (--resample 1: their own pixels)")
    return given or trained


def warn_of_other_gsd(seen, trained, run):
    """A line on stderr where the open Image `seen` has another GSD than `trained` (or None), that
    of the run in the folder `run`, by more than a quarter."""
    gsd = trained and gsd_of(seen)
    if gsd and not _alike(gsd, trained):
        print(f"warning: {seen.path}: seen at {gsd:.3g} m a pixel, but {run} was trained at "
              f"{trained:.3g}; map it with --gsd {trained:.3g}", file=sys.stderr)


def _alike(one, other):
    return max(one, other) <= ALIKE * min(one, other)
