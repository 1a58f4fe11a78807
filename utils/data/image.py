"""A scene as the model sees it: uint8, its bands chosen, its samples stretched."""

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags, Resampling

from utils.data.rasters import RGB, Raster
from utils.data.remote import is_remote

# A stretch takes these percentiles of each band to black and white.
STRETCH_PERCENTILES = (2, 98)
# The uint8 nearest to 127.5, which the model's scaling to [-1, 1] turns into 0.
MEAN_PIXEL = 128
# Of a scene; where more is black, that is hardly ground. Copies stretched to 8 bits have up to .02.
MOST_BLACK = .03


class Image(Raster):
    """A scene open for reading as uint8, RGB unless other bands are chosen.

    bands: band numbers from 1, any number of them, in the order in which they are read. stretch: a
    pair (low, high) for each; samples of other than 8 bits are taken from them to 0 and 255. None
    takes the 2nd and 98th percentile of the scene itself. The pairs used are `stretch`, None for a
    scene of 8 bits. A palette is expanded to its colours, as three bands; samples of fewer than 8
    bits are scaled to 255. A pixel without data is MEAN_PIXEL in every band: to the model it is
    what the padding of its convolutions is, and no black ground. area: None, or a
    utils.data.polygons.Area; what lies outside counts as no data, but is seen as it is.
    is_complete: whether no pixel of the file can be without data.
    """

    _palette = _levels = area = None

    def __init__(self, path, bands=RGB, stretch=None):
        super().__init__(path)
        self.chosen_bands = tuple(bands)
        self._palette = self.palette()
        if self._palette is not None:
            self.bands, self.dtype = len(RGB), np.dtype(np.uint8)
        if not self.reads_windows and max(bands) > len(RGB):
            raise ValueError(f"{path}: there is no band {max(bands)}; a PNG or JPEG has red, green "
                             "and blue at most, so other --bands need a GeoTIFF")
        if max(bands) > self.bands:
            advice = f"there is no band {max(bands)}; choose others with --bands"
            if tuple(bands) == RGB:
                advice = ("a scene needs three bands (red, green, blue); say which with --bands, "
                          f"as in --bands {'1 1 1' if self.bands < 3 else '3 2 1'}")
            raise ValueError(f"{path}: {self.bands} band(s) of {self.dtype}; {advice}")
        if self._palette is None and self.reads_windows:
            self._find_type(self.chosen_bands)
        if self._palette is None and self.dtype == np.uint8 and self.bits < 8:
            white = 2 ** self.bits - 1
            levels = np.minimum(np.arange(256), white) * (255 / white)
            self._levels = np.rint(levels).astype(np.uint8)
            if not self.reads_windows:
                self._pixels = self._levels[self._pixels]
        if self.dtype.kind not in "uif":
            raise ValueError(f"{path}: samples of {self.dtype}; a scene holds whole or real "
                             "numbers")
        if self.reads_windows:
            self._find_mask()
        self.is_complete = self.dtype.kind != "f" and not (
            self._masked or self._alpha if self.reads_windows else self.bands in (2, 4))
        self.stretch = None
        if self.dtype != np.uint8:
            if stretch is None:
                stretch = percentile_stretch(self.sampled_data())
            self.stretch = np.array(stretch, np.float32)

    def _find_mask(self):
        """What says where the chosen bands have data: `_masked`, those whose masks do, or `_alpha`,
        the band that does."""
        bands = sorted(set(self.chosen_bands)) if self._palette is None else [1]
        flags = [self._dataset.mask_flag_enums[band - 1] for band in bands]
        alpha = [number for number, meaning in enumerate(self._dataset.colorinterp, 1)
                 if meaning == ColorInterp.alpha]
        self._masked, self._alpha = [], None
        if any(MaskFlags.nodata in of_band for of_band in flags):
            self._masked = bands
        elif set(alpha) & set(bands):
            pass  # GDAL takes the last of four bands of 8 bits for alpha; chosen, it is none
        elif MaskFlags.per_dataset in flags[0]:
            self._masked = bands[:1]
        elif alpha:  # after other than one or three bands, where GDAL makes no mask of it
            self._alpha = alpha[-1]

    def _mask(self, out_shape, **part):
        if self._masked:
            return self._dataset.read_masks(
                self._masked, out_shape=(len(self._masked), *out_shape), **part).any(axis=0)
        if self._alpha:
            return self._dataset.read(self._alpha, out_shape=out_shape, **part) > 0
        return np.ones(out_shape, bool)

    def _read(self, bands, out_shape, **part):
        if self._palette is not None:
            # Between two indices lies no colour.
            part["resampling"] = Resampling.nearest
            indices = super()._read((1,), out_shape, **part)[..., 0]
            return self._palette[indices][..., [band - 1 for band in bands]]
        samples = super()._read(bands, out_shape, **part)
        return samples if self._levels is None else self._levels[samples]

    def read(self, top, left, height, width):
        """uint8 [height, width, bands] of a window within the scene."""
        samples = self.samples(top, left, height, width, self.chosen_bands)
        pixels = samples if self.stretch is None else self._stretched(samples)
        if self.is_complete:
            return pixels
        data = self._has_samples(top, left, height, width, samples)
        return pixels if data.all() else np.where(data[..., None], pixels, np.uint8(MEAN_PIXEL))

    def _stretched(self, samples):
        low, high = self.stretch.T
        # Clipped first: nodata such as -3.4e38 would overflow, with a warning on stderr.
        samples = np.clip(np.nan_to_num(samples, nan=0, posinf=0, neginf=0), low, high)
        samples = samples.astype(np.float32)
        return np.clip((samples - low) * (255 / (high - low)) + .5, 0, 255).astype(np.uint8)

    def has_data(self, top, left, height, width):
        data = self._has_samples(top, left, height, width)
        if self.area:
            data = data & self.area.has_data(top, left, height, width)
        return data

    def _has_samples(self, top, left, height, width, samples=None):
        """As has_data, whatever the area. samples: the window's, if they are read already."""
        data = super().has_data(top, left, height, width)
        if self.dtype.kind == "f":
            if samples is None:
                samples = self.samples(top, left, height, width, self.chosen_bands)
            data = data & np.isfinite(samples).all(axis=-1)
        return data

    def again(self):
        """The same image open once more."""
        image = Image(self.path, self.chosen_bands, self.stretch)
        return image.resampled(self.height, self.width)

    def sampled_data(self):
        """float64 [pixels, bands]: samples from all over the scene, without nodata."""
        samples, data = self.sample(self.chosen_bands)
        return samples[data & np.isfinite(samples).all(axis=-1)].astype(np.float64)


