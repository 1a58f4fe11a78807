"""utils/data/sampling.py: how crops are chosen."""

import numpy as np
import pytest

from utils.data import rasters
from utils.data.sampling import (AllowedCorners, CountedLabel, choose_validation_tiles,
                                 rare_class_corners, tiles_by_scene)


class Array:
    """An array under the interface of a Label."""

    def __init__(self, pixels):
        self.height, self.width = pixels.shape
        self._pixels = pixels

    def read(self, top, left, height, width):
        return self._pixels[top:top + height, left:left + width]


def counted(label, tile_size, classes=5):
    return CountedLabel(Array(label), tile_size, classes)


def every(allowed):
    """bool of all corners of an AllowedCorners."""
    return allowed[tuple(np.indices(allowed.shape))]


def test_every_crop_inside_the_scene_may_be_drawn_last_row_and_column_included():
    allowed = AllowedCorners((20, 23), np.empty((0, 2), int), 16)
    assert allowed.shape == (5, 8) and allowed.share() == 1
    random = np.random.default_rng(0)
    drawn = {allowed.draw(random) for _ in range(1000)}
    assert drawn == {(row, column) for row in range(5) for column in range(8)}


@pytest.mark.parametrize("shape, size, tiles", [
    ((70, 90), 16, [[16, 32], [32, 32]]), ((64, 80), 16, [[0, 0], [48, 64]]),
    ((33, 20), 16, [[0, 0]]), ((16, 50), 16, [[0, 16]]), ((9, 7), 1, [[8, 6], [3, 0]]),
    ((40, 40), 13, [[26, 26], [13, 0]])])
def test_allowed_corners_against_a_count_of_shared_pixels(shape, size, tiles):
    blocked = np.zeros(shape, bool)
    for row, column in tiles:
        blocked[row:row + size, column:column + size] = True
    allowed = AllowedCorners(shape, np.array(tiles), size)
    shared = np.lib.stride_tricks.sliding_window_view(blocked, (size, size)).any(axis=(2, 3))
    assert allowed.shape == shared.shape
    np.testing.assert_array_equal(every(allowed), ~shared)
    assert allowed.share() == (~shared).mean()  # to the last bit: tiles depend on it
    free = set(map(tuple, np.argwhere(~shared).tolist()))
    random = np.random.default_rng(0)
    assert not free or {allowed.draw(random) for _ in range(300)} <= free


def test_pixels_are_counted_and_found_strip_by_strip(monkeypatch):
    monkeypatch.setattr(rasters, "STRIP_PIXELS", 200)  # several strips to a row of tiles
    random = np.random.default_rng(0)
    label = random.choice([0, 1, 2, 4, 255], (75, 90)).astype(np.uint8)
    counts = counted(label, 32)
    assert counts.tiles.shape == (2, 2, 5)
    for row, column in np.ndindex(2, 2):
        tile = label[row * 32:(row + 1) * 32, column * 32:(column + 1) * 32]
        assert counts.tiles[row, column].tolist() == [(tile == n).sum() for n in range(5)]
    assert counts.total.tolist() == [(label == n).sum() for n in range(5)]
    drawn = {n: random.integers(0, (label == n).sum(), 50) for n in (4, 1)}
    found = counts.find(drawn)
    assert set(found) == {1, 4}
    for class_id, places in found.items():
        expected = np.argwhere(label == class_id)[drawn[class_id]]
        np.testing.assert_array_equal(np.stack(places, 1), expected)
    assert counts.find({}) == {}


@pytest.mark.parametrize("height, width, tiles", [(300, 340, 0), (256, 256, 0), (1024, 1024, 2),
                                                  (2600, 3300, 13), (4438, 6447, 44)])
def test_validation_tiles_are_whole_distinct_and_about_the_fraction(height, width, tiles):
    # Classes in bands, so that blocks in the wrong place would miss some.
    label = (np.arange(width)[None] * 5 // width + np.zeros((height, 1), int)).astype(np.uint8)
    label[:height // 3] = 255
    corners = choose_validation_tiles(counted(label, 256), 0.1, np.random.default_rng(1))
    assert 0.75 * tiles <= len(corners) <= tiles
    assert len(np.unique(corners, axis=0)) == len(corners)
    assert (corners % 256 == 0).all() and (corners >= 0).all()
    assert (corners + 256 <= (height, width)).all()
    allowed = AllowedCorners(label.shape, corners, 256)
    assert allowed.share() >= min(1, 0.5 + 0.5 * (tiles == 0))
    if tiles > 10:
        chosen = np.concatenate([label[row:row + 256, column:column + 256].ravel()
                                 for row, column in corners])
        shares = np.bincount(chosen[chosen < 255], minlength=5) / (chosen < 255).sum()
        assert (shares > 0.05).all()


def test_validation_never_takes_the_last_place_for_a_crop():
    for side in range(64, 260, 7):
        for fraction in (0.1, 0.3, 0.5):
            label = counted(np.zeros((side, side + 10), np.uint8), 64)
            tiles = choose_validation_tiles(label, fraction, np.random.default_rng(side))
            assert AllowedCorners(label.shape, tiles, 64).share() > 0
    assert not len(choose_validation_tiles(label, 0.0, np.random.default_rng(0)))


def test_tiles_are_shared_out_by_area():
    scenes = tiles_by_scene([100, 300, 50], 91, np.random.default_rng(0))
    assert np.bincount(scenes).tolist() == [20, 61, 10]
    assert len(set(scenes[:20])) == 3
    assert np.bincount(tiles_by_scene([1, 1, 1], 10, np.random.default_rng(0))).max() == 4


def test_rare_class_crops_are_centred_on_their_class_and_keep_clear_of_validation():
    random = np.random.default_rng(0)
    labels = [np.zeros((200, 300), np.uint8), np.zeros((250, 180), np.uint8)]
    labels[0][100:120, 150:170] = 1
    labels[1][0:4, 0:4] = 2                              # in a corner: the crop is moved inside
    labels[1][:, 100:] = 255
    tiles = [np.array([[64, 128]]), np.empty((0, 2), int)]
    allowed = [AllowedCorners(label.shape, tile, 64) for label, tile in zip(labels, tiles)]
    corners, shares = rare_class_corners([counted(label, 64) for label in labels], allowed, random)
    # Every crop around class 1 would touch the validation tile, so two classes are left.
    assert len(corners) == 2
    np.testing.assert_allclose(shares[1] / shares[0], (labels[0] == 0).sum() / 16
                               + (labels[1] == 0).sum() / 16)
    assert (corners[1] == [1, 0, 0]).all()
    for scene, row, column in corners[0]:
        assert allowed[scene][row, column]
    everywhere = [AllowedCorners(label.shape, [], 64) for label in labels]
    corners, shares = rare_class_corners([counted(label, 64) for label in labels], everywhere,
                                         random)
    for scene, row, column in corners[1]:
        assert scene == 0 and labels[0][row + 32, column + 32] == 1
    assert len(np.unique(corners[1], axis=0)) == 400     # every pixel of the class is a centre
    with pytest.raises(ValueError, match="no training scene has a labelled pixel"):
        rare_class_corners([counted(np.full((80, 80), 255, np.uint8), 64)],
                           [AllowedCorners((80, 80), [], 64)], random)
