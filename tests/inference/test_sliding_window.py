"""Windows and weights, with stand-in models whose answer is known."""

import tracemalloc

import numpy as np
import pytest

from utils.inference import sliding_window
from utils.inference.sliding_window import (InferenceOptions, predict_strips, window_starts,
                                            window_weights)

SIZES = [(1, 1), (1, 90), (90, 1), (31, 33), (64, 48), (65, 49), (128, 96), (130, 257), (200, 50)]
WINDOW = 64


def _scene(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def _reader(scene):
    """A `read` that fails where it is asked for anything outside the scene."""
    def read(top, left, height, width):
        assert top >= 0 and left >= 0 and height >= 1 and width >= 1
        assert top + height <= scene.shape[0] and left + width <= scene.shape[1]
        return scene[top:top + height, left:left + width]
    return read


def _map(scene, predict, window=WINDOW, **options):
    """All strips joined, after a check that they follow each other without gaps."""
    height, width = scene.shape[:2]
    strips, below = [], 0
    for top, probabilities in predict_strips(_reader(scene), height, width, predict,
                                             InferenceOptions(window, **options)):
        assert top == below and probabilities.dtype == np.float32
        below += len(probabilities)
        strips.append(probabilities)
    assert below == height
    return np.concatenate(strips)


def _brightness(images):
    """A stand-in model of one pixel's context: three 'classes' that are its channels."""
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
    with pytest.raises(ValueError, match="none of cosine, root_cosine, tukey, uniform, none"):
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
        result = _map(_scene(*size), predict, overlap=overlap, blend=blend)
        assert result.shape == (*size, 4)
        np.testing.assert_allclose(result, np.broadcast_to(constants, result.shape), atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_window_and_batch_size_do_not_change_the_map(size):
    scene = _scene(*size)
    for window, batch_size in ((64, 1), (48, 5), (17, 3), (256, 2)):
        result = _map(scene, _brightness, window=window, batch_size=batch_size)
        np.testing.assert_allclose(result, scene / 255, atol=1e-6)


@pytest.mark.parametrize("size, overlap", [((200, 131), .5), ((64, 100), .4), ((130, 96), 0)])
def test_blending_is_the_weighted_mean_of_all_windows_over_a_pixel(size, overlap):
    scene = _scene(*size) // 2 + (np.arange(size[1])[:, None] % 128).astype(np.uint8)
    profile = np.sin(np.pi * (np.arange(WINDOW) + .5) / WINDOW) ** 2
    weight = np.outer(profile, profile)[..., None]
    weighted, total = np.zeros(scene.shape), np.zeros((*size, 1))
    for top in window_starts(size[0], WINDOW, overlap):
        for left in window_starts(size[1], WINDOW, overlap):
            inside = np.s_[top:top + WINDOW, left:left + WINDOW]
            weighted[inside] += weight * _window_mean(scene[inside][None])[0]
            total[inside] += weight
    result = _map(scene, _window_mean, overlap=overlap, batch_size=3)
    np.testing.assert_allclose(result, weighted / total, atol=1e-5)


def test_small_scene_is_reflected():
    scene = _scene(5, 20)
    seen = []

    def predict(images):
        seen.append(images[0])
        return _brightness(images)

    _map(scene, predict, window=24, batch_size=1)
    assert len(seen) == 1 and seen[0].shape == (24, 24, 3)
    np.testing.assert_array_equal(seen[0][5:10, :20], scene[::-1])
    np.testing.assert_array_equal(seen[0][10:15, :20], scene)
    np.testing.assert_array_equal(seen[0][:5, 20:], scene[:, :15:-1])


def test_every_batch_has_the_same_shape():
    shapes = set()

    def predict(images):
        shapes.add((images.shape, images.dtype.name))
        return _brightness(images)

    _map(_scene(200, 131), predict, batch_size=4)
    assert shapes == {((4, 64, 64, 3), "uint8")}


def test_strips_come_as_soon_as_they_are_finished():
    read_to = 0

    def read(top, left, height, width):
        nonlocal read_to
        read_to = max(read_to, top + height)
        return np.zeros((height, width, 3), np.uint8)

    options = InferenceOptions(WINDOW, batch_size=1)
    for top, strip in predict_strips(read, 2000, 96, _brightness, options):
        # At most a few rows of windows are read ahead when a strip is handed out.
        assert read_to <= top + len(strip) + 4 * WINDOW
    assert read_to == 2000


def test_memory_does_not_grow_with_the_height():
    def peak(height):
        tracemalloc.start()
        for _ in predict_strips(lambda top, left, rows, columns: np.zeros((rows, columns, 3), "u1"),
                                height, 96, _brightness, InferenceOptions(WINDOW, batch_size=2)):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    # How far the threads run ahead varies by a few batches; the scene holds as many as 250.
    a_batch = 2 * WINDOW * WINDOW * 3 * 4
    assert peak(8000) < peak(800) + 6 * a_batch


@pytest.mark.parametrize("overlap", [0, .5])
@pytest.mark.parametrize("blocks", [[(0, 0, 400, 300)], [(150, 200, 40, 30)], [(0, 0, 1, 1)],
                                    [(399, 299, 1, 1), (130, 0, 20, 300)], []])
def test_windows_without_data_are_not_computed_and_change_nothing(blocks, overlap):
    scene, data = _scene(400, 300), np.zeros((400, 300), bool)
    for top, left, rows, columns in blocks:
        data[top:top + rows, left:left + columns] = True
    options, batches = InferenceOptions(WINDOW, overlap=overlap, batch_size=4), []

    def predict(images):
        assert images.shape[0] == 4
        batches.append(images)
        return _window_mean(images)

    def strips(has_data=None):
        return np.concatenate([strip for _, strip in predict_strips(
            _reader(scene), 400, 300, predict, options, has_data)])

    whole = strips()
    batches.clear()
    np.testing.assert_array_equal(strips(_reader(data))[data], whole[data])
    windows = [data[top:top + WINDOW, left:left + WINDOW].any()
               for top in window_starts(400, WINDOW, overlap)
               for left in window_starts(300, WINDOW, overlap)]
    assert len(batches) == -(-max(1, sum(windows)) // 4)
