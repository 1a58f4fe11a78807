"""Finding scenes on disk, and reading and writing whole ones. Windows of them: image, label."""

import contextlib
import glob
import os
import re
import struct
import zlib
from dataclasses import dataclass

import cv2
import numpy as np

from utils.files import write_bytes
from utils.data.gdal_files import EXTENSIONS
from utils.data.polygons import LabelOptions, is_polygons, open_label
from utils.data.image import Image, percentile_stretch
from utils.data.label import Label
from utils.data.rasters import RGB
from utils.data.remote import file_name, is_remote

LABEL_SUFFIX = "_class"
PNG_HEAD = 33  # bytes: the signature and the first chunk, IHDR
# Of a scene, to know its percentiles by.
ENOUGH_SAMPLES = 10_000
WILDCARDS = re.compile(r"(\*\*/|\*|\?|\[[^]]+\])")


@dataclass(frozen=True)
class Scene:
    """One scene on disk; `label_path` is None where there is no label. split: 'train',
    'validation', 'test', or None where it is not said."""

    name: str
    image_path: str
    label_path: str = None
    split: str = None


def find_scenes(folder):
    """All scenes in `folder`, by name: N.png (or .jpg, .tif) with N_class.png (or .gpkg, .geojson,
    .shp) where it exists.

    Raises FileNotFoundError, saying both ways on, where there is none, and ValueError where two
    files claim one name.
    """
    files = {}
    for file in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        stem, extension = os.path.splitext(file)
        if (extension.lower() in EXTENSIONS or stem.endswith(LABEL_SUFFIX) and is_polygons(file)
                ) and not file.startswith("."):
            if stem in files:
                raise ValueError(f"{folder}: {files[stem]} and {file} are both scene {stem}; "
                                 "move one away")
            files[stem] = file
    names = [stem for stem in files if not stem.endswith(LABEL_SUFFIX)]
    if not names:
        raise FileNotFoundError(
            f"{folder}: no scenes there (N.png with N_class.png, also .jpg and .tif); fetch a "
            "data set (see dataset/README.md), or draw demo scenes with 'python -m "
            "utils.data.demo_scenes --out dataset/demo/origin' and pass --dataset dataset/demo")
    path = {stem: os.path.join(folder, file) for stem, file in files.items()}
    return {name: Scene(name, path[name], path.get(name + LABEL_SUFFIX))
            for name in sorted(names, key=_natural)}


def choose_scenes(scenes, names, folder):
    """The scenes called `names`, in that order. Raises ValueError naming one that is missing."""
    missing = [name for name in names if name not in scenes]
    if missing:
        shown = ", ".join([*scenes][:20]) + (f" and {len(scenes) - 20} more" if len(scenes) > 20
                                             else "")
        raise ValueError(f"{folder}: there is no scene {', '.join(missing)}; there are {shown}")
    return [scenes[name] for name in names]


def scenes_of(names, labels=()):
    """The scenes that `names` name, as paths or patterns ('folder/*.tif', which leave labels out).

    labels: their labels, as for `paired_files`. Raises ValueError, FileNotFoundError.
    """
    def is_label(path):
        return os.path.splitext(path)[0].endswith(LABEL_SUFFIX)

    pairs = paired_files(names, labels, ("--image", "--label"), is_label)
    label_paths = set(pairs.values())
    scenes = {}
    for path, label in pairs.items():
        if path in label_paths - {label}:
            continue  # the pattern of the images matches the labels too
        if label and not (is_remote(label) or os.path.exists(label)):
            raise FileNotFoundError(f"{path}: its label {label} is missing; check --label")
        name = os.path.splitext(file_name(path))[0]
        if name in scenes:
            raise ValueError(f"{path}: {scenes[name].image_path} is called {name} too, so their "
                             "maps would have one name; give them in two calls with other --out")
        scenes[name] = Scene(name, path, label)
    return list(scenes.values())


def paired_files(names, partners, flags, left_out=lambda path: False):
    """{path: path of its partner, or None without `partners`} of the files that `names` name.

    names: paths or patterns. partners: one for each of `names` in their order, or one pattern or
    one file of polygons for all. A star in a partner stands for what the star of its name's pattern
    stands for, or for the stem of a single file. One star for several stands for all from the first
    to the last of them in the file's name. A partner need not be there. flags: the two flags'
    names. left_out: of the paths that a pattern matches. Raises ValueError, FileNotFoundError.
    """
    def suits_many(partner):
        return _is_pattern(partner) or is_polygons(partner)

    if len(partners) == 1 and suits_many(partners[0]):
        partners = partners * len(names)
    if partners and len(partners) != len(names):
        raise ValueError(f"{partners[0]}: {len(partners)} of {flags[1]} for {len(names)} of "
                         f"{flags[0]}; give one for each, or one quoted pattern ('masks/*.png')")
    pairs = {}
    for name, partner in zip(names, partners or [None] * len(names)):
        paths = [name]
        if _is_pattern(name):
            paths = [path for path in sorted(glob.glob(name, recursive=True))
                     if not left_out(path)]
        if not paths:
            raise FileNotFoundError(f"{name}: no file matches that pattern; check {flags[0]}")
        if partner and len(paths) > 1 and not suits_many(partner):
            raise ValueError(f"{partner}: one file of {flags[1]} for the {len(paths)} of {name}; "
                             "put a star where their names differ, and quote it")
        for path in paths:
            other = partner and partner_of(path, name, partner)
            if pairs.setdefault(path, other) != other:
                raise ValueError(f"{path}: named twice, with {pairs[path]} and {other}; give it "
                                 "once a call")
    return pairs


