import numpy as np
import pytest

from utils.data.augment import (AUGMENTATIONS, GAMMA_RANGE, TURNS, add_point_noise, augment,
                           change_gamma)

NEVER = dict.fromkeys(AUGMENTATIONS, 0.0)


@pytest.fixture(name="tile")
def tile_fixture():
    """An image whose red band is its label, so that one can be followed in the other."""
    random = np.random.default_rng(0)
    label = random.choice(np.array([0, 1, 2, 255], np.uint8), (48, 48))
    image = random.integers(0, 256, (48, 48, 3)).astype(np.uint8)
    image[..., 0] = label
    return image, label


def one(name, image, label, seed=0, gamma_range=GAMMA_RANGE):
    return augment(image, label, {**NEVER, name: 1.0}, gamma_range, np.random.default_rng(seed))


@pytest.mark.parametrize("name, expected", [
    ("rotate_90", lambda array: np.rot90(array, 1)),
    ("rotate_180", lambda array: np.rot90(array, 2)),
    ("rotate_270", lambda array: np.rot90(array, 3)),
    ("flip_horizontal", np.fliplr),
    ("flip_vertical", np.flipud),
])
def test_turns_and_flips_are_exact_on_image_and_label(tile, name, expected):
    image, label, done = one(name, *tile)
    np.testing.assert_array_equal(image, expected(tile[0]))
    np.testing.assert_array_equal(label, expected(tile[1]))
    assert done == name


@pytest.mark.parametrize("name", ["gamma", "blur", "bilateral", "gaussian_blur", "noise"])
def test_photometric_changes_touch_the_image_and_never_the_label(tile, name):
    before = tile[0].copy()
    image, label, done = one(name, *tile)
    np.testing.assert_array_equal(label, tile[1])
    assert (image != before).any()
    np.testing.assert_array_equal(tile[0], before)
    assert done.split("=")[0] == name


@pytest.mark.parametrize("bands", [1, 2, 4, 13])
@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_any_number_of_bands_goes_through_as_its_bands_alone(name, bands):
    """Each band of a tile comes out as it does from a tile of that band only, to the last bit."""
    random = np.random.default_rng(bands)
    image = random.integers(0, 256, (32, 32, bands)).astype(np.uint8)
    label = random.integers(0, 5, (32, 32)).astype(np.uint8)
    changed, changed_label, _ = one(name, image, label)
    assert changed.shape == image.shape and changed.dtype == np.uint8
    assert (changed != image).any()
    for band in range(bands):
        alone, label_alone, _ = one(name, image[..., band:band + 1], label)
        np.testing.assert_array_equal(changed[..., band], alone[..., 0])
        np.testing.assert_array_equal(changed_label, label_alone)


def test_nothing_is_done_with_probabilities_of_zero(tile):
    for seed in range(50):
        image, label, done = augment(*tile, NEVER, GAMMA_RANGE, np.random.default_rng(seed))
        assert done == ""
        np.testing.assert_array_equal(image, tile[0])
        np.testing.assert_array_equal(label, tile[1])


def test_label_follows_image_through_any_mixture_of_turns_and_flips(tile):
    probabilities = {**NEVER, **dict.fromkeys(TURNS, 0.25), "flip_horizontal": 0.5,
                     "flip_vertical": 0.5}
    seen = set()
    for seed in range(200):
        image, label, done = augment(*tile, probabilities, GAMMA_RANGE,
                                     np.random.default_rng(seed))
        np.testing.assert_array_equal(image[..., 0], label)
        seen.add(done)
    assert len(seen) == 16


def test_each_augmentation_comes_with_its_own_probability():
    image, label = np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8)
    count = dict.fromkeys(AUGMENTATIONS, 0)
    draws = 2000
    for seed in range(draws):
        done = augment(image, label, AUGMENTATIONS, GAMMA_RANGE, np.random.default_rng(seed))[2]
        for name in done.split():
            count[name.split("=")[0]] += 1
        assert sum(name in TURNS for name in done.split()) <= 1
    for name, probability in AUGMENTATIONS.items():
        # Four standard deviations of a binomial share.
        assert abs(count[name] / draws - probability) < 4 * (0.25 / draws) ** 0.5, name


def test_gamma_is_drawn_log_uniformly_from_its_range(tile):
    drawn = []
    for seed in range(400):
        _, _, done = one("gamma", *tile, seed=seed, gamma_range=(0.5, 2.0))
        drawn.append(float(done.removeprefix("gamma=")))
    assert 0.5 <= min(drawn) < 0.53 and 1.9 < max(drawn) <= 2.0
    # Log-uniform: as many brighten as darken. (Uniform would give a third below 1.)
    assert abs(np.mean(np.array(drawn) < 1) - 0.5) < 0.1


def test_change_gamma_follows_the_power_law():
    values = np.arange(256, dtype=np.uint8).reshape(1, 256)
    np.testing.assert_array_equal(change_gamma(values, 1.0), values)
    assert change_gamma(values, 2.0)[0, 128] == round(255 * (128 / 255) ** 2)
    assert (change_gamma(values, 0.5)[0, 1:254] > values[0, 1:254]).all()
    assert change_gamma(values, 0.5)[0, [0, 255]].tolist() == [0, 255]


def test_point_noise_turns_one_pixel_in_256_white_or_black():
    image = np.full((256, 256, 3), 100, np.uint8)
    noisy = add_point_noise(image, np.random.default_rng(0))
    changed = (noisy != 100).any(axis=2)
    assert 240 <= changed.sum() <= 256                 # a few points may coincide
    points = noisy[changed]
    assert (points == points[:, :1]).all()
    assert 90 < (points[:, 0] == 255).sum() < 165 and set(points[:, 0]) == {0, 255}
    assert (image == 100).all()


def test_same_seed_same_tile(tile):
    first = augment(*tile, AUGMENTATIONS, GAMMA_RANGE, np.random.default_rng([1, 2]))
    again = augment(*tile, AUGMENTATIONS, GAMMA_RANGE, np.random.default_rng([1, 2]))
    np.testing.assert_array_equal(first[0], again[0])
    assert first[2] == again[2]
