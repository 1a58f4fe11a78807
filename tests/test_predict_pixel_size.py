"""predict.py and preprocess.py at another pixel size. The model is a stand-in, whose answer is
known."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.transform import Affine

from predict_stand_in import (  # noqa: F401  (fixtures)
    TABLE, WINDOW, brightest, call, logs, samples_of, write_geotiff, write_run)
from preprocess_runs import read_list, run_preprocess
from utils.data.pixel_size import Resample
from utils.data.scenes import read_image, read_label, write_png
from utils.data.tiles import read_bands

PLACE = {"crs": "EPSG:32640", "transform": Affine(.5, 0, 325000, 0, -.5, 2785000)}


def blocks(height, width, side=12):
    """Samples [3, height, width] of blocks of pure colours with noise."""
    random = np.random.default_rng(0)
    classes = random.integers(0, 3, (-(-height // side), -(-width // side)))
    classes = np.kron(classes, np.ones((side, side), int))[:height, :width]
    samples = (np.arange(3)[:, None, None] == classes) * 180
    return (samples + random.integers(1, 60, samples.shape)).astype(np.uint8)


def expected_map(seen, height, width):
    """The stand-in's map of `seen` [rows, columns, 3], enlarged by OpenCV."""
    shares = brightest(seen)
    return cv2.resize(shares, (width, height), interpolation=cv2.INTER_LINEAR).argmax(-1)


@pytest.mark.parametrize("flags", [("--resample", .5), ("--gsd", 1)])
def test_the_map_of_a_geotiff_is_on_its_own_grid(call, tmp_path, capsys, flags):
    samples = blocks(201, 333)
    samples[:, 40:80, 100:] = 0
    path = write_geotiff(tmp_path / "in" / "a.tif", samples, nodata=0, **PLACE)
    label = tmp_path / "in" / "a_truth.png"
    write_png(str(label), samples.argmax(0).astype(np.uint8))
    status, out = call("--image", path, "--label", label, "--probabilities", *flags)
    assert status == 0
    assert "a: 201 x 333 pixels, seen at 100 x 166" in capsys.readouterr().out
    with rasterio.open(path) as scene:
        seen = np.moveaxis(scene.read(out_shape=(3, 100, 166), resampling=Resampling.average),
                           0, -1)
        empty = scene.dataset_mask() == 0
    expected = expected_map(seen, 201, 333).astype(np.uint8)
    expected[empty] = 255
    with rasterio.open(out / "a_class.tif") as result:
        assert (result.crs, result.transform) == (rasterio.CRS.from_epsg(32640),
                                                  PLACE["transform"])
        assert result.nodata == 255 and result.tags()["resample"] == " ".join(map(str, flags))
        found = result.read(1)
        assert (found != expected).mean() < 1e-3  # where two classes are as likely
        assert (found == 255).sum() == empty.sum()
    with rasterio.open(out / "a_probabilities.tif") as result:
        assert result.shape == (201, 333) and result.transform == PLACE["transform"]
    # Scores are those of the written map against the label on the scene's own grid.
    score = pd.read_csv(out / "a_scores.csv", index_col="class").loc["all"]
    truth = read_label(str(label), TABLE)
    assert score["label_pixels"] == (~empty).sum()
    assert score["accuracy"] == pytest.approx((found == truth)[~empty].mean(), abs=1e-6)


def test_a_png_is_mapped_at_half_and_double_the_resolution(call, tmp_path):
    image = np.moveaxis(blocks(150, 90), 0, -1)
    write_png(str(tmp_path / "in" / "a.png"), image)
    for factor, size in ((.5, (45, 75)), (2, (180, 300))):
        _, out = call("--image", tmp_path / "in" / "a.png", "--resample", factor, "--overwrite")
        seen = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else
                          cv2.INTER_LINEAR)
        found = read_label(str(out / "a_class.png"), TABLE)
        assert found.shape == (150, 90)
        assert (found != expected_map(seen, 150, 90)).mean() < 1e-3


def test_methods_are_compared_at_that_pixel_size(call, tmp_path):
    image = np.moveaxis(blocks(150, 90), 0, -1)
    write_png(str(tmp_path / "in" / "a.png"), image)
    seen = cv2.resize(image, (45, 75), interpolation=cv2.INTER_AREA)
    write_png(str(tmp_path / "in" / "t.png"), expected_map(seen, 150, 90).astype(np.uint8))
    _, out = call("--image", tmp_path / "in" / "a.png", "--label", tmp_path / "in" / "t.png",
                  "--resample", .5, "--compare")
    assert (pd.read_csv(out / "a_compare.csv")["accuracy"] > .999).all()


@pytest.fixture
def run(logs, tmp_path):  # noqa: F811
    """A function that makes a run with further settings and returns the flag that names it."""
    def make(name, **more):
        write_run(logs / name, {"model": {"num_classes": 3}, "classes": TABLE.to_settings(),
                                "tile_size": WINDOW} | more)
        return "--run", name
    return make


