"""Finding, checking, reading and writing scenes and labels. The only room that opens rasters."""

import os
from dataclasses import dataclass

import cv2
import numpy as np

from utils.classes import check_labels, decode_colours
from utils.files import write_bytes

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
LABEL_SUFFIX = "_class"

# What is wrong with a file is said by the errors below, not by OpenCV's own lines on stderr.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@dataclass(frozen=True)
class Scene:
    """One scene on disk; `label_path` is None where there is no label."""

    name: str
    image_path: str
    label_path: str = None


def find_scenes(folder):
    """All scenes in `folder`, by name: N.png (or .jpg, .tif) with N_class.png where it exists.

    Raises FileNotFoundError, saying both ways on, where there is none, and ValueError where two
    files claim one name.
    """
    files = {}
    for file in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        stem, extension = os.path.splitext(file)
        if extension.lower() in EXTENSIONS and not file.startswith("."):
            if stem in files:
                raise ValueError(f"{folder}: {files[stem]} and {file} are both scene {stem}; "
                                 "move one away")
            files[stem] = file
    names = [stem for stem in files if not stem.endswith(LABEL_SUFFIX)]
    if not names:
        raise FileNotFoundError(
            f"{folder}: no scenes there (N.png with N_class.png, also .jpg and .tif); fetch a data "
            "set (see dataset/README.md), or draw demo scenes with 'python -m utils.demo_scenes "
            "--out dataset/demo/origin' and pass --dataset dataset/demo")
    path = {stem: os.path.join(folder, file) for stem, file in files.items()}
    return {name: Scene(name, path[name], path.get(name + LABEL_SUFFIX))
            for name in sorted(names, key=_natural)}


def choose_scenes(scenes, names, folder):
    """The scenes called `names`, in that order. Raises ValueError naming one that is missing."""
    missing = [name for name in names if name not in scenes]
    if missing:
        raise ValueError(f"{folder}: there is no scene {', '.join(missing)}; "
                         f"there are {', '.join(scenes)}")
    return [scenes[name] for name in names]


def read_image(path):
    """RGB uint8 [height, width, 3]. Raises OSError, ValueError naming the file."""
    pixels = _read_raster(path)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] < 3:
        bands = 1 if pixels.ndim == 2 else pixels.shape[2]
        raise ValueError(f"{path}: {bands} band(s) of {pixels.dtype}; a scene needs three bands "
                         "(red, green, blue) of 8 bits, so convert it first")
    return cv2.cvtColor(pixels[..., :3], cv2.COLOR_BGR2RGB)


def read_label(path, table):
    """Class ids uint8 [height, width] from ids or a colour mask. Raises OSError, ValueError."""
    pixels = _read_raster(path)
    if pixels.ndim == 3:
        if pixels.dtype != np.uint8 or pixels.shape[2] < 3:
            raise ValueError(f"{path}: {pixels.shape[2]} bands of {pixels.dtype}; a label has one "
                             "band of class ids or three of 8-bit colours")
        return decode_colours(cv2.cvtColor(pixels[..., :3], cv2.COLOR_BGR2RGB), table, path)
    if pixels.dtype != np.uint8:
        # NaN fails the comparison too, so nothing that is not a byte slips through.
        with np.errstate(invalid="ignore"):
            whole = pixels.astype(np.uint8)
        if not (pixels == whole).all():
            raise ValueError(f"{path}: {pixels.dtype} values that are no class ids; "
                             "a label holds whole numbers from 0 to 255")
        pixels = whole
    check_labels(pixels, table, path)
    return pixels


def read_scene(scene, table):
    """(image uint8 [height, width, 3] RGB, label uint8 [height, width]) of a labelled scene."""
    if scene.label_path is None:
        raise FileNotFoundError(f"{scene.image_path}: its label {scene.name}{LABEL_SUFFIX}.png is "
                                "missing; put it beside the image")
    image, label = read_image(scene.image_path), read_label(scene.label_path, table)
    if image.shape[:2] != label.shape:
        raise ValueError(f"{scene.label_path}: {label.shape[0]} x {label.shape[1]} pixels (height "
                         f"x width), but its image {scene.image_path} has {image.shape[0]} x "
                         f"{image.shape[1]}; a label must have its image's size")
    return image, label


def encode_png(pixels, photo=False):
    """uint8 [height, width] or RGB [height, width, 3] -> bytes of a PNG.

    photo=True is the fastest way for natural images, at the price of a fifth more bytes.
    """
    # Level 1 on its own makes OpenCV try all five row filters, which is slower than its default.
    if pixels.ndim == 2:
        row_filter, strategy = cv2.IMWRITE_PNG_FILTER_NONE, cv2.IMWRITE_PNG_STRATEGY_RLE
    else:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        row_filter = cv2.IMWRITE_PNG_FILTER_AVG if photo else cv2.IMWRITE_PNG_FILTER_UP
        strategy = (cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY if photo
                    else cv2.IMWRITE_PNG_STRATEGY_DEFAULT)
    encoded, data = cv2.imencode(".png", pixels, [
        cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, strategy,
        cv2.IMWRITE_PNG_FILTER, row_filter])
    if not encoded:
        raise ValueError(f"an array of shape {pixels.shape} could not be encoded as PNG")
    return data.tobytes()


def write_png(path, pixels):
    """Writes ids uint8 [height, width] or RGB uint8 [height, width, 3], whole or not at all."""
    write_bytes(path, encode_png(pixels))


def _read_raster(path):
    """The file's samples as OpenCV stores them (BGR), after a check that it is complete."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise OSError(f"{path}: could not be read ({error.strerror}); check the name and the "
                      "permissions") from None
    broken = ValueError(f"{path}: truncated or not an image; fetch or export it again")
    if not _is_complete(data):
        raise broken
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"{path}: OpenCV cannot read it: {error.err or error}") from None
    if pixels is None:
        raise broken
    return pixels


def _is_complete(data):
    """False for no data and for a PNG without its end: OpenCV would fill up the rest. (A JPEG or
    TIFF that is cut off it refuses by itself.)"""
    if data.startswith(b"\x89PNG"):
        return b"IEND\xae\x42\x60\x82" in data[-64:]
    return len(data) > 0


def _natural(name):
    """Sort key under which scene 10 follows scene 9."""
    return (not name.isdigit(), int(name) if name.isdigit() else 0, name)
