"""Files and flags for benchmarks.fuzz, good and bad, all drawn from a numpy Generator."""

import json
import os

import cv2
import numpy as np
import pyogrio
import rasterio
import rasterio.shutil
import shapely
from rasterio.control import GroundControlPoint

from utils.classes import ClassTable

TABLE = ClassTable(("red", "green", "blue"),
                   np.array([[200, 0, 0], [0, 160, 0], [0, 0, 190]], np.uint8))
TABLE_CSV = "id,name,colour\n0,red,#c80000\n1,green,#00a000\n2,blue,#0000be\n"
WORDS = ["0", "-1", "1", "2", "3", "1e9", "nan", "inf", "", "x", "1e-9", "99999999999999999999",
         "é", ".5", "255", "../x"]


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def draw_pixels(random):
    """Samples [bands, height, width] of a scene, of any depth that rasters have."""
    dtype = random.choice(["uint8"] * 6 + ["uint16", "int16", "float32", "uint32", "int8"])
    height, width = random.integers(1, 150, 2)
    bands = int(random.choice([1, 2, 3, 3, 3, 3, 3, 4, 4, 7]))
    if dtype == "float32":
        samples = random.normal(100, 50, (bands, height, width)).astype(dtype)
        if random.random() < .3:
            samples[random.random(samples.shape) < .05] = random.choice([np.nan, np.inf, -3.4e38])
        return samples
    limits = np.iinfo(dtype)
    low, high = max(limits.min, -1000), min(limits.max, 4000)
    return random.integers(low, high, (bands, height, width), endpoint=True).astype(dtype)


def write_tiff(path, samples, **profile):
    bands, height, width = samples.shape
    with rasterio.open(path, "w", driver="GTiff", count=bands, height=height, width=width,
                       dtype=samples.dtype, **profile) as file:
        file.write(samples)


def write_scene(random, path, samples):
    """Writes them in some form: its path, the samples as that form holds them, and their place as
    rasterio's arguments."""
    is_photo = samples.dtype == np.uint8 and len(samples) in (1, 3)
    place = draw_place(random, *samples.shape[1:])
    if is_photo and random.random() < .35:
        path += random.choice([".png", ".jpg"])
        pixels = np.moveaxis(samples, 0, -1)[..., ::-1] if len(samples) == 3 else samples[0]
        cv2.imwrite(path, pixels)
        stored = np.atleast_3d(cv2.imread(path, cv2.IMREAD_UNCHANGED))
        if len(samples) == 3:
            stored = stored[..., ::-1]
        samples, place = np.moveaxis(stored, -1, 0), {}
        if random.random() < .3:
            place = write_world_file(path)
        return path, samples, place
    if is_photo and random.random() < .25:
        return write_rare_form(random, path, samples, place)
    profile = {"compress": random.choice(["none", "deflate", "lzw", "packbits", "zstd"]),
               "interleave": random.choice(["band", "pixel"])}
    if random.random() < .5:
        profile |= {"tiled": True, "blockxsize": 16 * int(random.integers(1, 9)),
                    "blockysize": 16 * int(random.integers(1, 9))}
    if random.random() < .2:
        profile["bigtiff"] = "yes"
    path += random.choice([".tif", ".tiff", ".TIF"])
    write_tiff(path, samples, **profile, **place)
    return path, samples, place


def write_rare_form(random, path, samples, place):
    """As `write_scene`, of 8 bits in one or three bands: a palette, few bits, a list of files."""
    kind = random.choice(["palette", "bits", "vrt", "misnamed"])
    if kind == "palette":
        colours = random.integers(0, 256, (256, 3), np.uint8)
        write_tiff(path + ".tif", samples[:1], **place, photometric="palette")
        with rasterio.open(path + ".tif", "r+") as file:
            file.write_colormap(1, dict(enumerate(map(tuple, colours.tolist()))))
        return path + ".tif", np.moveaxis(colours[samples[0]], -1, 0), place
    if kind == "bits":
        bits = int(random.integers(1, 8))
        few = samples >> 8 - bits
        write_tiff(path + ".tif", few, **place, nbits=bits)
        return path + ".tif", np.rint(few * (255 / (2 ** bits - 1))).astype(np.uint8), place
    if kind == "misnamed":
        cv2.imwrite(path + ".png", np.moveaxis(samples, 0, -1)[..., ::-1])
        os.rename(path + ".png", path + ".tif")
        return path + ".tif", samples, {}
    write_tiff(path + "_part.tif", samples, **place)
    with rasterio.open(path + "_part.tif") as file:
        rasterio.shutil.copy(file, path + ".vrt", driver="VRT")
    return path + ".vrt", samples, place


def write_world_file(path):
    """A north-up one beside a picture; the place that it gives."""
    write(os.path.splitext(path)[0] + (".pgw" if path.endswith(".png") else ".jgw"),
          "0.5\n0\n0\n-0.5\n1000.25\n1999.75\n")
    return {"transform": rasterio.Affine(.5, 0, 1000, 0, -.5, 2000)}


