"""predict.py --export_onnx: metadata as Deepness reads it, and probabilities in ONNX Runtime.

tf2onnx, onnx and onnxruntime are no requirements. Where they are installed elsewhere, such as in
/root/onnxvenv, ONNX_PACKAGES names that site-packages folder; without them one test is skipped.
"""

import importlib.util
import json
import os
import sys

import numpy as np
import pytest

from test_predict import MODEL, NAMES, WINDOW, _probabilities, call, logs  # noqa: F401  (fixtures)
from conftest import draw_scene, read_settings, write_settings


def test_without_the_packages_it_is_one_line(call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ValueError, match="--export_onnx .*m.onnx: needs .*pip install tf2onnx"):
        call("--export_onnx", tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == []


def test_onnx_runtime_gives_the_same_probabilities(call, logs, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, os.environ.get("ONNX_PACKAGES", "")])
    for package in ("tf2onnx", "onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    import onnx
    import onnxruntime
    settings = read_settings(str(logs / "tiny"))
    write_settings(str(logs / "tiny"), settings | {"gsd": .3})
    path = str(tmp_path / "m.onnx")
    call("--export_onnx", path, "--overlap", .25)
    write_settings(str(logs / "tiny"), settings)
    onnx.checker.check_model(onnx.load(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [taken], [given] = session.get_inputs(), session.get_outputs()
    assert (taken.shape, taken.type) == ([1, 3, WINDOW, WINDOW], "tensor(float)")
    assert (given.shape, given.type) == ([1, len(NAMES), WINDOW, WINDOW], "tensor(float)")
    images = np.stack([draw_scene(WINDOW, WINDOW, len(NAMES), seed=i)[0] for i in range(2)])
    expected = _probabilities(logs, images)
    for image, probabilities in zip(images, expected):
        # As in Deepness: 0 to 1, channels first.
        [answer] = session.run(None, {taken.name: np.moveaxis(image, -1, 0)[None] / np.float32(255)})
        np.testing.assert_allclose(np.moveaxis(answer[0], 0, -1), probabilities, atol=1e-3)
    # As Deepness's ModelBase parses it.
    metadata = {key: json.loads(value)
                for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert metadata["model_type"] == "Segmentor"
    assert metadata["class_names"] == {str(number): name for number, name in enumerate(NAMES)}
    assert metadata["tile_size"] == metadata["tiles_size"] == WINDOW
    assert metadata["tiles_overlap"] == 25
    # The pixel size is known once the run's settings name it.
    assert metadata.get("resolution") == (
        pytest.approx(30) if metadata["facts"]["pixel_size"] else None)
    assert MODEL["num_classes"] == len(metadata["class_names"])
