"""predict.py where an earlier call has been: what is mapped again, and what stands side by side."""

import os
import re

import numpy as np
import pandas as pd
import pytest
import rasterio

from predict_stand_in import brightest, call, logs, samples_of, write_geotiff  # noqa: F401
from utils.data.scenes import write_png


def test_a_rerun_maps_only_what_is_not_complete(call, tmp_path, capsys):
    paths = [write_geotiff(tmp_path / "in" / f"{name}.tif", samples_of(64, 64, seed=i))
             for i, name in enumerate("ab")]
    _, out = call("--image", paths[0])
    before = os.stat(out / "a_class.tif").st_mtime_ns
    call("--image", *paths)
    assert os.stat(out / "a_class.tif").st_mtime_ns == before
    assert "--overwrite maps it again" in capsys.readouterr().out
    assert (out / "b_class.tif").exists() and len(call.models) == 2
    assert call("--image", *paths)[0] == 0 and len(call.models) == 2
    # What was not asked for before is not complete.
    call("--image", *paths, "--probabilities")
    assert (out / "a_probabilities.tif").exists() and len(call.models) == 3
    call("--image", paths[0], "--overwrite")
    assert len(call.models) == 4 and os.stat(out / "a_class.tif").st_mtime_ns > before


@pytest.mark.parametrize("ending", ["tif", "png"])
def test_nothing_of_an_old_map_stands_beside_a_new_one(call, tmp_path, ending):
    samples = samples_of(64, 64)
    path = write_geotiff(tmp_path / "in" / "a.tif", samples)
    if ending == "png":
        path = str(tmp_path / "in" / "a.png")
        write_png(path, np.moveaxis(samples, 0, -1))
    label = str(tmp_path / "labels" / "a.png")
    write_png(label, samples.argmax(0).astype(np.uint8))
    call("--image", path, "--label", label, "--probabilities", "--polygons", "gpkg")
    _, out = call("--image", path, "--overwrite", predictor=lambda windows: brightest(
        windows[..., ::-1]))
    assert {name for name in os.listdir(out) if not name.endswith(".aux.xml")} == {
        f"a_class.{ending}", "a_colour.png", "a_overlay.png", "a_area.csv"}
    # So the old map's scores are not those of the new one: with a label it is made again.
    call("--image", path, "--label", label)
    scores = pd.read_csv(out / "a_scores.csv", index_col=0)
    assert len(call.models) == 3 and scores["IoU"].iloc[:3].tolist() == [1, 1, 1]


@pytest.mark.parametrize("ending", ["tif", "png"])
def test_the_map_of_another_scene_of_that_name_is_not_taken_for_its(call, tmp_path, ending):
    def scene(folder, seed):
        samples = samples_of(64, 64, seed=seed)
        path = write_geotiff(tmp_path / folder / "ortho.tif", samples)
        if ending == "png":
            path = str(tmp_path / folder / "ortho.png")
            write_png(path, np.moveaxis(samples, 0, -1))
        return path

    one, other = scene("site 1", 1), scene("site 2", 2)
    _, out = call("--image", one)
    before = (out / f"ortho_class.{ending}").read_bytes()
    message = re.escape(f"ortho_class.{ending}: the map of {one}, not of {other}; choose another")
    for flags in ((), ("--probabilities",)):  # complete or not
        with pytest.raises(ValueError, match=message):
            call("--image", other, *flags)
    assert (out / f"ortho_class.{ending}").read_bytes() == before
    # By another path it is the same scene, and so it is after both have moved.
    (tmp_path / "link").symlink_to(tmp_path / "site 1")
    assert call("--image", tmp_path / "link" / os.path.basename(one))[0] == 0
    (tmp_path / "site 1").rename(tmp_path / "moved")
    assert call("--image", tmp_path / "moved" / os.path.basename(one))[0] == 0
    assert len(call.models) == 1
    assert call("--image", other, "--overwrite")[0] == 0 and len(call.models) == 2
    with rasterio.open(out / f"ortho_class.{ending}") as result:
        assert result.tags()["image"] == f"../site 2/ortho.{ending}"
        assert result.tags()["run"] == "stand-in"


def test_the_area_of_interest_is_not_replaced(call, tmp_path):
    path = write_geotiff(tmp_path / "in" / "a.tif", samples_of(64, 64))
    _, out = call("--image", path, "--polygons", "gpkg")
    before = (out / "a_polygons.gpkg").read_bytes()
    for flags in (("--polygons", "gpkg"), ()):
        with pytest.raises(ValueError, match="a_polygons.gpkg: it would be replaced by what is"):
            call("--image", path, "--aoi", out / "a_polygons.gpkg", "--overwrite", *flags)
    assert (out / "a_polygons.gpkg").read_bytes() == before


def test_parts_are_every_nth_scene_and_make_up_the_whole(call, tmp_path):
    for i in range(7):
        write_geotiff(tmp_path / "in" / f"{i}.tif", samples_of(64, 64, seed=i))
    done = set()
    for part, expected in ((3, {2, 5}), (1, {0, 3, 6}), (2, {1, 4})):
        _, out = call("--image", f"{tmp_path}/in/*.tif", "--part", f"{part}/3")
        now = {int(name[0]) for name in os.listdir(out) if name.endswith("_class.tif")}
        assert now - done == expected
        done |= now
    assert call("--image", f"{tmp_path}/in/*.tif", "--part", "8/8")[0] == 0
    for wrong in ("0/3", "4/3", "3", "a/b"):
        with pytest.raises(SystemExit):
            call("--image", f"{tmp_path}/in/*.tif", "--part", wrong)
