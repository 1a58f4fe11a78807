"""Which files a map has, which of them are there already, and what a map notes of its scene."""

import contextlib
import os

import rasterio

from utils.data.remote import is_remote
from utils.files import relative_path
from utils.inference.map_form import POLYGONS, MapForm

SCORES = {"confusion": "confusion.png", "scores": "scores.csv", "matrix": "confusion.json"}


def map_paths(folder, name, to_geotiff, form=MapForm(), scores=False):
    """Where the results of scene `name` go, as a dict; 'class' is written last of all."""
    endings = {"class": "class.tif" if to_geotiff else "class.png", "colour": "colour.png",
               "overlay": "overlay.png", "area": "area.csv"}
    endings |= {key: f"{key}.tif" for key in ("probabilities", "confidence") if getattr(form, key)}
    if form.polygons:
        endings["polygons"] = f"polygons.{form.polygons}"
    if scores:
        endings |= SCORES
    return {key: os.path.join(folder, f"{name}_{ending}") for key, ending in endings.items()}


def every_path(folder, name):
    """The set of all files that any call may write of scene `name`."""
    return {path for to_geotiff in (False, True) for polygons in POLYGONS for path in map_paths(
        folder, name, to_geotiff, MapForm(True, True, polygons), True).values()}


def others_of(paths):
    """Files that an earlier call may have written of the scene whose `map_paths` are given, and
    this one does not."""
    folder, file = os.path.split(paths["class"])
    return every_path(folder, file.rpartition("_class.")[0]) - {*paths.values()}


def input_tags(image, folder):
    """Which scene it is, as seen from the map's `folder`, and how its samples became the model's
    input: for the map's file."""
    tags = {"image": _noted(image.path, folder), "bands": " ".join(map(str, image.chosen_bands))}
    if stretch := _stretch_of(image):
        tags["stretch"] = stretch
    if image.area:
        tags["aoi"] = os.path.basename(image.area.path)
    return tags


def _stretch_of(image):
    """The pairs of its stretch as a text, '' for an image of 8 bits."""
    pairs = () if image.stretch is None else image.stretch
    return ", ".join(f"{low:g} {high:g}" for low, high in pairs)


def _noted(path, folder):
    """The path of a scene as its map notes it: of one on a server without the query, which may hold
    a password."""
    return path.split("?")[0] if is_remote(path) else relative_path(path, folder)


def describe(image, seen):
    """Size and stretch of an open Image, for the screen. seen: its view of which the model reads.
    """
    stretch = _stretch_of(image)
    return (f"{image.height} x {image.width} pixels"
            + (f", seen at {seen.height} x {seen.width}" if seen is not image else "")
            + (f", {image.dtype} stretched from {stretch}" if stretch else "")
            + (f", only inside {image.area.path}" if image.area else ""))


def find_complete(scene_paths):
    """The set of the scenes of which an earlier call has written every file; says so.

    scene_paths: {scene: its `map_paths`}. Raises ValueError where a map is of another scene of the
    same name, which is there still.
    """
    for scene, paths in scene_paths.items():
        _check_same_scene(scene.image_path, paths["class"])
    complete = [scene for scene, paths in scene_paths.items()
                if all(map(os.path.exists, paths.values()))]
    if complete:
        first, more = scene_paths[complete[0]]["class"], len(complete) - 1
        print(f"{first} and {more} more are there already; --overwrite maps them again" if more
              else f"{first} is there already; --overwrite maps it again")
    return set(complete)


def _check_same_scene(image_path, map_path):
    """Raises ValueError where the map notes another scene. (Maps of earlier versions note none.)"""
    if not os.path.exists(map_path):
        return
    folder, noted = os.path.dirname(map_path), None
    with contextlib.suppress(rasterio.errors.RasterioError):
        with rasterio.open(map_path) as dataset:
            noted = dataset.tags().get("image")
    if noted and noted != _noted(image_path, folder):
        other = noted if is_remote(noted) else os.path.normpath(os.path.join(folder, noted))
        if is_remote(noted) or os.path.exists(other):  # else it was moved
            raise ValueError(f"{map_path}: the map of {other}, not of {image_path}; choose another "
                             "folder with --out, or replace it with --overwrite")


def check_output_folder(folder, scenes, aoi=None):
    """Fails now rather than after the work; and never lets a map replace a scene's label, nor the
    area of interest at the path `aoi`."""
    inputs = {os.path.realpath(os.path.dirname(path)) for scene in scenes
              for path in (scene.image_path, scene.label_path) if path}
    if os.path.realpath(folder) in inputs:
        raise ValueError(f"{folder}: a scene or its label is in that folder, and the label could "
                         "be replaced by the map; choose another folder with --out")
    if aoi and any(os.path.realpath(aoi) in every_path(os.path.realpath(folder), scene.name)
                   for scene in scenes):
        raise ValueError(f"{aoi}: it would be replaced by what is written for that scene; rename "
                         "it, or choose another folder with --out")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise OSError(f"{folder}: could not be made ({error.strerror}); choose another folder with "
                      "--out") from None
    if not os.access(folder, os.W_OK):
        raise OSError(f"{folder}: not writable; choose another folder with --out")
