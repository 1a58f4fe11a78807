"""Turned and scaled copies, with stand-in models whose answer is known."""

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from utils.inference.tta import augmented_probabilities, turn, turn_back


def _scene(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_turn_is_that_of_numpy_and_its_inverse_is_exact(quarters, flip):
    images = np.stack([_scene(7, 9), _scene(7, 9, seed=1)])
    with tf.Graph().as_default(), tf.Session() as session:
        turned = turn(tf.constant(images), quarters, flip)
        back = turn_back(turned, quarters, flip)
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