def _is_pattern(name):
    return glob.has_magic(name) and not (is_remote(name) or os.path.exists(name))


def partner_of(path, pattern, partner):
    """`partner` with what the stars of `pattern` stand for in `path` in place of its own."""
    if not _is_pattern(partner):
        return partner
    values, fixed = [os.path.splitext(os.path.basename(path))[0]], WILDCARDS.split(partner)[::2]
    if _is_pattern(pattern):
        path, parts = os.path.normpath(path), WILDCARDS.split(os.path.normpath(pattern))
        groups = {"**/": "((?:.*/)?)", "*": "([^/]*)", "?": "([^/])"}
        found = re.fullmatch("".join(
            groups.get(part, f"({part.replace('[!', '[^')})") if number % 2 else re.escape(part)
            for number, part in enumerate(parts)), path)
        if not found:
            raise ValueError(f"{pattern}: what its stars stand for in {path} is not clear; "
                             "use no other wildcards than *")
        values = found.groups()
        spans = [found.span(number) for number, part in enumerate(parts[1::2], start=1)
                 if part != "**/"]
        if len(fixed) == 2 and spans:
            spans = [span for span in spans if span[0] > path.rfind("/")] or spans[-1:]
            values = [path[spans[0][0]:spans[-1][1]]]
    if len(values) != len(fixed) - 1:
        raise ValueError(f"{partner}: {len(fixed) - 1} stars, but {pattern} has {len(values)}; "
                         "give as many, or one for the name")
    return "".join(part + value for part, value in zip(fixed, (*values, "")))


def scenes_of_folders(folders):
    """The scenes of all `folders` by name, of several of one name that of the first. Raises
    ValueError, OSError."""
    scenes = {}
    for folder in reversed(folders):
        with contextlib.suppress(FileNotFoundError):
            scenes.update(find_scenes(folder))
    # With no scene anywhere the first folder's own message says what to do.
    return scenes or find_scenes(folders[0])


def read_image(path, bands=None, stretch=None):
    """uint8 [height, width, bands], RGB by default. Raises OSError, ValueError naming the file.

    Without `bands` only samples of 8 bits are taken; with them as for utils.data.image.Image.
    """
    with Image(path, bands or RGB, stretch) as image:
        _check_depth(image, bands)
        return image.read(0, 0, image.height, image.width)


def _check_depth(image, bands):
    """Raises ValueError where an Image that no `bands` were named of is not of 8 bits."""
    if not bands and image.dtype != np.uint8:
        raise ValueError(f"{image.path}: {image.bands} band(s) of {image.dtype}; a scene needs "
                         "three bands (red, green, blue) of 8 bits, so convert it first or, of a "
                         "GeoTIFF, name those to use with --bands")


def read_label(path, table):
    """Class ids uint8 [height, width] from ids or a colour mask. Raises OSError, ValueError."""
    with Label(path, table) as label:
        return label.read(0, 0, label.height, label.width)


def read_scene(scene, table, bands=None, stretch=None, options=LabelOptions(), resample=None):
    """(image uint8 [height, width, bands], label uint8 [height, width]) of a labelled scene.

    bands, stretch: as for `read_image`; without them the image is RGB. options: LabelOptions.
    resample: the Resample at which both are seen, or None.
    """
    with open_scene(scene, table, bands, stretch, options, resample) as parts:
        return tuple(part.read(0, 0, part.height, part.width) for part in parts)


@contextlib.contextmanager
def open_scene(scene, table, bands=None, stretch=None, options=LabelOptions(), resample=None):
    """Gives (Image, label) of a labelled scene, which lie on each other; as for `read_scene`."""
    if scene.label_path is None:
        raise FileNotFoundError(f"{scene.image_path}: its label {scene.name}{LABEL_SUFFIX}.png is "
                                "missing; put it beside the image")
    with (Image(scene.image_path, bands or RGB, stretch) as image,
          open_label(scene, image, table, options, resample) as label):
        _check_depth(image, bands)
        yield resample.view(image) if resample else image, label


def common_stretch(paths, bands):
    """One stretch for all scenes at `paths`, each with the same say, but for those of which fewer
    than ENOUGH_SAMPLES are data; None if all are of 8 bits."""
    samples = []
    for path in paths:
        with Image(path, bands) as image:
            if image.stretch is not None:
                samples.append(image.sampled_data())
    if not samples:
        return None
    counts = [len(part) for part in samples]
    shortest = max(1, min((count for count in counts if count >= ENOUGH_SAMPLES),
                          default=max(counts)))
    return percentile_stretch(np.concatenate(
        [part[::max(1, len(part) // shortest)] for part in samples]))


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


def write_png(path, pixels, texts=None):
    """Writes ids uint8 [height, width] or RGB uint8 [height, width, 3], whole or not at all. texts:
    {keyword: text} to note in the file, which GDAL gives as its metadata."""
    data = encode_png(pixels)
    chunks = b"".join(_text_chunk(keyword, text) for keyword, text in (texts or {}).items())
    write_bytes(path, data[:PNG_HEAD] + chunks + data[PNG_HEAD:])


def _text_chunk(keyword, text):
    """An iTXt chunk (PNG specification, 11.3.4.5), not compressed, of no language."""
    data = b"iTXt" + keyword.encode("latin-1") + bytes(5) + text.encode()
    return struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


def _natural(name):
    """Sort key under which scene 10 follows scene 9."""
    return (not name.isdigit(), int(name) if name.isdigit() else 0, name)
