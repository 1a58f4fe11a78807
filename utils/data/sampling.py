"""Where tiles are cut: validation blocks set apart first, training crops drawn outside them."""

import cv2
import numpy as np

from utils.classes import IGNORE

TILES_PER_BLOCK = 16
SMALLEST_BLOCK = 0.75       # a block may be this much smaller than wanted, to fit better
SMALLEST_SHARE_LEFT = 0.25  # of a scene's crop positions, once its blocks are set apart
PIXELS_PER_CLASS = 10000    # remembered as centres of rare-class crops


def choose_validation_tiles(label, tile_size, fraction, random, sparse=False):
    """Tiles of a scene to validate on: about `fraction` of its area or, of a `sparse` label, of its
    valid pixels.

    They lie on a grid of tile_size and form rectangles of up to TILES_PER_BLOCK tiles, since every
    lone one costs the training crops a border of a tile's width. Rectangles are placed where the
    classes occur as in the whole scene and little of that border is lost; `random` (Generator)
    decides among near equals. label: uint8 [height, width].
    Gives int [tiles, 2], the row and column (in pixels) of each tile's upper left corner; none
    where the scene is too small to spare a tile.
    """
    grid = np.array(label.shape) // tile_size
    possible = with_valid_pixels(label, tile_size) if sparse else np.s_[:]
    area = np.count_nonzero(label != IGNORE) if sparse else label.size
    wanted = int(round(fraction * area / tile_size ** 2))
    pixels = np.zeros((*grid, 256), np.int64)
    for row, column in np.ndindex(*grid):
        tile = label[row * tile_size:(row + 1) * tile_size,
                     column * tile_size:(column + 1) * tile_size]
        pixels[row, column] = np.bincount(tile.ravel(), minlength=256)
    pixels = pixels[..., :255]
    pixels = pixels[..., pixels.any(axis=(0, 1))]
    taken = np.zeros(grid, bool)
    blocks = -(-wanted // TILES_PER_BLOCK)
    for block in range(blocks):
        size = round((wanted - taken.sum()) / (blocks - block))
        choice = _best_rectangle(pixels, taken, size, label.shape, tile_size, random)
        if choice is None:
            break
        row, column, height, width = choice
        trial = taken.copy()
        trial[row:row + height, column:column + width] = True
        allowed = allowed_corners(label.shape, np.argwhere(trial) * tile_size, tile_size)
        if allowed[possible].mean() < SMALLEST_SHARE_LEFT:
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


def allowed_corners(shape, tiles, tile_size):
    """bool [height - tile_size + 1, width - tile_size + 1]: may a crop's upper left corner lie
    here? True for every crop inside the scene, the last row and column included, that shares no
    pixel with a tile (int [tiles, 2], upper left corners)."""
    allowed = np.ones((shape[0] - tile_size + 1, shape[1] - tile_size + 1), bool)
    for row, column in tiles:
        allowed[max(row - tile_size + 1, 0):row + tile_size,
                max(column - tile_size + 1, 0):column + tile_size] = False
    return allowed


def with_valid_pixels(label, tile_size):
    """bool [height - tile_size + 1, width - tile_size + 1]: does a crop with this upper left corner
    have a pixel that is not ignored? label: uint8 [height, width]."""
    valid = (label != IGNORE).view(np.uint8)
    counts = cv2.boxFilter(valid, cv2.CV_32F, (tile_size, tile_size), anchor=(0, 0),
                           normalize=False, borderType=cv2.BORDER_CONSTANT)
    return counts[:label.shape[0] - tile_size + 1, :label.shape[1] - tile_size + 1] > 0


def draw_corner(allowed, random):
    """(row, column), uniform over the True positions of `allowed` (at least one is)."""
    while True:
        row, column = (int(random.integers(0, length)) for length in allowed.shape)
        if allowed[row, column]:
            return row, column


def tiles_by_scene(areas, tiles, random):
    """A scene's index for each tile, int [tiles], counts in proportion to `areas`, in random order.

    The order is mixed so that the first tiles of a list are a fair sample of all scenes.
    """
    share = np.asarray(areas, float) / np.sum(areas) * tiles
    counts = share.astype(int)
    counts[np.argsort(counts - share, kind="stable")[:tiles - counts.sum()]] += 1
    return random.permutation(np.repeat(np.arange(len(counts)), counts))


def rare_class_corners(labels, allowed, tile_size, random):
    """Crops centred on pixels of each class, for crops weighted towards rare classes.

    labels: list of uint8 [height, width]; allowed: list of `allowed_corners`, one a scene.
    Gives (corners, probabilities): for each class that has any, int [n, 3] of (scene, row, column)
    spread evenly over its pixels, n up to PIXELS_PER_CLASS, and the class's inverse frequency,
    normalised to sum 1. A crop at the scene's border is moved inside.
    """
    counts = np.array([np.bincount(label.ravel(), minlength=256)[:255] for label in labels])
    corners, frequencies = [], []
    for class_id in np.flatnonzero(counts.sum(axis=0)):
        by_scene = random.multinomial(PIXELS_PER_CLASS,
                                      counts[:, class_id] / counts[:, class_id].sum())
        found = []
        for scene, (label, positions) in enumerate(zip(labels, allowed)):
            pixels = np.flatnonzero(label == class_id)
            if not len(pixels):
                continue
            centres = np.unravel_index(random.choice(pixels, by_scene[scene]), label.shape)
            row, column = (np.clip(centre - tile_size // 2, 0, length - 1)
                           for centre, length in zip(centres, positions.shape))
            usable = positions[row, column]
            found.append(np.stack([np.full(usable.sum(), scene), row[usable], column[usable]], 1))
        found = np.concatenate(found)
        if len(found):
            corners.append(found)
            frequencies.append(counts[:, class_id].sum())
    if not corners:
        raise ValueError("no training scene has a labelled pixel outside its validation blocks")
    inverse = 1 / np.array(frequencies)
    return corners, inverse / inverse.sum()
