"""Windows, weights and turned copies, with stand-in models whose answer is known."""

import tracemalloc

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from utils.inference import sliding_window
from utils.inference.sliding_window import (augmented_probabilities, predict_bands, window_starts,
                                  window_weights)

SIZES = [(1, 1), (1, 90), (90, 1), (31, 33), (64, 48), (65, 49), (128, 96), (130, 257), (200, 50)]
WINDOW = (64, 48)


def _scene(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def _reader(scene):
    """A `read` that fails where it is asked for anything outside the scene."""
    def read(top, left, height, width):
        assert top >= 0 and left >= 0 and height >= 1 and width >= 1
        assert top + height <= scene.shape[0] and left + width <= scene.shape[1]
        return scene[top:top + height, left:left + width]
    return read


def _map(scene, predict, **settings):
    """All bands joined, after a check that they follow each other without gaps."""
    height, width = scene.shape[:2]
    bands, below = [], 0
    for top, probabilities in predict_bands(_reader(scene), height, width, predict, **settings):
        assert top == below and probabilities.dtype == np.float32
        below += len(probabilities)
        bands.append(probabilities)
    assert below == height
    return np.concatenate(bands)


def _brightness(images):
    """A stand-in model of one pixel's context: three 'classes' that are its bands."""
    return images / np.float32(255)


def _window_mean(images):
    """A stand-in model that gives a whole window one value, so that weights show."""
    return np.broadcast_to(_brightness(images).mean((1, 2), keepdims=True), images.shape)


@pytest.mark.parametrize("overlap", [0, .25, .5, .9, .999])
@pytest.mark.parametrize("window", [1, 2, 7, 64])
def test_windows_cover_the_axis_and_stay_inside(window, overlap):
    for length in (1, 2, 6, 7, 8, 63, 64, 65, 128, 129, 200):
        starts = window_starts(length, window, overlap)
        assert starts[0] == 0 and starts[-1] == max(0, length - window)
        steps = np.diff(starts)
        assert (steps > 0).all() and (steps <= max(1, round(window * (1 - overlap)))).all()


def test_windows_and_blends_that_do_not_exist():
    for overlap in (-.1, 1, float("nan")):
        with pytest.raises(ValueError, match="overlap"):
            window_starts(100, 10, overlap)
    with pytest.raises(ValueError, match="none of cosine, uniform, none"):
        window_weights([0], 10, "linear")


@pytest.mark.parametrize("blend", sliding_window.BLENDS)
@pytest.mark.parametrize("overlap", [0, .3, .5, .8])
def test_weights_of_an_axis_add_up_to_one(blend, overlap):
    for length in (5, 64, 65, 128, 300):
        starts = window_starts(length, 64, overlap)
        weights = window_weights(starts, 64, blend)
        total = np.zeros(max(length, 64))
        for start, weight in zip(starts, weights):
            total[start:start + 64] += weight
        np.testing.assert_allclose(total, 1, atol=1e-6)
        assert blend == "none" or (weights > 0).all()


def test_without_blend_a_shifted_window_gives_only_what_is_missing():
    starts = window_starts(600, 256, 0)
    assert starts == [0, 256, 344]
    weights = window_weights(starts, 256, "none")
    assert (weights[:2] == 1).all()
    np.testing.assert_array_equal(weights[2], np.arange(344, 600) >= 512)


@pytest.mark.parametrize("blend", sliding_window.BLENDS)
@pytest.mark.parametrize("size", SIZES)
def test_constant_probabilities_stay_constant_to_the_last_pixel(size, blend):
    constants = np.float32([.7, .2, .1, 0])

    def predict(images):
        return np.broadcast_to(constants, (*images.shape[:3], 4))

    for overlap in (0, .5, .7):
        result = _map(_scene(*size), predict, window=WINDOW, overlap=overlap, blend=blend)
        assert result.shape == (*size, 4)
        np.testing.assert_allclose(result, np.broadcast_to(constants, result.shape), atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_window_and_batch_size_do_not_change_the_map(size):
    scene = _scene(*size)
    for window, batch_size in (((64, 48), 1), ((64, 48), 5), ((17, 90), 3), ((256, 256), 2)):
        result = _map(scene, _brightness, window=window, batch_size=batch_size)
        np.testing.assert_allclose(result, scene / 255, atol=1e-6)


@pytest.mark.parametrize("size, overlap", [((200, 131), .5), ((64, 100), .4), ((130, 96), 0)])
def test_blending_is_the_weighted_mean_of_all_windows_over_a_pixel(size, overlap):
    scene = _scene(*size) // 2 + (np.arange(size[1])[:, None] % 128).astype(np.uint8)
    profile = [np.sin(np.pi * (np.arange(side) + .5) / side) ** 2 for side in WINDOW]
    weight = np.outer(*profile)[..., None]
    weighted, total = np.zeros(scene.shape), np.zeros((*size, 1))
    for top in window_starts(size[0], WINDOW[0], overlap):
        for left in window_starts(size[1], WINDOW[1], overlap):
            inside = np.s_[top:top + WINDOW[0], left:left + WINDOW[1]]
            weighted[inside] += weight * _window_mean(scene[inside][None])[0]
            total[inside] += weight
    result = _map(scene, _window_mean, window=WINDOW, overlap=overlap, batch_size=3)
    np.testing.assert_allclose(result, weighted / total, atol=1e-5)


def test_small_scene_is_reflected():
    scene = _scene(5, 20)
    seen = []

    def predict(images):
        seen.append(images[0])
        return _brightness(images)

    _map(scene, predict, window=(12, 24), batch_size=1)
    assert len(seen) == 1 and seen[0].shape == (12, 24, 3)
    np.testing.assert_array_equal(seen[0][5:10, :20], scene[::-1])
    np.testing.assert_array_equal(seen[0][10:, :20], scene[:2])
    np.testing.assert_array_equal(seen[0][:5, 20:], scene[:, :15:-1])


def test_every_batch_has_the_same_shape():
    shapes = set()

    def predict(images):
        shapes.add((images.shape, images.dtype.name))
        return _brightness(images)

    _map(_scene(200, 131), predict, window=WINDOW, batch_size=4)
    assert shapes == {((4, 64, 48, 3), "uint8")}


def test_bands_come_as_soon_as_they_are_finished():
    read_to = 0

    def read(top, left, height, width):
        nonlocal read_to
        read_to = max(read_to, top + height)
        return np.zeros((height, width, 3), np.uint8)

    for top, band in predict_bands(read, 2000, 96, _brightness, WINDOW, .5, batch_size=1):
        # At most a few rows of windows are read ahead when a band is handed out.
        assert read_to <= top + len(band) + 4 * WINDOW[0]
    assert read_to == 2000


def test_memory_does_not_grow_with_the_height():
    def peak(height):
        tracemalloc.start()
        for _ in predict_bands(lambda top, left, rows, columns: np.zeros((rows, columns, 3), "u1"),
                               height, 96, _brightness, WINDOW, .5, batch_size=2):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    # How far the threads run ahead varies by a few batches; the scene holds as many as 250.
    a_batch = 2 * WINDOW[0] * WINDOW[1] * 3 * 4
    assert peak(8000) < peak(800) + 6 * a_batch


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_turn_is_that_of_numpy_and_its_inverse_is_exact(quarters, flip):
    images = np.stack([_scene(7, 9), _scene(7, 9, seed=1)])
    with tf.Graph().as_default(), tf.Session() as session:
        turned = sliding_window.turn(tf.constant(images), quarters, flip)
        back = sliding_window.turn_back(turned, quarters, flip)
        turned, back = session.run([turned, back])
    expected = np.rot90(images[:, :, ::-1] if flip else images, quarters, (1, 2))
    np.testing.assert_array_equal(turned, expected)
    np.testing.assert_array_equal(back, images)


def _run(images, probabilities_of, **settings):
    with tf.Graph().as_default(), tf.Session() as session:
        placeholder = tf.placeholder(tf.uint8, [None, *images.shape[1:]])
        tensor = augmented_probabilities(placeholder, probabilities_of, **settings)
        assert tensor.shape.as_list()[1:3] == list(images.shape[1:3])
        session.run(tf.global_variables_initializer())
        return session.run(tensor, {placeholder: images})


def _pixel_brightness(images):
    return tf.cast(images, tf.float32) / 255


def _shifted(images):
    """A stand-in that is not symmetric: each pixel's answer is its right-hand neighbour's upper."""
    return tf.roll(_pixel_brightness(images), [1, -2], [1, 2])


def _definition(images, answer, rotations, flips):
    """The mean over the group of turns, after its definition, with numpy."""
    results = []
    for quarters in range(0, 4, 4 // rotations):
        for flip in (False, True) if flips else (False,):
            copy = np.rot90(images[:, :, ::-1] if flip else images, quarters, (1, 2))
            result = np.rot90(answer(copy), -quarters, (1, 2))
            results.append(result[:, :, ::-1] if flip else result)
    return np.mean(results, axis=0)


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("rotations", [1, 2, 4])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (12, 5)])
def test_turned_copies_are_turned_back(size, rotations, flips):
    images = np.stack([_scene(*size), _scene(*size, seed=1)])
    settings = {"rotations": rotations, "flips": flips}
    np.testing.assert_allclose(_run(images, _pixel_brightness, **settings), images / 255, atol=1e-6)
    expected = _definition(images / 255, lambda x: np.roll(x, [1, -2], [1, 2]), **settings)
    result = _run(images, _shifted, **settings)
    np.testing.assert_allclose(result, expected, atol=1e-6)
    # The copies are different ones: no two of the group give the same answer here.
    if rotations == 4:
        assert not np.allclose(result, _definition(
            images / 255, lambda x: np.roll(x, [1, -2], [1, 2]), 2, flips), atol=1e-3)


@pytest.mark.parametrize("size", [(16, 16), (15, 21)])
@pytest.mark.parametrize("scale", [.5, .75, 1.25, 2])
def test_scaled_copies_lie_over_the_image(size, scale):
    images = _scene(*size)[None]

    def definition(values):
        height, width = round(values.shape[1] * scale), round(values.shape[2] * scale)
        # OpenCV's linear interpolation takes pixels as areas too: an independent reference.
        scaled = cv2.resize(values[0].astype(np.float32), (width, height))
        return cv2.resize(scaled, values.shape[2:0:-1])[None]

    result = _run(images, _pixel_brightness, scales=(scale,))
    np.testing.assert_allclose(result, definition(images / 255), atol=1e-5)
    result = _run(images, _pixel_brightness, scales=(1, scale), rotations=4, flips=True)
    expected = (images / 255 + _definition(images / 255, definition, 4, True)) / 2
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("size, scales, shapes", [
    ((8, 8), (1,), [(16, 8, 8)]),
    ((8, 6), (1,), [(8, 8, 6), (8, 6, 8)]),
    ((8, 6), (1, .5), [(8, 8, 6), (8, 6, 8), (8, 4, 3), (8, 3, 4)])])
def test_copies_of_one_shape_are_one_batch_and_share_variables(size, scales, shapes):
    seen = []

    def probabilities_of(images):
        seen.append((tf.shape(images)[0], *images.shape[1:3].as_list()))
        return _pixel_brightness(images) * tf.get_variable("scale", [], tf.float32)

    with tf.Graph().as_default(), tf.Session() as session:
        images = tf.zeros([2, *size, 3], tf.uint8)
        augmented_probabilities(images, probabilities_of, rotations=4, flips=True, scales=scales)
        assert [v.name for v in tf.global_variables()] == ["scale:0"]
        assert [(session.run(batch), *rest) for batch, *rest in seen] == shapes


def test_other_numbers_of_rotations_do_not_exist():
    with pytest.raises(ValueError, match="3 rotations"):
        _run(_scene(4, 4)[None], _pixel_brightness, rotations=3)
