"""Which files GDAL may open, and what they say of their place on the ground."""

import os
from typing import NamedTuple

from utils.data.remote import is_remote  # (before rasterio)
from utils.files import check_plain
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.drivers import raster_driver_extensions
from rasterio.transform import Affine, RPCTransformer, from_gcps

# Files that may lie beside one are looked for one by one: in a folder of thousands faster than
# GDAL's list of all.
os.environ.setdefault("GDAL_DISABLE_READDIR_ON_OPEN", "TRUE")

# All formats that are opened, by GDAL's names; no other driver sees a file. None of them is made of
# other files, anywhere, as a VRT or an MRF is. (Raw ones, such as ENVI, are not here: GDAL fills a
# truncated one up with zeros.)
READ_BY_WINDOW = ("GTiff", "JP2OpenJPEG", "HFA", "NITF")
# These can only be decoded from the top. OpenCV does it, all at once, since GDAL's own decoder
# gives a JPEG other pixels; of GDAL only their georeference is taken.
PICTURES = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PNM")
# A list of other files, of any format and place: opened where the file's name says so.
BY_NAME_ONLY = "VRT"
# The `georeference` of a file that says nothing: its coordinates are columns and rows.
UNPLACED = {"crs": None, "transform": Affine.identity()}
# {extension: format} of the files that are scenes.
EXTENSIONS = {f".{extension}": driver for extension, driver in raster_driver_extensions().items()
              if driver in (*READ_BY_WINDOW, *PICTURES, BY_NAME_ONLY)}


def is_gdal_error(error):
    """Whether rasterio raised it. Not all that it raises of GDAL's has a public name."""
    return type(error).__module__.split(".")[0] == "rasterio"


def format_by_name(path):
    """GDAL's name of the format that the extension stands for, or None."""
    return EXTENSIONS.get(os.path.splitext(path)[1].lower())


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


def broken(path):
    """The ValueError for a file that cannot be decoded."""
    if format_by_name(path) == BY_NAME_ONLY:
        return ValueError(f"{path}: it or a file that it names is missing, truncated or not an "
                          "image; build it again")
    with open(path, "rb") as file:
        if b"<VRTDataset" in file.read(1024):
            return ValueError(f"{path}: a list of other files (VRT), which is opened only where "
                              "its name says so; rename it to .vrt")
    return ValueError(f"{path}: truncated or not an image; fetch or export it again")


def open_dataset(path):
    """The file open in GDAL, if one of the formats above. Raises rasterio's errors."""
    drivers = [*READ_BY_WINDOW, *PICTURES]
    if format_by_name(path) == BY_NAME_ONLY:
        drivers.append(BY_NAME_ONLY)
    # rasterio.open takes one driver only.
    return rasterio.DatasetReader(path, driver=drivers)


def georeference(dataset):
    """CRS, transform, ground control points and RPCs of an open dataset, as rasterio's arguments
    for one that is written."""
    points, points_crs = dataset.gcps
    found = ({"gcps": points, "crs": points_crs or CRS()} if points
             else {"crs": dataset.crs, "transform": dataset.transform})
    return found | ({"rpcs": dataset.rpcs} if dataset.rpcs else {})


def scaled(found, rows, columns):
    """A `georeference` on a grid whose pixels are `rows` x `columns` of the other; without RPCs."""
    scaled = {"crs": found.get("crs")}
    if "gcps" in found:
        scaled["gcps"] = [GroundControlPoint(p.row / rows, p.col / columns, p.x, p.y, p.z, p.id,
                                             p.info) for p in found["gcps"]]
    if "transform" in found:
        scaled["transform"] = found["transform"] * Affine.scale(columns, rows)
    return scaled


def is_georeferenced(found):
    """Whether a `georeference` says anything."""
    return bool(found["crs"]) or "gcps" in found or "rpcs" in found or _says_where(found)


def _says_where(found):
    transform = found.get("transform", Affine.identity())
    return not (transform.is_identity or transform.is_degenerate)


def maps_to_geotiff(path):
    """Whether the map of the scene at `path` is a GeoTIFF: all but pictures without a georeference
    on this machine. Of a file that cannot be opened its name decides."""
    if is_remote(path):
        return True
    try:
        if os.path.isfile(path):
            with rasterio.Env(), open_dataset(path) as dataset:
                return dataset.driver not in PICTURES or is_georeferenced(georeference(dataset))
    except Exception as error:
        if not (is_gdal_error(error) or isinstance(error, UnicodeEncodeError)):
            raise
    return format_by_name(path) not in (*PICTURES, None)


class Ground(NamedTuple):
    """crs: None where it is not known. transform: Affine from (column, row) to its coordinates."""

    crs: CRS
    transform: Affine


def ground_of(found, width, height):
    """The Ground of a raster of that size by its `georeference`, or None where that does not say.

    Of ground control points it is the least-squares plane, of RPCs that of three corners at
    height 0: enough to compare two rasters.
    """
    try:
        if "gcps" in found:
            crs, transform = found["crs"], from_gcps(found["gcps"])
        elif _says_where(found):
            crs, transform = found["crs"], found["transform"]
        elif "rpcs" in found:
            with RPCTransformer(found["rpcs"]) as to_ground:
                x, y = to_ground.xy([0, 0, height], [0, width, 0], offset="ul")
            crs, transform = CRS.from_epsg(4326), through_corners(x, y, width, height)
        else:
            return None
    except Exception as error:
        if not is_gdal_error(error):
            raise
        return None
    return None if transform.is_degenerate else Ground(crs, transform)


def through_corners(x, y, width, height):
    """The Affine that takes (0, 0), (width, 0) and (0, height) to the three points."""
    return Affine((x[1] - x[0]) / width, (x[2] - x[0]) / height, x[0],
                  (y[1] - y[0]) / width, (y[2] - y[0]) / height, y[0])
