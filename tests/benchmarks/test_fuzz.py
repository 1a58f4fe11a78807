"""benchmarks/fuzz.py: a few hundred of its cases, and that it notices what it is there for."""

import contextlib

import numpy as np
import pytest

from benchmarks import fuzz, fuzz_cases
from benchmarks.fuzz_property import OK, REFUSED, Fault
from utils.inference import map_writer
from utils.inference.polygonize import write_polygons


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_cases_end_with_the_right_result_or_one_line(first, tmp_path):
    outcomes, kinds = [], ["predict", "preprocess", "metrics"]
    for seed in range(first, first + 50):
        (tmp_path / str(seed)).mkdir()
        outcomes.append((seed, *fuzz.run_case(seed, kinds, str(tmp_path / str(seed)))))
    assert [case for case in outcomes if case[2] == fuzz.FAULT] == []
    assert {case[2] for case in outcomes} == {OK, REFUSED}


def predict_cases(tmp_path, count=12):
    """What becomes of some cases of predict.py, each in a folder of its own."""
    for seed in range(count):
        (tmp_path / str(seed)).mkdir()
        with contextlib.suppress(Fault):
            yield fuzz_cases.predict_case(np.random.default_rng(seed), str(tmp_path / str(seed)))
            continue
        yield fuzz.FAULT


def test_a_map_that_depends_on_how_the_scene_is_stored_is_a_fault(tmp_path, monkeypatch):
    def by_storage(path, *_):
        return contextlib.nullcontext([lambda windows: np.random.default_rng().random(
            (*windows.shape[:3], 3)).astype(np.float32)])

    monkeypatch.setattr(fuzz_cases, "stand_in", by_storage)
    assert fuzz.FAULT in predict_cases(tmp_path)


def test_what_is_left_behind_and_errors_without_a_name_are_faults(tmp_path, monkeypatch):
    def failing(arguments):
        raise ValueError("something went wrong")

    monkeypatch.setattr(fuzz_cases, "run_predict", failing)
    assert set(predict_cases(tmp_path, 3)) == {fuzz.FAULT}


def test_polygons_that_are_not_the_map_are_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(map_writer, "write_polygons", lambda path, classes, *others:
                        write_polygons(path, np.zeros_like(classes), *others))
    monkeypatch.setattr(fuzz_cases, "draw_flags", lambda *_: ["--polygons", "gpkg"])
    assert fuzz.FAULT in predict_cases(tmp_path)


@pytest.mark.parametrize("name", ["scene_class.tif", "scene_area.csv", "scene_polygons.gpkg"])
def test_a_file_that_is_not_whole_is_a_fault(tmp_path, name):
    (tmp_path / name).write_bytes(b"II*\0" if name.endswith("tif") else b"")
    with pytest.raises(Fault, match=f"{name} is not whole"):
        fuzz_cases.check_whole(str(tmp_path), [name])
