"""utils/training/class_weights.py: the papers' formulas, and the file that preprocess.py writes."""

import numpy as np
import pytest

import preprocess
from utils.training.class_weights import (CLASS_WEIGHTS, FREQUENCIES, check_classes, read_class_weights,
                                 weights_of)
from utils.classes import ClassTable

PIXELS = np.array([700, 200, 0, 90, 10])


def table(count):
    return ClassTable.from_settings([{"name": f"class {number}", "colour": f"#0000{number:02x}"}
                                     for number in range(count)])


def write(folder, pixels):
    """What preprocess.py writes for these training pixels and 55 ignored ones."""
    counts = np.zeros(256, np.int64)
    counts[:len(pixels)], counts[255] = pixels, 55
    preprocess.class_frequencies(table(len(pixels)), counts, counts // 10).to_csv(
        folder / FREQUENCIES, index=False, float_format="%.6f")
    return str(folder)


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


@pytest.mark.parametrize("kind", ["median_frequency", "inverse_log"])
def test_they_are_read_from_what_preprocess_wrote(tmp_path, kind):
    np.testing.assert_array_equal(read_class_weights(kind, write(tmp_path, PIXELS), 5),
                                  weights_of(kind, PIXELS))


def test_without_weights_no_file_is_needed():
    assert read_class_weights("none", "/nowhere", 5) is None
    assert CLASS_WEIGHTS[0] == "none"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(OSError, match=f"{FREQUENCIES}: could not be read.*preprocess.py"):
        read_class_weights("inverse_log", str(tmp_path), 5)


@pytest.mark.parametrize("text, message", [
    ("", "not the class frequencies"), ("a,b\n1,2\n", "not the class frequencies"),
    ("id,train_pixels\n0,x\n255,0\n", "not the class frequencies"),
    ("id,train_pixels\n0,\n1,3\n255,0\n", "not numbers of pixels"),
    ("id,train_pixels\n0,5\n1,3\n", "not the class frequencies"),
    ("id,train_pixels\n0,5\n255,3\n", "not the 2 of --classes"),
    ("id,train_pixels\n0,0\n1,0\n255,3\n", "all are 0"),
    ("id,train_pixels\n0,-1\n1,5\n255,3\n", "not numbers of pixels")])
def test_a_file_that_does_not_fit_is_named(tmp_path, text, message):
    (tmp_path / FREQUENCIES).write_text(text)
    with pytest.raises(ValueError, match=f"{FREQUENCIES}: .*{message}"):
        read_class_weights("inverse_log", str(tmp_path), 2)


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="effective_number"):
        weights_of("effective_number", PIXELS)


def test_tiles_of_other_classes_are_refused_by_name_and_more_classes_are_not(tmp_path):
    check_classes(str(tmp_path), table(5))  # nothing is known of these tiles
    folder = write(tmp_path, PIXELS)
    for count in (4, 5, 6):
        check_classes(folder, table(count))
    other = ClassTable(("class 0", "ice", *table(5).names[2:]), table(5).colours)
    with pytest.raises(ValueError, match=f"{FREQUENCIES}: .*1 is class 1, not ice"):
        check_classes(folder, other)
