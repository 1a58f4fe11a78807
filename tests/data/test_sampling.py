"""utils/data/sampling.py: how crops are chosen."""

import numpy as np
import pytest

from utils.data.sampling import (allowed_corners, choose_validation_tiles, draw_corner,
                                 rare_class_corners, tiles_by_scene, with_valid_pixels)


def test_every_crop_inside_the_scene_may_be_drawn_last_row_and_column_included():
    allowed = allowed_corners((20, 23), np.empty((0, 2), int), 16)
    assert allowed.shape == (5, 8) and allowed.all()
    random = np.random.default_rng(0)
    drawn = {draw_corner(allowed, random) for _ in range(1000)}
    assert drawn == {(row, column) for row in range(5) for column in range(8)}


def test_allowed_corners_against_a_count_of_shared_pixels():
    tiles = np.array([[16, 32], [32, 32]])
    blocked = np.zeros((70, 90), bool)
    for row, column in tiles:
        blocked[row:row + 16, column:column + 16] = True
    allowed = allowed_corners(blocked.shape, tiles, 16)
    assert allowed.shape == (55, 75)
    for row, column in np.ndindex(*allowed.shape):
        assert allowed[row, column] == (not blocked[row:row + 16, column:column + 16].any())


@pytest.mark.parametrize("height, width, tiles", [(300, 340, 0), (256, 256, 0), (1024, 1024, 2),
                                                  (2600, 3300, 13), (4438, 6447, 44)])
def test_validation_tiles_are_whole_distinct_and_about_the_fraction(height, width, tiles):
    # Classes in bands, so that blocks in the wrong place would miss some.
    label = (np.arange(width)[None] * 5 // width + np.zeros((height, 1), int)).astype(np.uint8)
    label[:height // 3] = 255
    corners = choose_validation_tiles(label, 256, 0.1, np.random.default_rng(1))
    assert 0.75 * tiles <= len(corners) <= tiles
    assert len(np.unique(corners, axis=0)) == len(corners)
    assert (corners % 256 == 0).all() and (corners >= 0).all()
    assert (corners + 256 <= (height, width)).all()
    assert allowed_corners(label.shape, corners, 256).mean() >= min(1, 0.5 + 0.5 * (tiles == 0))
    if tiles > 10:
        chosen = np.concatenate([label[row:row + 256, column:column + 256].ravel()
                                 for row, column in corners])
        shares = np.bincount(chosen[chosen < 255], minlength=5) / (chosen < 255).sum()
        assert (shares > 0.05).all()


def test_validation_never_takes_the_last_place_for_a_crop():
    for side in range(64, 260, 7):
        for fraction in (0.1, 0.3, 0.5):
            label = np.zeros((side, side + 10), np.uint8)
            tiles = choose_validation_tiles(label, 64, fraction, np.random.default_rng(side))
            assert allowed_corners(label.shape, tiles, 64).any()
    assert not len(choose_validation_tiles(label, 64, 0.0, np.random.default_rng(0)))


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
    allowed = [allowed_corners(label.shape, tile, 64) for label, tile in zip(labels, tiles)]
    corners, shares = rare_class_corners(labels, allowed, 64, random)
    # Every crop around class 1 would touch the validation tile, so two classes are left.
    assert len(corners) == 2
    np.testing.assert_allclose(shares[1] / shares[0], (labels[0] == 0).sum() / 16
                               + (labels[1] == 0).sum() / 16)
    assert (corners[1] == [1, 0, 0]).all()
    for scene, row, column in corners[0]:
        assert allowed[scene][row, column]
    corners, shares = rare_class_corners(labels, [np.ones_like(mask) for mask in allowed], 64,
                                         random)
    for scene, row, column in corners[1]:
        assert scene == 0 and labels[0][row + 32, column + 32] == 1
    assert len(np.unique(corners[1], axis=0)) == 400     # every pixel of the class is a centre
    with pytest.raises(ValueError, match="no training scene has a labelled pixel"):
        rare_class_corners([np.full((80, 80), 255, np.uint8)], [np.ones((17, 17), bool)], 64,
                           random)


def test_crops_with_a_valid_pixel_and_blocks_of_a_sparse_label():
    label = np.full((300, 400), 255, np.uint8)
    label[100:190, 200:330] = np.arange(130) // 26
    label[7, 9] = 1
    usable = with_valid_pixels(label, 16)
    windows = np.lib.stride_tricks.sliding_window_view(label != 255, (16, 16))
    np.testing.assert_array_equal(usable, windows.any(axis=(2, 3)))
    blocks = choose_validation_tiles(label, 16, 0.2, np.random.default_rng(0), sparse=True)
    # A fifth of the valid pixels, not of the scene, and enough crops with some are left.
    assert 0.7 * 9.1 <= len(blocks) <= 9.2
    allowed = allowed_corners(label.shape, blocks, 16)
    assert allowed[usable].mean() >= .25
