"""Arrays on another grid over the same ground: samples, and class ids."""

import math

import cv2
import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.windows import Window


def resize_samples(samples, height, width):
    """[rows, columns, bands] -> [height, width, bands] of the same type: averages where that are
    fewer pixels, otherwise bilinear."""
    fewer = height * width < samples.shape[0] * samples.shape[1]
    resized = cv2.resize(samples, (width, height),
                         interpolation=cv2.INTER_AREA if fewer else cv2.INTER_LINEAR)
    return resized.reshape(height, width, samples.shape[2])


def resize_with_alpha(samples, height, width):
    """As resize_samples, of a picture whose last band is alpha: where that is 0 there is nothing,
    which is no part of an average. Alpha comes out as 0 and 255."""
    data = (samples[..., -1:] > 0).astype(np.float32)
    share = resize_samples(data, height, width)
    resized = np.empty((height, width, samples.shape[2]), samples.dtype)
    resized[..., -1:] = np.where(share > 0, 255, 0)
    for band in range(samples.shape[2] - 1):
        weighted = resize_samples(samples[..., band:band + 1] * data, height, width)
        resized[..., band:band + 1] = np.rint(weighted / np.where(share > 0, share, 1))
    return resized


def covering_window(window, grid, source):
    """(top, left, height, width) of the least window of `source` that covers one of `grid`, which
    is over the same ground; both have height and width."""
    top, left, height, width = window
    rows, columns = source.height / grid.height, source.width / grid.width
    first = int(top * rows), int(left * columns)
    return (*first, min(source.height, math.ceil((top + height) * rows)) - first[0],
            min(source.width, math.ceil((left + width) * columns)) - first[1])


def resampled_label(label, height, width):
    """The label itself where it has that size, else a ResampledLabel."""
    same = (height, width) == (label.height, label.width)
    return label if same else ResampledLabel(label, height, width)


class ResampledLabel:
    """A label on a grid of `height` x `width` pixels: each has the class id (or 255) that covers
    most of it. Overviews are not used: nobody knows how those of a label were made.

    label: an open Label, or what has its interface.
    """

    def __init__(self, label, height, width):
        self._label, self.path, self.reads_windows = label, label.path, label.reads_windows
        self.height, self.width = height, width

    def again(self):
        """The same label open once more."""
        return ResampledLabel(self._label.again(), self.height, self.width)

    def close(self):
        self._label.close()

    def read(self, top, left, height, width):
        """Class ids uint8 [height, width] of a window. Raises ValueError as the label does."""
        rows, columns = self._label.height / self.height, self._label.width / self.width
        covering = covering_window((top, left, height, width), self, self._label)
        ids = self._label.read(*covering)
        window = Window(left * columns - covering[1], top * rows - covering[0], width * columns,
                        height * rows)
        with rasterio.Env(), MemoryFile() as file, file.open(
                driver="GTiff", height=ids.shape[0], width=ids.shape[1], count=1,
                dtype=ids.dtype) as dataset:
            dataset.write(ids, 1)
            return dataset.read(1, window=window, out_shape=(height, width),
                                resampling=Resampling.mode)
