"""Woven turns, with stand-in models whose answer is known."""

import itertools

import numpy as np
import pytest

from utils.inference.sliding_window import (BLENDS, InferenceOptions, predict_strips,
                                            window_batches, window_starts)

WINDOW = 16


def _scene(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def _map(scene, predict, **options):
    def read(top, left, height, width):
        return scene[top:top + height, left:left + width]

    options = InferenceOptions(WINDOW, **({"rotations": "woven", "blend": "root_cosine"} | options))
    strips = predict_strips(read, *scene.shape[:2], predict, options)
    return np.concatenate([probabilities for _, probabilities in strips])


def _directed(images):
    """A stand-in that is not symmetric: each pixel's answer is that of one above and to the left,
    and the lower a pixel lies, the less it is."""
    values = np.roll(images / np.float32(255), [1, 2], [1, 2])
    return values * np.linspace(1, .5, images.shape[1], dtype=np.float32)[:, None, None]


@pytest.mark.parametrize("size", [(64, 48), (57, 70), (16, 40), (33, 16), (10, 12)])
@pytest.mark.parametrize("batch_size", [1, 5, 16])
def test_woven_is_the_blend_of_windows_that_were_each_turned_once(size, batch_size):
    scene = _scene(*size)
    padded = np.pad(scene, [(0, max(0, WINDOW - n)) for n in size] + [(0, 0)], mode="symmetric")
    profile = np.sin(np.pi * (np.arange(WINDOW) + .5) / WINDOW)
    weight = np.outer(profile, profile)[..., None]
    weighted, total = np.zeros(padded.shape), np.zeros((*padded.shape[:2], 1))
    # The windows at the scene's edge are there twice, with two turns.
    tops, lefts = ((starts[:1] + starts + starts[-1:] if len(starts) > 1 else starts * 2)
                   for starts in (window_starts(n, WINDOW, .5) for n in size))
    for (row, top), (column, left) in itertools.product(enumerate(tops), enumerate(lefts)):
        turns = [[0, 2], [1, 3]][row % 2][column % 2]
        inside = np.s_[top:top + WINDOW, left:left + WINDOW]
        turned = _directed(np.rot90(padded[inside], turns)[None])[0]
        # Two in one place weigh as much as one.
        share = weight / tops.count(top) / lefts.count(left)
        weighted[inside] += share * np.rot90(turned, -turns)
        total[inside] += share
    expected = (weighted / total)[:size[0], :size[1]]
    np.testing.assert_allclose(_map(scene, _directed, batch_size=batch_size), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 48), (57, 71), (130, 33), (16, 16), (16, 90), (9, 40)])
def test_every_pixel_sees_all_four_turns(size):
    options = InferenceOptions(WINDOW, rotations="woven", batch_size=3)
    scene = _scene(*size)
    padded = np.pad(scene, [(0, max(0, WINDOW - n)) for n in size] + [(0, 0)], mode="symmetric")
    seen = np.zeros((4, *padded.shape[:2]), bool)

    def read(top, left, height, width):
        return scene[top:top + height, left:left + width]

    for places, images in window_batches(read, *size, options):
        for (top, left, turns), image in zip(places, images):
            inside = np.s_[top:top + WINDOW, left:left + WINDOW]
            np.testing.assert_array_equal(image, np.rot90(padded[inside], turns))
            seen[turns][inside] = True
    assert seen.all()


def test_a_scene_of_one_window_is_the_mean_of_four_turns():
    scene = _scene(WINDOW, WINDOW)
    expected = np.mean([np.rot90(_directed(np.rot90(scene, turns)[None])[0], -turns)
                        for turns in range(4)], axis=0)
    np.testing.assert_allclose(_map(scene, _directed), expected, atol=1e-6)


def test_constant_probabilities_stay_as_they_are():
    constants = np.float32([.7, .2, .1])
    for overlap, blend in itertools.product((0, .125, .5), BLENDS):
        result = _map(_scene(57, 70), lambda images: np.broadcast_to(constants, images.shape),
                      overlap=overlap, blend=blend)
        np.testing.assert_allclose(result, np.broadcast_to(constants, result.shape), atol=1e-6)


def test_a_model_that_turns_with_its_input_gives_the_map_of_one_turn():
    def neighbours(images):  # the mean of a pixel's four neighbours
        values = np.pad(images / np.float32(255), ((0, 0), (1, 1), (1, 1), (0, 0)))
        return (values[:, 2:, 1:-1] + values[:, :-2, 1:-1] + values[:, 1:-1, 2:]
                + values[:, 1:-1, :-2]) / 4

    scene = _scene(57, 70)
    woven, plain = (_map(scene, neighbours, rotations=turns) for turns in ("woven", 1))
    np.testing.assert_allclose(woven, plain, atol=1e-6)
    assert not np.allclose(_map(scene, _directed), _map(scene, _directed, rotations=1), atol=.01)


@pytest.mark.parametrize("size, a_call", [((16, 16), 4), ((24, 24), 16), ((40, 40), 12),
                                          ((48, 40), 14)])
def test_batches_are_no_larger_than_they_must_be(size, a_call):
    seen = []

    def predict(images):
        seen.append(len(images))
        return images / np.float32(255)

    _map(_scene(*size), predict, batch_size=16)
    assert set(seen) == {a_call} and sum(seen) in (4, 16, 36, 42)
