"""predict.py with a model whose answer is known: its fixtures, and scenes to map."""

import contextlib
import os

import numpy as np
import pytest
import rasterio

import predict
from conftest import write_settings
from utils.classes import ClassTable

TABLE = ClassTable(("red", "green", "blue"),
                   np.array([[200, 0, 0], [0, 160, 0], [0, 0, 190]], np.uint8))
WINDOW = 64


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """A folder of runs with one run, 'stand-in', that has settings and an empty checkpoint."""
    folder = tmp_path_factory.mktemp("logs")
    write_run(folder / "stand-in", {
        "model": {"num_classes": 3}, "classes": TABLE.to_settings(), "tile_size": WINDOW})
    return folder


def write_run(folder, settings):
    """A run with these settings and an empty checkpoint of step 7."""
    write_settings(str(folder), settings)
    (folder / "best").mkdir()
    (folder / "best" / "checkpoint").write_text('model_checkpoint_path: "step-7"')
    (folder / "best" / "step-7.index").touch()


def brightest(windows):
    """The stand-in: a pixel's class is its brightest channel, its probabilities their shares."""
    values = windows.astype(np.float32) + 1
    return values / values.sum(-1, keepdims=True)


@pytest.fixture
def call(logs, tmp_path):
    """Runs predict.main with a stand-in; returns (exit status, folder of the results)."""
    models, out = [], tmp_path / "out"

    def run(*arguments, predictor=brightest):
        def open_predictors(checkpoint, config, precision, all_options):
            models.append(checkpoint)
            return contextlib.nullcontext([predictor for _ in all_options])
        return predict.main(["--logs", str(logs), "--run", "stand-in", "--out", str(out),
                             *map(str, arguments)], open_predictors), out
    run.models = models
    return run


def samples_of(height, width, bands=3, seed=0, dtype=np.uint8, high=256):
    return np.random.default_rng(seed).integers(1, high, (bands, height, width)).astype(dtype)


def write_geotiff(path, samples, **settings):
    bands, height, width = samples.shape
    os.makedirs(path.parent, exist_ok=True)
    with rasterio.open(path, "w", driver="GTiff", count=bands, height=height, width=width,
                       dtype=samples.dtype, **settings) as dataset:
        dataset.write(samples)
    return str(path)
