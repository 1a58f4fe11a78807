"""utils/training/class_weights.py: the papers' formulas."""

import types

import numpy as np
import pytest

from utils.training.class_weights import CLASS_WEIGHTS, class_weights, weights_of

PIXELS = np.array([700, 200, 0, 90, 10])


def test_median_frequency_is_segnets_up_to_a_factor():
    frequency = PIXELS[PIXELS > 0] / PIXELS.sum()
    weights = weights_of("median_frequency", PIXELS)[PIXELS > 0]
    np.testing.assert_allclose(weights / weights[0],
                               np.median(frequency) / frequency / (
                                   np.median(frequency) / frequency[0]), rtol=1e-6)


def test_inverse_log_is_enets_up_to_a_factor():
    weights = weights_of("inverse_log", PIXELS)[PIXELS > 0]
    expected = 1 / np.log(1.02 + PIXELS[PIXELS > 0] / PIXELS.sum())
    np.testing.assert_allclose(weights / weights[0], expected / expected[0], rtol=1e-6)


@pytest.mark.parametrize("kind", ["median_frequency", "inverse_log"])
@pytest.mark.parametrize("pixels", [PIXELS, np.array([0, 1]), np.array([3, 10 ** 12, 10 ** 9])])
def test_weights_are_finite_have_mean_1_over_the_pixels_and_0_where_there_are_none(kind, pixels):
    weights = weights_of(kind, pixels)
    assert np.isfinite(weights).all() and ((weights == 0) == (pixels == 0)).all()
    assert (weights * pixels).sum() / pixels.sum() == pytest.approx(1, rel=1e-5)
    order = np.argsort(pixels[pixels > 0])
    assert (np.diff(weights[pixels > 0][order]) < 0).all()


def test_they_are_of_the_tile_set_s_pixels_and_none_are_asked_for_where_they_need_not_be():
    tile_set = types.SimpleNamespace(class_pixels=PIXELS)
    for kind in CLASS_WEIGHTS[1:]:
        np.testing.assert_array_equal(class_weights(kind, tile_set), weights_of(kind, PIXELS))
    assert class_weights(CLASS_WEIGHTS[0], None) is None and CLASS_WEIGHTS[0] == "none"


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="effective_number"):
        weights_of("effective_number", PIXELS)