def test_what_a_run_was_trained_at_is_done_and_told_and_changed_by_flags(
        call, run, tmp_path, capsys):
    path = write_geotiff(tmp_path / "in" / "a.tif", samples_of(80, 120), **PLACE)
    flags = (*run("half", resample={"factor": .5}, gsd=1), "--image", path, "--overwrite")
    call(*flags)
    told = capsys.readouterr()
    assert "seen at --resample 0.5, as the run was trained; --gsd or --resample" in told.out
    assert "80 x 120 pixels, seen at 40 x 60" in told.out and told.err == ""
    call(*flags, "--resample", 1)
    told = capsys.readouterr()
    assert "seen at" not in told.out and told.err.count("\n") == 1
    assert told.err.startswith(f"warning: {path}: seen at 0.5 m a pixel, but ")
    assert told.err.endswith("was trained at 1; map it with --gsd 1\n")
    call(*flags, "--gsd", 1)
    assert capsys.readouterr().err == ""


def test_only_pixel_sizes_a_quarter_apart_are_told_and_only_where_both_are_known(
        call, run, tmp_path, capsys):
    path = write_geotiff(tmp_path / "in" / "a.tif", samples_of(80, 120), **PLACE)
    nowhere = write_geotiff(tmp_path / "in" / "b.tif", samples_of(80, 120))
    for name, gsd, image, warns in (("near", .6, path, False), ("far", .7, path, True),
                                    ("nowhere", .7, nowhere, False), ("old", None, path, False)):
        more = {"gsd": gsd} if gsd else {}
        _, out = call(*run(name, **more), "--image", image, "--overwrite")
        told = capsys.readouterr()
        assert ("--gsd 0.7" in told.err) == warns and (told.err == "") != warns
        # A warning changes nothing.
        assert "seen at" not in told.out


def test_a_gsd_for_a_scene_that_lies_nowhere_is_refused(call, tmp_path):
    write_png(str(tmp_path / "in" / "a.png"), np.zeros((80, 80, 3), np.uint8))
    with pytest.raises(ValueError, match="a.png: it is not georeferenced, so --gsd 2 cannot"):
        call("--image", tmp_path / "in" / "a.png", "--gsd", 2)
    assert not list((tmp_path / "out").iterdir())


def test_both_flags_at_once_and_factors_that_are_none_are_refused(call, capsys):
    for flags in (("--gsd", 1, "--resample", .5), ("--gsd", 0), ("--resample", "half")):
        with pytest.raises(SystemExit):
            call(*flags)
        assert "--resample" in capsys.readouterr().err


def test_preprocess_brings_scenes_to_one_pixel_size_and_notes_it(tmp_path, draw_scene):
    """Scene 1 has half-metre pixels, scene 2 the same ground in quarter metres."""
    for name, scale in (("1", 1), ("2", 2)):
        image, label = draw_scene(150 * scale, 170 * scale, seed=3)
        place = PLACE | {"transform": PLACE["transform"] * Affine.scale(1 / scale)}
        write_geotiff(tmp_path / "origin" / f"{name}.tif", np.moveaxis(image, -1, 0), **place)
        write_png(str(tmp_path / "origin" / f"{name}_class.png"), label)
    flags = ("--tiles", 4, "--tile_size", 32, "--no_augment", "--scenes", 1, 2,
             "--test_scene", "5", "--validation_fraction", 0)
    (tmp_path / "origin" / "5.png").write_bytes(b"")
    result = run_preprocess(tmp_path, *flags)
    assert result.returncode == 0, result.stderr
    assert "warning: scenes 1, 2: 0.5 m a pixel, the median is 0.375; --gsd 0.375" in result.stdout
    assert read_bands(str(tmp_path)) == {"gsd": pytest.approx(.375, rel=1e-3)}
    result = run_preprocess(tmp_path, *flags, "--gsd", 1)
    assert result.returncode == 0 and "a pixel" not in result.stdout
    noted = read_bands(str(tmp_path))
    assert noted == {"gsd": pytest.approx(1, rel=1e-3), "resample": Resample(gsd=1.0)}
    assert json.loads((tmp_path / "bands.json").read_text())["resample"] == {"gsd": 1}
    for tile in read_list(tmp_path).itertuples():
        with rasterio.open(tmp_path / "origin" / f"{tile.scene}.tif") as scene:
            seen = np.moveaxis(scene.read(out_shape=(3, 75, 85), resampling=Resampling.average),
                               0, -1)
        window = np.s_[tile.row:tile.row + 32, tile.column:tile.column + 32]
        np.testing.assert_array_equal(read_image(str(tmp_path / tile.image)), seen[window])


def test_resample_is_plain_data():
    assert [str(Resample(gsd=.5)), str(Resample(factor=2.0))] == ["--gsd 0.5", "--resample 2"]
    assert Resample(**Resample(factor=.5).to_json()) == Resample(factor=.5)
