"""What of a map is written, and how: the flags of predict.py's output."""

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple

from utils.cli import above_zero
from utils.inference.area_table import mean_pixel_area

# Probabilities are written as whole numbers up to this one; 255 is left for nodata.
PROBABILITY_STEPS = 254
POLYGONS = ("gpkg", "geojson")


class Amount(NamedTuple):
    """A length or an area, in pixels, or in metres or square metres."""

    value: float
    in_pixels: bool


@dataclass(frozen=True)
class MapForm:
    """probabilities, confidence, polygons ('gpkg', 'geojson' or None): what is written beside the
    class map. min_area, simplify: Amounts or None. cog: GeoTIFFs are Cloud-Optimized."""

    probabilities: bool = False
    confidence: bool = False
    polygons: str = None
    min_area: Amount = None
    simplify: Amount = None
    cog: bool = False


def amount(text):
    """argparse type: '500' -> metres or square metres, '20px' -> pixels."""
    return Amount(above_zero(text.removesuffix("px")), text.endswith("px"))


def add_form_flags(add):
    """The flags of which `MapForm` is made. add: add_argument of a parser or group."""
    add("--probabilities", action="store_true",
        help="also write one band per class: 0 to 254 for probabilities of 0 to 1, 255 for nodata")
    add("--confidence", action="store_true",
        help="also write the winning class's probability as one band, in the same steps")
    add("--polygons", choices=POLYGONS,
        help="also write one layer with a polygon for each connected region: class, area, mean "
        "probability. Holds the whole map in memory")
    add("--min_area", type=amount, metavar="M2|NUMBERpx",
        help="merge smaller regions into their surroundings, in the map and the polygons: 500 for "
        "square metres, 20px for pixels. Holds the whole map in memory")
    add("--simplify", type=amount, metavar="M|NUMBERpx",
        help="smooth the borders of --polygons, without gaps or overlaps: 2 for metres, 1.5px for "
        "pixels")
    add("--cog", action="store_true", help="write GeoTIFFs as Cloud-Optimized GeoTIFFs")


def form_of(args):
    """The MapForm of parsed flags. Raises ValueError."""
    if args.simplify and not args.polygons:
        raise ValueError("--simplify goes with --polygons: the class map keeps its pixels")
    return MapForm(**{field.name: getattr(args, field.name)
                      for field in dataclasses.fields(MapForm)})


def check_form(form, image):
    """Raises ValueError where `form` asks for metres or degrees of an open Raster without place."""
    metres = [name for name in ("min_area", "simplify")
              if getattr(form, name) and not getattr(form, name).in_pixels]
    if (metres or form.polygons == "geojson") and _pixel_area(image) is None:
        raise ValueError(f"{image.path}: no CRS and transform, so " + (
            f"--{metres[0]} in metres means nothing; give pixels, as in --{metres[0]} 20px"
            if metres else "--polygons geojson, which is in degrees, cannot be written; "
            "choose --polygons gpkg"))


def area_in_pixels(area, image):
    """The least whole number of pixels of an area (Amount) on an open Raster."""
    return math.ceil(area.value if area.in_pixels else area.value / _pixel_area(image))


def length_in_pixels(length, image):
    """A length (Amount) in sides of an open Raster's mean pixel."""
    return length.value if length.in_pixels else length.value / math.sqrt(_pixel_area(image))


def _pixel_area(image):
    return mean_pixel_area(image.georeference(), image.height, image.width)
