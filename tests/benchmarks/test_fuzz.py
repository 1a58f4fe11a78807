"""benchmarks/fuzz.py: a few hundred of its cases, and that it notices what it is there for."""

import contextlib

import numpy as np
import pytest

from benchmarks import fuzz


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_cases_end_with_the_right_result_or_one_line(first, tmp_path):
    outcomes = []
    for seed in range(first, first + 25):
        (tmp_path / str(seed)).mkdir()
        outcomes.append((seed, *fuzz.run_case(seed, str(tmp_path / str(seed)))))
    assert [case for case in outcomes if case[2] == fuzz.FAULT] == []
    assert {case[2] for case in outcomes} == {fuzz.OK, fuzz.REFUSED}


def predict_cases(tmp_path, count=12):
    """What becomes of some cases of predict.py, each in a folder of its own."""
    for seed in range(count):
        (tmp_path / str(seed)).mkdir()
        with contextlib.suppress(fuzz.Fault):
            yield fuzz.predict_case(np.random.default_rng(seed), str(tmp_path / str(seed)))
            continue
        yield fuzz.FAULT


def test_a_map_that_depends_on_how_the_scene_is_stored_is_a_fault(tmp_path, monkeypatch):
    def by_storage(path, *_):
        return contextlib.nullcontext([lambda windows: np.random.default_rng().random(
            (*windows.shape[:3], 3)).astype(np.float32)])

    monkeypatch.setattr(fuzz, "stand_in", by_storage)
    assert fuzz.FAULT in predict_cases(tmp_path)


def test_what_is_left_behind_and_errors_without_a_name_are_faults(tmp_path, monkeypatch):
    def failing(arguments):
        raise ValueError("something went wrong")

    monkeypatch.setattr(fuzz, "run_predict", failing)
    assert set(predict_cases(tmp_path, 3)) == {fuzz.FAULT}
