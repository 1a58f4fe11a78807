"""Where tiles are cut: validation blocks set apart first, training crops drawn outside them."""

import contextlib
import functools

import numpy as np

from utils.cli import progress
from utils.data.rasters import read_strips

LARGE_LABEL = 1 << 28       # pixels; from so many on a pass over a label shows a bar
TILES_PER_BLOCK = 16
SMALLEST_BLOCK = 0.75       # a block may be this much smaller than wanted, to fit better
SMALLEST_SHARE_LEFT = 0.25  # of a scene's crop positions, once its blocks are set apart
PIXELS_PER_CLASS = 10000    # remembered as centres of rare-class crops


class CountedLabel:
    """A label and how many pixels of each class its tiles have, from one pass over strips of it.

    label: what has height, width and read(top, left, height, width) -> ids uint8. classes: their
    number. shape: (height, width). The pass is made when `tiles` or `total` is first asked for; it
    raises ValueError where the label holds a value that is not in its table.
    """

    def __init__(self, label, tile_size, classes):
        self.read, self.shape = label.read, (label.height, label.width)
        self.tile_size, self._label, self._classes = tile_size, label, classes

    @property
    def tiles(self):
        """int [rows, columns, classes]: pixels by tile of a grid of whole tiles from the corner."""
        rows, columns = (length // self.tile_size for length in self.shape)
        return self._counts[:rows, :columns, :-1]

    @functools.cached_property
    def total(self):
        """int [classes]: pixels of the whole label."""
        return self._counts[..., :-1].sum(axis=(0, 1))

    @functools.cached_property
    def _counts(self):
        rows, columns = (-(-length // self.tile_size) for length in self.shape)
        values = self._classes + 1  # the last is ignore
        counts = np.zeros((rows, columns * values), np.int64)
        first = np.arange(self.shape[1]) // self.tile_size * values
        for top, ids in self._strips("counting classes"):
            counts[top // self.tile_size] += np.bincount(
                (first + np.minimum(ids, self._classes)).ravel(), minlength=columns * values)
        return counts.reshape(rows, columns, values)

    def find(self, drawn):
        """{class id: (rows, columns)}, int [n] each, of the pixels that `drawn` numbers.

        drawn: {class id: int [n]}, the numbers of pixels among those of their class, along rows
        from the upper left corner.
        """
        places = {class_id: np.empty(len(numbers), np.int64) for class_id, numbers in drawn.items()}
        seen = dict.fromkeys(drawn, 0)
        for top, ids in self._strips("finding rare classes") if drawn else ():
            for class_id, numbers in drawn.items():
                pixels = np.flatnonzero(ids == class_id)
                here = (numbers >= seen[class_id]) & (numbers < seen[class_id] + len(pixels))
                places[class_id][here] = (top * self.shape[1]
                                          + pixels[numbers[here] - seen[class_id]])
                seen[class_id] += len(pixels)
        return {class_id: np.divmod(flat, self.shape[1]) for class_id, flat in places.items()}

    def _strips(self, description):
        """(top, ids uint8 [rows, width]) down the label; none lies in two rows of tiles."""
        height, width = self.shape
        with (progress(height, " rows", description) if height * width >= LARGE_LABEL
              else contextlib.nullcontext()) as bar:
            for top, ids in read_strips(self._label, self.tile_size):
                yield top, ids
                if bar is not None:
                    bar.update(len(ids))


class AllowedCorners:
    """Where a crop's upper left corner may lie: everywhere inside the scene, the last row and
    column included, where the crop shares no pixel with a tile.

    shape: (rows, columns) of corners of a scene of `scene_shape` pixels. tiles: int [tiles, 2], the
    tiles' own upper left corners, multiples of tile_size.
    """

    def __init__(self, scene_shape, tiles, tile_size):
        self.shape = tuple(length - tile_size + 1 for length in scene_shape)
        self._tile_size = tile_size
        self._taken = np.zeros([length // tile_size + 1 for length in scene_shape], bool)
        self._taken[tuple(np.asarray(tiles, int).reshape(-1, 2).T // tile_size)] = True

    def __getitem__(self, corners):
        """bool, of the arrays' shape: may a corner lie here? corners: (rows, columns), ints or
        arrays."""
        # A crop meets at most two rows and two columns of the grid of tiles.
        (top, bottom), (left, right) = (
            (first // self._tile_size, (first + self._tile_size - 1) // self._tile_size)
            for first in corners)
        return ~(self._taken[top, left] | self._taken[top, right]
                 | self._taken[bottom, left] | self._taken[bottom, right])

    def share(self):
        """How much of all corners inside the scene is allowed, 0 to 1."""
        starts, counts = [], []
        for length in self.shape:
            # Only the corners at a line of the grid and those between two of them differ.
            lines = np.arange(0, length, self._tile_size)
            start = np.unique(np.concatenate([lines, lines + 1]))
            starts.append(start[start < length])
            counts.append(np.diff(starts[-1], append=length))
        return (counts[0] @ self[starts[0][:, None], starts[1]] @ counts[1]
                / np.prod(self.shape, dtype=np.int64))

    def draw(self, random):
        """(row, column), uniform over the allowed corners (at least one is)."""
        while True:
            row, column = (int(random.integers(0, length)) for length in self.shape)
            if self[row, column]:
                return row, column


def choose_validation_tiles(label, fraction, random):
    """Tiles of a scene to validate on: about `fraction` of its area.

    They lie on the label's grid and form rectangles of up to TILES_PER_BLOCK tiles, since every
    lone one costs the training crops a border of a tile's width. Rectangles are placed where the
    classes occur as in the whole scene and little of that border is lost; `random` (Generator)
    decides among near equals. label: a CountedLabel.
    Gives int [tiles, 2], the row and column (in pixels) of each tile's upper left corner; none
    where the scene is too small to spare a tile.
    """
    tile_size = label.tile_size
    wanted = int(round(fraction * np.prod(label.shape) / tile_size ** 2))
    if not wanted:
        return np.empty((0, 2), int)
    pixels = label.tiles
    pixels = pixels[..., pixels.any(axis=(0, 1))]
    taken = np.zeros(pixels.shape[:2], bool)
    blocks = -(-wanted // TILES_PER_BLOCK)
    for block in range(blocks):
        size = round((wanted - taken.sum()) / (blocks - block))
        choice = _best_rectangle(pixels, taken, size, label.shape, tile_size, random)
        if choice is None:
            break
        row, column, height, width = choice
        trial = taken.copy()
        trial[row:row + height, column:column + width] = True
        allowed = AllowedCorners(label.shape, np.argwhere(trial) * tile_size, tile_size)
        if allowed.share() < SMALLEST_SHARE_LEFT:
            break
        taken = trial
    return np.argwhere(taken) * tile_size


def _best_rectangle(pixels, taken, size, shape, tile_size, random):
    """(row, column, height, width) in tiles of the rectangle that suits best, or None.

    pixels: [rows, columns, classes] counts by tile; taken: bool [rows, columns].
    """
    rows, columns = taken.shape
    whole = pixels.sum(axis=(0, 1))
    already = pixels[taken].sum(axis=0)
    counts = np.pad(np.concatenate([pixels, taken[..., None]], axis=2), ((1, 0), (1, 0), (0, 0)))
    counts = counts.cumsum(axis=0).cumsum(axis=1)
    best, best_score = None, np.inf
    for height in range(1, min(rows, size) + 1):
        for width in range(1, min(columns, size // height) + 1):
            if height * width < SMALLEST_BLOCK * size:
                continue
            inside = (counts[height:, width:] - counts[:-height, width:]
                      - counts[height:, :-width] + counts[:-height, :-width])
            chosen = already + inside[..., :-1]
            # Total variation: the share of pixels by which two class distributions differ.
            distance = 0.5 * np.abs(chosen / np.maximum(chosen.sum(axis=2, keepdims=True), 1)
                                    - whole / max(whole.sum(), 1)).sum(axis=2)
            lost = np.outer(_corners_lost(rows, height, shape[0], tile_size),
                            _corners_lost(columns, width, shape[1], tile_size))
            border = lost / (height * width * tile_size ** 2) - 1
            score = distance + 0.1 * border + random.uniform(0, 0.05, distance.shape)
            score[inside[..., -1] > 0] = np.inf
            if score.min() < best_score:
                best_score = score.min()
                row, column = np.unravel_index(score.argmin(), score.shape)
                best = (row, column, height, width)
    return best


def _corners_lost(tiles, length, pixels, tile_size):
    """Crop positions along one axis that touch a run of `length` tiles, for each start tile."""
    start = np.arange(tiles - length + 1) * tile_size
    first = np.maximum(start - tile_size + 1, 0)
    last = np.minimum(start + length * tile_size - 1, pixels - tile_size)
    return last - first + 1


def tiles_by_scene(areas, tiles, random):
    """A scene's index for each tile, int [tiles], counts in proportion to `areas`, in random order.

    The order is mixed so that the first tiles of a list are a fair sample of all scenes.
    """
    share = np.asarray(areas, float) / np.sum(areas) * tiles
    counts = share.astype(int)
    counts[np.argsort(counts - share, kind="stable")[:tiles - counts.sum()]] += 1
    return random.permutation(np.repeat(np.arange(len(counts)), counts))


def rare_class_corners(labels, allowed, random):
    """Crops centred on pixels of each class, for crops weighted towards rare classes.

    labels: CountedLabels; allowed: AllowedCorners, one a scene.
    Gives (corners, probabilities): for each class that has any, int [n, 3] of (scene, row, column)
    spread evenly over its pixels, n up to PIXELS_PER_CLASS, and the class's inverse frequency,
    normalised to sum 1. A crop at the scene's border is moved inside.
    """
    counts = np.array([label.total for label in labels])
    drawn = [{} for _ in labels]
    for class_id in np.flatnonzero(counts.sum(axis=0)).tolist():
        by_scene = random.multinomial(PIXELS_PER_CLASS,
                                      counts[:, class_id] / counts[:, class_id].sum())
        for scene in np.flatnonzero(by_scene).tolist():
            drawn[scene][class_id] = random.integers(0, counts[scene, class_id], by_scene[scene])
    found = {}
    for scene, (label, positions) in enumerate(zip(labels, allowed)):
        for class_id, centres in label.find(drawn[scene]).items():
            row, column = (np.clip(centre - label.tile_size // 2, 0, length - 1)
                           for centre, length in zip(centres, positions.shape))
            usable = positions[row, column]
            found.setdefault(class_id, []).append(
                np.stack([np.full(usable.sum(), scene), row[usable], column[usable]], 1))
    corners, frequencies = [], []
    for class_id, parts in sorted(found.items()):
        if sum(map(len, parts)):
            corners.append(np.concatenate(parts))
            frequencies.append(counts[:, class_id].sum())
    if not corners:
        raise ValueError("no training scene has a labelled pixel outside its validation blocks")
    inverse = 1 / np.array(frequencies)
    return corners, inverse / inverse.sum()