def percentile_stretch(samples):
    """Pairs (low, high) of each column of samples [pixels, bands], as plain floats."""
    if not len(samples):
        return [(0.0, 1.0)] * samples.shape[1]
    low, high = np.percentile(samples, STRETCH_PERCENTILES, axis=0).tolist()
    return [(a, b if b > a else a + 1) for a, b in zip(low, high)]


def is_partly_black(image):
    """Whether more of an open Image is 0 in every band, and yet counts as data, than ground is.

    By a sample. What lies on a server is not read for it; of samples with a sign 0 is not black.
    """
    if is_remote(image.path) or image.dtype.kind == "i" or image.bits < 8:
        return False
    samples, data = image.sample(image.chosen_bands)
    return (data & (samples == 0).all(axis=-1)).mean() > MOST_BLACK


def black_warning(names):
    """A line for the names of scenes that are partly black."""
    return (f"warning: {names}: partly black (0 in every band), which is ground to the model; "
            "where nothing is, let the file say so (nodata in docs/data.md)")


def range_warning(image, limits):
    """A line that names both where the samples of an open Image lie in another range than a run's
    stretch limits, a pair (low, high) for each band or None. Otherwise None.

    That is where half of a band's range, from its 2nd to its 98th percentile, is beyond the limits,
    or where all bands lie within a tenth of them: input that is saturated or nearly even.
    """
    samples = image.sampled_data() if limits else []
    if not len(samples):
        return None
    own = percentile_stretch(samples)
    (first, last), (low, high) = np.transpose(own), np.transpose(limits)
    shared = np.minimum(last, high) - np.maximum(first, low)
    if (shared >= .5 * (last - first)).all() and (shared > .1 * (high - low)).any():
        return None
    told, known = (", ".join(f"{a:g} to {b:g}" for a, b in pairs) for pairs in (own, limits))
    taken = "the samples of 8 bits are taken as they are" if image.stretch is None else (
        "the samples are stretched from these all the same")
    return (f"warning: {image.path}: bands {' '.join(map(str, image.chosen_bands))} hold {told} "
            f"(2nd to 98th percentile), but the run was trained on {known}; {taken}, so check the "
            "scene's units")
