"""utils/data/augment_tf.py against numpy and Pillow, and the stream of batches that it feeds."""

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from conftest import class_table, write_tile_set
from PIL import Image, ImageEnhance

from utils.data.input_pipeline import training_batches
from utils.data.tiles import TileSet
from utils.data.augment_tf import (MEAN_PIXEL, augment_online, check_crop, colour_jitter,
                                  pad, scale_and_crop, turn)

SIZE, CROP = 20, 16


def draw_tile(size=SIZE, seed=0):
    """A tile whose pixels all differ: row and column stand in red and green, the label in blue."""
    label = np.random.default_rng(seed).choice(np.array([0, 1, 2, 255], np.uint8), (size, size))
    rows, columns = np.mgrid[:size, :size]
    return np.stack([rows, columns, label], axis=2).astype(np.uint8), label


def run_many(seeds, tile, **options):
    """[(image, label)] of augment_online for each seed, from one graph."""
    with tf.Graph().as_default(), tf.Session() as session:
        seed = tf.placeholder(tf.int64, [2])
        made = augment_online(*map(tf.constant, tile), seed, **options)
        assert made[0].shape.as_list() == [options["crop_size"]] * 2 + [3]
        assert made[1].shape.as_list() == [options["crop_size"]] * 2
        return [session.run(made, {seed: value}) for value in seeds]


def evaluate(function, *arguments):
    with tf.Graph().as_default(), tf.Session() as session:
        return session.run(function(*map(tf.constant, arguments)))


def run_scale_and_crop(tile, scale, row, column):
    """A square of CROP, padded, its place by row and column in [0, 1)."""
    def scale_and_pad(image, label, scale, row, column):
        return pad(*scale_and_crop(image, label, CROP, scale, row, column), CROP, row, column)

    return evaluate(scale_and_pad, *tile, scale, row, column)


def test_crops_are_slices_turned_and_every_place_and_turn_comes_equally_often():
    tile, count = draw_tile(), 2000
    places, turns = np.zeros((SIZE - CROP + 1,) * 2, int), {}
    for image, label in run_many([(3, n) for n in range(count)], tile, crop_size=CROP):
        row, column = image[..., :2].min((0, 1))
        window = np.s_[row:row + CROP, column:column + CROP]
        expected = {(quarters, mirrored): np.rot90(
            tile[0][window][:, ::-1] if mirrored else tile[0][window], quarters)
            for quarters in range(4) for mirrored in (False, True)}
        [found] = [name for name, array in expected.items() if (array == image).all()]
        np.testing.assert_array_equal(image[..., 2], label)
        places[row, column] += 1
        turns[found] = turns.get(found, 0) + 1
    for counts in (places.ravel(), np.array(list(turns.values()))):
        # Chi-square, which has the mean k - 1 and the variance 2 (k - 1): five deviations.
        expected = count / counts.size
        freedom = counts.size - 1
        assert ((counts - expected) ** 2 / expected).sum() < freedom + 5 * (2 * freedom) ** .5
    assert len(turns) == 8


@pytest.mark.parametrize("transpose", (False, True))
@pytest.mark.parametrize("down", (False, True))
@pytest.mark.parametrize("across", (False, True))
def test_turn_is_numpy_transpose_and_flips(transpose, down, across):
    tile = draw_tile()
    made = evaluate(turn, *tile, transpose, down, across)
    for array, result in zip(tile, made):
        expected = array.swapaxes(0, 1) if transpose else array
        expected = expected[::-1] if down else expected
        np.testing.assert_array_equal(result, expected[:, ::-1] if across else expected)


def test_a_whole_tile_keeps_its_pixels():
    tile = draw_tile()
    for image, label in run_many([(0, n) for n in range(8)], tile, crop_size=SIZE):
        np.testing.assert_array_equal(np.unique(image.reshape(-1, 3), axis=0),
                                      np.unique(tile[0].reshape(-1, 3), axis=0))
        np.testing.assert_array_equal(image[..., 2], label)


