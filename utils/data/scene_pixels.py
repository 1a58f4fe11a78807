"""The pixels of many scenes by window: held in memory as far as they fit, else read from TIFFs."""

import threading
from typing import NamedTuple

import numpy as np

from utils.classes import IGNORE
from utils.cli import progress
from utils.data.image import black_warning, is_partly_black
from utils.data.rasters import Raster, read_strips
from utils.data.sampling import CountedLabel
from utils.data.scene_table import named
from utils.data.scenes import open_scene

MOST_DRAWS = 10000  # of a crop with a valid pixel; blocks leave a quarter of the places, roughly
MANY_SCENES = 50  # from so many on opening them shows a bar
FILES_OPEN = 100  # of those that nobody reads from; systems allow some hundreds


class ScenePixels(NamedTuple):
    """A scene and its label; both have read(top, left, height, width) -> uint8, for any thread.

    sparse: tiles without a pixel of a class are left out.
    """

    image: "Held | OnDisk"
    label: CountedLabel
    sparse: bool = False

    @property
    def shape(self):
        """(height, width)"""
        return self.label.shape

    def read(self, corner, tile_size):
        """(image [size, size, bands], label [size, size]) of the tile at corner (row, column)."""
        window = (*map(int, corner), tile_size, tile_size)
        return self.image.read(*window), self.label.read(*window)

    def draw_crop(self, allowed, random):
        """(row, column) of a crop, uniform over the AllowedCorners; of a sparse scene over those
        with a pixel of a class. Raises ValueError where none is found."""
        size = self.label.tile_size
        for _ in range(MOST_DRAWS):
            corner = allowed.draw(random)
            if not self.sparse or (self.label.read(*corner, size, size) != IGNORE).any():
                return corner
        raise ValueError("--validation_fraction: outside the validation blocks hardly a crop has a "
                         "pixel of a class; choose a smaller one, or a smaller --tile_size")


class Held:
    """An open Image or Label in memory. Raises what reading it does."""

    def __init__(self, raster):
        self.height, self.width = raster.height, raster.width
        if isinstance(raster, Raster) and not raster.reads_windows:
            self._pixels = raster.read(0, 0, self.height, self.width)  # decoded already
            return
        self._pixels = None
        for top, strip in read_strips(raster):
            if self._pixels is None:
                self._pixels = np.empty((self.height, *strip.shape[1:]), strip.dtype)
            self._pixels[top:top + len(strip)] = strip

    def read(self, top, left, height, width):
        return self._pixels[top:top + height, left:left + width]


class OnDisk:
    """A TIFF, as an Image or Label that was open, of which each read takes an open one from `files`
    or opens it once more: threads do not wait for each other."""

    def __init__(self, raster, files):
        self.height, self.width = raster.height, raster.width
        self._raster, self._files = raster, files

    def read(self, top, left, height, width):
        raster = self._files.take(self._raster)
        part = raster.read(top, left, height, width)
        self._files.give(self._raster, raster)
        return part


class OpenFiles:
    """Open rasters that nobody reads from, FILES_OPEN at most: the longest unused is closed."""

    def __init__(self):
        self._idle, self._lock = [], threading.Lock()  # pairs (what it was opened like, raster)

    def take(self, like):
        """An open raster like this one, which is nobody else's until `give`."""
        with self._lock:
            for number in reversed(range(len(self._idle))):
                if self._idle[number][0] is like:
                    return self._idle.pop(number)[1]
        return like.again()

    def give(self, like, raster):
        with self._lock:
            self._idle.append((like, raster))
            if len(self._idle) > FILES_OPEN:
                self._idle.pop(0)[1].close()


def open_scenes(scenes, table, image_options, tile_size, memory):
    """[ScenePixels] of these scenes, each checked; a tile must fit into each.

    They are held in memory, in this order, as long as they take at most `memory` bytes. Of further
    ones TIFFs stay on disk, and one pass checks the label. PNG and JPEG can only be decoded whole,
    so they are held in any case. image_options: (bands, stretch, LabelOptions, resample) as for
    `read_scene`. One line warns of scenes with black borders. Raises ValueError, OSError.
    """
    files, opened, options, black = OpenFiles(), [], image_options[2], []
    for scene in _with_bar(scenes):
        with open_scene(scene, table, *image_options) as (image, label):
            if min(image.height, image.width) < tile_size:
                raise ValueError(
                    f"{scene.image_path}: {image.height} x {image.width} pixels (height x width), "
                    f"smaller than a tile of {tile_size}; leave it out with --scenes or choose a "
                    "smaller --tile_size")
            if is_partly_black(image):
                black.append(scene.name)
            sizes = [part.height * part.width * channels
                     for part, channels in ((image, len(image.chosen_bands)), (label, 1))]
            fits = sum(sizes) <= memory
            parts = []
            for part, size in zip((image, label), sizes):
                if fits or not part.reads_windows:
                    memory -= size
                    parts.append(Held(part))
                else:
                    parts.append(OnDisk(part, files))
        sparse = options.is_sparse(scene)
        counted = CountedLabel(parts[1], tile_size, len(table))
        opened.append(ScenePixels(parts[0], counted, sparse))
        if sparse and not counted.total.any():
            raise ValueError(f"{scene.label_path}: it has no pixel of a class"
                             + (f" inside {options.aoi}" if options.aoi else "")
                             + "; leave the scene out")
        if isinstance(parts[1], OnDisk):
            counted.total  # reads all of it
    if black:
        print(black_warning(named(black)))
    return opened


def _with_bar(scenes):
    """The scenes one after the other, with a bar where there are many."""
    if len(scenes) < MANY_SCENES:
        yield from scenes
        return
    with progress(len(scenes), " scenes", "reading") as bar:
        for scene in scenes:
            yield scene
            bar.update()
