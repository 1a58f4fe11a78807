"""Connected regions of a map: small ones merged into their surroundings, all as polygons.

Pixels are connected by their sides. Both need the whole map in memory: see docs/prediction.md.
"""

import warnings

import cv2
import numpy as np
import pyogrio
import shapely
from rasterio.features import shapes, sieve
from rasterio.transform import Affine

from utils.classes import IGNORE
from utils.files import replacing
from utils.inference.area_table import pixel_areas
from utils.inference.map_form import PROBABILITY_STEPS

# Bytes of a map are worked on in parts of about so many pixels.
PIXELS_AT_ONCE = 1 << 23


def merge_small_regions(classes, pixels):
    """A map uint8 [height, width] whose regions of fewer than `pixels` pixels are merged into their
    largest neighbour; nodata (255) stays as it is.

    GDAL's sieve leaves a small region alone if all its neighbours are small too, so it is called
    with thresholds that double. What stays is small and touches nothing but nodata or others like
    it.
    """
    pixels = min(pixels, classes.size)  # GDAL takes no more
    valid, threshold = classes != IGNORE, 2
    while threshold < 2 * pixels:
        classes = sieve(classes, min(threshold, pixels), mask=valid, connectivity=4)
        threshold *= 2
    return classes


def merged_strips(strips, height, width, pixels):
    """Yields (top, classes) of a map after `merge_small_regions`; strips: those of the map before
    it, all read first."""
    classes = np.empty((height, width), np.uint8)
    for top, rows in strips:
        classes[top:top + len(rows)] = rows
    classes = merge_small_regions(classes, pixels)
    step = max(1, PIXELS_AT_ONCE // width)
    for top in range(0, height, step):
        yield top, classes[top:top + step]


def label_regions(classes):
    """(labels int32 [height, width], ids uint8): regions are numbered from 1, `ids[number]` is a
    region's class; 0 is nodata."""
    labels, ids = np.zeros(classes.shape, np.int32), [np.full(1, IGNORE, np.uint8)]
    for number in np.flatnonzero(np.bincount(classes.ravel(), minlength=256)[:IGNORE]):
        mask = (classes == number).view(np.uint8)
        count, found = cv2.connectedComponents(mask, connectivity=4, ltype=cv2.CV_32S)
        np.add(labels, found + (sum(map(len, ids)) - 1), out=labels, where=mask.view(bool))
        ids.append(np.full(count - 1, number, np.uint8))
    return labels, np.concatenate(ids)


def polygons_of(labels):
    """(numbers, shapely Polygons) of the labelled regions, in columns and rows from the top left.
    """
    numbers, points, lengths, owners, parts = [], [], [], [], []

    def gather():
        rings = shapely.linearrings(np.array(points), indices=np.repeat(
            np.arange(len(lengths)), lengths))
        parts.append(shapely.polygons(rings, indices=np.array(owners)))
        for held in (points, lengths, owners):
            held.clear()

    for outline, number in shapes(labels, mask=labels > 0, connectivity=4):
        for ring in outline["coordinates"]:
            points.extend(ring)
            lengths.append(len(ring))
            owners.append(len(numbers) - sum(map(len, parts)))
        numbers.append(int(number))
        if len(points) > 1 << 20:  # tuples take many times the memory of an array
            gather()
    if points:
        gather()
    return np.array(numbers, np.int64), np.concatenate([np.empty(0, object), *parts])


def simplify_borders(polygons, tolerance):
    """Polygons that share all borders, simplified so that they still do; tolerance: pixels.

    The outer edge, that of the scene and of nodata, stays, and every region stays a polygon. See
    shapely.coverage_simplify.
    """
    # Where a border ends at the middle of another region's edge, that edge needs a vertex too.
    dense = shapely.transform(shapely.segmentize(polygons, 1.0), np.rint)
    simple = shapely.coverage_simplify(dense, tolerance, simplify_boundary=False)
    return shapely.coverage_simplify(simple, 1e-3)  # of the outer edge what is on a line


def region_values(labels, confidence, georeference):
    """(pixels, square metres or NaN, mean probability) by region number, from 0, as arrays."""
    count, width = int(labels.max(initial=0)) + 1, labels.shape[1]
    pixels, areas, steps = np.zeros((3, count))
    rows = max(1, PIXELS_AT_ONCE // width)
    for top in range(0, len(labels), rows):
        part = labels[top:top + rows]
        first, last = int(part.min()), int(part.max()) + 1
        ids = part.ravel() - first
        place = slice(first, last)
        pixels[place] += np.bincount(ids, minlength=last - first)
        steps[place] += np.bincount(ids, confidence[top:top + rows].ravel(), last - first)
        area = pixel_areas(georeference, range(top, top + len(part)), width)
        areas[place] += np.nan if area is None else np.bincount(
            ids, np.broadcast_to(area, part.shape).ravel(), last - first)
    return pixels.astype(np.int64), areas, steps / PROBABILITY_STEPS / np.maximum(pixels, 1)


def write_polygons(path, classes, confidence, image, table, tolerance=None):
    """Writes a layer with a polygon for each region: a GeoPackage or, by the name's end, GeoJSON.

    classes: uint8 [height, width], 255 for nodata. confidence: uint8 [height, width], the winning
    class's probability in PROBABILITY_STEPS. image: open Raster, for its place. tolerance: pixels
    to simplify by. Without a transform the layer is in columns and minus rows, as GIS show such a
    picture. GeoJSON is in degrees (RFC 7946). Raises OSError naming `path`.
    """
    labels, ids = label_regions(classes)
    georeference = image.georeference()
    pixels, areas, probabilities = region_values(labels, confidence, georeference)
    numbers, polygons = polygons_of(labels)
    del labels
    if tolerance:
        polygons = simplify_borders(polygons, tolerance)
    has_areas = pixel_areas(georeference, [0], 1) is not None
    crs = georeference["crs"].to_wkt() if has_areas else None
    transform = georeference.get("transform", Affine.identity())
    a, b, c, d, e, f = (transform if not transform.is_identity else Affine.scale(1, -1))[:6]
    polygons = shapely.transform(polygons, lambda points: (
        points @ [[a, d], [b, e]] + [c, f]))
    names = np.array(table.names, object)
    fields = {"class_id": ids[numbers].astype(np.int32), "class": names[ids[numbers]],
              "pixels": pixels[numbers], "area_m2": areas[numbers],
              "hectares": areas[numbers] / 1e4, "probability": probabilities[numbers]}
    if not has_areas:
        del fields["area_m2"], fields["hectares"]
    is_json = path.endswith(".geojson")
    with replacing(path) as temporary:
        try:
            # A map without a place has a layer without a CRS, of which pyogrio warns.
            warnings.filterwarnings("ignore", "'crs' was not provided")
            pyogrio.raw.write(
                temporary, shapely.to_wkb(polygons), list(fields.values()), list(fields), crs=crs,
                layer="classes", driver="GeoJSON" if is_json else "GPKG", geometry_type="Polygon",
                layer_options={"RFC7946": "YES"} if is_json else None)
        except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
            raise OSError(f"{path}: could not be written ({error}); free some space or choose "
                          "another folder") from None