def draw_place(random, height, width):
    """Georeference of some kind, as rasterio's arguments, or none."""
    kind = random.choice(["none", "north-up", "south-up", "rotated", "degrees", "points"])
    if kind == "none":
        return {}
    if kind == "points":
        points = [GroundControlPoint(row=row, col=column, x=5 + column * 1e-5, y=50 - row * 1e-5)
                  for row in (0, height) for column in (0, width)]
        return {"gcps": points, "crs": "EPSG:4326"}
    transform = {"north-up": rasterio.Affine(.5, 0, 325000, 0, -.5, 2785000),
                 "south-up": rasterio.Affine(.5, 0, 325000, 0, .5, 2785000),
                 "rotated": rasterio.Affine(.4, .3, 325000, .3, -.4, 2785000),
                 "degrees": rasterio.Affine(1e-5, 0, 5, 0, -1e-5, 50)}[kind]
    return {"crs": "EPSG:4326" if kind == "degrees" else "EPSG:32640", "transform": transform}


def write_label(random, path, shape):
    """A label that fits, as ids or colours, and its ids; sometimes with a value of no class."""
    ids = random.integers(0, 3, shape).astype(np.uint8)
    ids[random.random(shape) < .05] = 255
    if random.random() < .15:
        ids[0, 0] = 77
    if random.random() < .5:
        palette = np.zeros((256, 3), np.uint8)
        palette[:3], palette[255], palette[77] = TABLE.colours, TABLE.ignore_colour, (1, 2, 3)
        cv2.imwrite(path, palette[ids][..., ::-1])
    else:
        cv2.imwrite(path, ids)
    return ids


def write_polygons(random, path, shape, place):
    """Some triangles over a scene of that shape and place, with an attribute `kind` that is mostly
    a class; sometimes with no CRS, another one, far away, or points instead."""
    transform = place.get("transform", rasterio.Affine.identity())
    corners = random.uniform(-10, max(shape) + 10, (int(random.integers(1, 6)), 3, 2))
    shapes = shapely.polygons([[transform * tuple(corner) for corner in one] for one in corners])
    crs, kind = place.get("crs"), random.random()
    if kind < .05:
        shapes = shapely.centroid(shapes)
    elif kind < .1:
        crs = random.choice([None, "EPSG:4326", "EPSG:3857"])
    elif kind < .15:
        shapes = shapely.transform(shapes, lambda points: points + 1e5)
    names = [*TABLE.names, "0", "2"] + ["sand"] * (random.random() < .1)
    values = random.choice(names, len(shapes)).astype(object)
    types = set(shapely.get_type_id(shapes))
    pyogrio.raw.write(path, shapely.to_wkb(shapes), [values], ["kind"], crs=crs,
                      geometry_type="Point" if types == {0} else "Polygon",
                      driver="GPKG" if path.endswith(".gpkg") else "GeoJSON")


def damage(random, path):
    """Spoils a file in one of the ways that disks, tools and people do."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    kind = random.choice(["cut", "flip", "empty", "text", "gone", "folder", "shuffle", "link"])
    if kind in ("gone", "folder", "link"):
        os.remove(path)
        if kind == "folder":
            os.mkdir(path)
        if kind == "link":
            os.symlink(path, path)
        return kind
    if kind == "cut":
        data = data[:int(random.integers(0, len(data) + 1))]
    elif kind == "flip":
        for place in random.integers(0, len(data), random.integers(1, 4)):
            data[place] ^= 1 << random.integers(0, 8)
    elif kind == "shuffle":
        start = int(random.integers(0, len(data)))
        part = data[start:start + 64]
        random.shuffle(part)
        data[start:start + 64] = part
    else:
        data = b"" if kind == "empty" else b"id,name\n{\n"
    with open(path, "wb") as file:
        file.write(data)
    return kind


def spoil_json(random, path):
    """Replaces, adds or removes one value somewhere in a JSON file."""
    with open(path, encoding="utf-8") as file:
        values = json.load(file)
    place = values
    while True:
        key = random.choice(list(place)) if isinstance(place, dict) else int(
            random.integers(0, len(place)))
        if isinstance(place[key], dict | list) and place[key] and random.random() < .7:
            place = place[key]
            continue
        if random.random() < .3:
            del place[key]
        else:
            place[key] = [None, -1, 0, 1e9, 10**9, "x", [], {}, [1, 2], True, "\u0000", .5][
                random.integers(0, 12)]
        break
    with open(path, "w", encoding="utf-8") as file:
        json.dump(values, file)


def draw_flags(random, known, chance):
    """Some flags, most with values that make sense, a few (`chance`) with ones that do not."""
    flags = []
    for flag, values in known.items():
        if random.random() < .25:
            value = random.choice(WORDS) if random.random() < chance else random.choice(values)
            flags += [flag] + ([] if value == "set" else str(value).split() or [""])
    return flags