def test_enlarging_by_two_takes_each_label_four_times():
    image, label = draw_tile()
    scaled, labels = run_scale_and_crop((image, label), 2.0, 0.99, 0.5)
    # The last 16 of 40 rows, and the 16 in the middle of 40 columns.
    expected = label.repeat(2, 0).repeat(2, 1)[24:, 12:28]
    np.testing.assert_array_equal(labels, expected)
    resized = cv2.resize(image[12:, 6:14], (CROP, CROP), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(scaled.astype(int), resized, atol=1)


def test_reducing_by_two_averages_the_image_and_ignores_what_it_does_not_cover():
    random = np.random.default_rng(1)
    # Blocks of 2 x 2 that are alike: their mean is themselves.
    image = random.integers(0, 256, (SIZE // 2, SIZE // 2, 3)).astype(np.uint8)
    label = random.integers(0, 3, (SIZE // 2, SIZE // 2)).astype(np.uint8)
    large = image.repeat(2, 0).repeat(2, 1), label.repeat(2, 0).repeat(2, 1)
    scaled, labels = run_scale_and_crop(large, 0.5, 0.0, 0.99)
    covered = np.zeros((CROP, CROP), bool)
    covered[:10, 6:] = True                              # 10 of 16: at the top, at the right
    np.testing.assert_array_equal(labels[:10, 6:], label)
    assert (labels[~covered] == 255).all() and (scaled[~covered] == MEAN_PIXEL).all()
    np.testing.assert_array_equal(scaled[:10, 6:], image)


def test_a_scaled_tile_that_fills_the_crop_leaves_no_pixel_of_it_empty():
    image, label = np.full((SIZE, SIZE, 3), 100, np.uint8), np.full((SIZE, SIZE), 4, np.uint8)
    for picture, labels in run_many([(0, n) for n in range(100)], (image, label), crop_size=CROP,
                                    scale_range=(CROP / SIZE, 4.0)):
        assert (picture == 100).all() and (labels == 4).all()


def test_labels_under_scaling_are_old_values_and_255_and_stay_over_their_pixels():
    label = np.zeros((48, 48), np.uint8)
    label[:, 24:] = 3
    label[30:] = 7
    image = np.repeat(label[..., None] * 30, 3, axis=2)
    shares = []
    for picture, labels in run_many([(0, n) for n in range(60)], (image, label), crop_size=40,
                                    scale_range=(0.5, 2.0)):
        assert set(np.unique(labels)) <= {0, 3, 7, 255}
        known = labels != 255
        assert (picture[~known] == MEAN_PIXEL).all()
        # Only beside an edge between classes is a pixel a mixture.
        around = np.ones((3, 3), np.uint8)
        alike = known & (cv2.erode(labels, around) == cv2.dilate(labels, around))
        assert alike.sum() > .7 * known.sum()
        assert (picture[alike] == labels[alike, None] * 30).all()
        shares.append(1 - known.mean())
    # Enlarged as often as reduced: 48 pixels fill 40 from a factor of .83 on.
    assert .4 < np.mean(np.array(shares) == 0) < .8 and max(shares) > .5


@pytest.mark.parametrize("place, enhance", enumerate(
    (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)))
@pytest.mark.parametrize("factor", (0.6, 1.0, 1.4))
def test_colour_jitter_is_that_of_pillow(place, enhance, factor):
    image = np.random.default_rng(2).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    factors = [1.0, 1.0, 1.0]
    factors[place] = factor
    made = evaluate(colour_jitter, image, *factors)
    expected = np.asarray(enhance(Image.fromarray(image)).enhance(factor)).astype(int)
    # Pillow rounds its greys to whole numbers.
    np.testing.assert_allclose(made, expected, atol=1)


def test_jitter_changes_colours_within_its_share_and_never_the_label_or_the_mean_pixel():
    image, label = np.full((SIZE, SIZE, 3), 100, np.uint8), np.full((SIZE, SIZE), 4, np.uint8)
    seen = []
    for picture, labels in run_many([(0, n) for n in range(60)], (image, label), crop_size=CROP,
                                    scale_range=(0.5, 0.7), jitter=0.2):
        covered = labels == 4
        assert set(np.unique(labels)) == {4, 255}
        assert (picture[~covered] == MEAN_PIXEL).all()
        seen.append(np.median(picture[covered]))
    assert 78 <= min(seen) < 85 and 115 < max(seen) <= 122


def test_the_same_seed_gives_the_same_tile_and_others_another():
    tile = draw_tile(48)
    options = {"crop_size": 40, "scale_range": (0.5, 2.0), "jitter": 0.3}
    first = run_many([(1, 5), (1, 6), (2, 5)], tile, **options)
    again = run_many([(1, 5), (1, 6), (2, 5)], tile, **options)
    for one, other in zip(first, again):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    assert (first[0][0] != first[1][0]).any() and (first[0][0] != first[2][0]).any()


def read_batches(tile_set, first_step, steps):
    def augment(image, label, seed):
        return augment_online(image, label, seed, CROP, (0.5, 2.0), 0.2)

    with tf.Graph().as_default(), tf.Session() as session:
        images, labels, start = training_batches(
            tile_set, 3, 4, tf.constant(first_step, tf.int64), augment=augment)
        assert images.shape.as_list() == [3, CROP, CROP, 3] and images.dtype == tf.uint8
        assert labels.shape.as_list() == [3, CROP, CROP] and labels.dtype == tf.uint8
        session.run(start)
        return [session.run((images, labels)) for _ in range(steps)]


def test_batches_are_a_function_of_seed_and_step_and_differ_between_epochs(tmp_path):
    write_tile_set(tmp_path, [draw_tile(SIZE, number) for number in range(6)])
    tile_set = TileSet(str(tmp_path), class_table(5))
    whole = read_batches(tile_set, 0, 8)                        # two batches an epoch
    for before, after in zip(whole[3:], read_batches(tile_set, 3, 5)):
        np.testing.assert_array_equal(before[0], after[0])
        np.testing.assert_array_equal(before[1], after[1])
    made = np.concatenate([images for images, _ in whole])
    assert len(np.unique(made.reshape(24, -1), axis=0)) == 24


@pytest.mark.parametrize("tile_size, crop_size, augmented, scale_range, message", [
    (256, 300, True, (1, 1), "--crop_size 300 is larger than the tiles"),
    (384, 256, False, (1, 1), "--augment_online"),
    (256, 256, True, (2, 1), "LOW is above HIGH"),
    (256, 256, False, (.5, 2), "needs --augment_online"),
])
def test_flags_that_contradict_each_other_are_named(tile_size, crop_size, augmented, scale_range,
                                                    message):
    with pytest.raises(ValueError, match=message):
        check_crop(tile_size, crop_size, augmented, scale_range)
    check_crop(384, 256, True, (0.5, 2.0))
    check_crop(256, 256, False, (1, 1))
