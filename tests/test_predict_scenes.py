"""predict.py on rasters: GeoTIFFs, many scenes, reruns, and inputs that end with one line.

The model is a stand-in whose answer is known, so that every pixel of a map can be checked.
"""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

import predict
from utils.inference import map_writer
from conftest import read_settings, write_settings
from utils.classes import IGNORE_COLOUR, ClassTable, decode_colours
from utils.data.rasters import Image
from utils.data.scenes import read_image, read_label, write_png

TABLE = ClassTable(("red", "green", "blue"),
                   np.array([[200, 0, 0], [0, 160, 0], [0, 0, 190]], np.uint8))
WINDOW = 64


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """A folder of runs with one run, 'stand-in', that has settings and an empty checkpoint."""
    folder = tmp_path_factory.mktemp("logs")
    write_settings(str(folder / "stand-in"), {
        "model": {"num_classes": 3}, "classes": TABLE.to_settings(), "tile_size": WINDOW})
    return folder


def brightest(windows):
    """The stand-in: a pixel's class is its brightest band, its probabilities their shares."""
    values = windows.astype(np.float32) + 1
    return values / values.sum(-1, keepdims=True)


@pytest.fixture
def call(logs, tmp_path, monkeypatch):
    """Runs predict.main with the stand-in; returns (exit status, folder of the results)."""
    models = []

    def open_predictors(checkpoint, config, precision, all_options):
        models.append(checkpoint)
        return contextlib.nullcontext([brightest for _ in all_options])

    monkeypatch.setattr(predict, "open_predictors", open_predictors)
    monkeypatch.setattr(predict.Checkpoints, "find", lambda self: (self.folder, 7))

    def run(*arguments):
        out = tmp_path / "out"
        monkeypatch.setattr(sys, "argv", ["predict.py", "--logs", str(logs), "--run", "stand-in",
                                          "--out", str(out),
                                          *map(str, arguments)])
        return predict.main(), out
    run.models = models
    return run


def _samples(height, width, bands=3, seed=0, dtype=np.uint8, high=256):
    return np.random.default_rng(seed).integers(1, high, (bands, height, width)).astype(dtype)


def _write(path, samples, **settings):
    bands, height, width = samples.shape
    os.makedirs(path.parent, exist_ok=True)
    with rasterio.open(path, "w", driver="GTiff", count=bands, height=height, width=width,
                       dtype=samples.dtype, **settings) as dataset:
        dataset.write(samples)
    return str(path)


def _expected(path, nodata=None, bands=(1, 2, 3)):
    """The stand-in's map, from the scene as utils.data.rasters reads it."""
    with Image(path, bands) as image:
        classes = image.read(0, 0, image.height, image.width).argmax(-1).astype(np.uint8)
    if nodata is not None:
        classes[nodata] = 255
    return classes


def test_geotiff_in_is_geotiff_out(call, tmp_path):
    samples = _samples(300, 700)
    empty = np.zeros((300, 700), bool)
    empty[40:120, 300:] = True
    samples[:, empty] = 0
    place = {"crs": "EPSG:32640", "transform": Affine(.5, .01, 325000, -.02, -.5, 2785000)}
    path = _write(tmp_path / "in" / "a.tif", samples, nodata=0, **place)
    status, out = call("--image", path, "--probabilities")
    assert status == 0
    assert sorted(os.listdir(out)) == ["a_class.tif", "a_colour.png", "a_overlay.png",
                                       "a_probabilities.tif"]
    with rasterio.open(out / "a_class.tif") as result:
        assert (result.crs, result.transform) == (rasterio.CRS.from_epsg(32640), place["transform"])
        assert (result.count, result.dtypes, result.nodata) == (1, ("uint8",), 255)
        assert result.profile["tiled"] and result.block_shapes == [(256, 256)]
        assert result.compression.value == "DEFLATE"
        colours = result.colormap(1)
        assert [colours[i][:3] for i in range(3)] == [tuple(row) for row in TABLE.colours.tolist()]
        assert colours[255][:3] == IGNORE_COLOUR
        assert result.tags()["run"] == "stand-in" and result.tags()["step"] == "7"
        np.testing.assert_array_equal(result.read(1), _expected(path, empty))
    # As a label the map is what it says, by its ids and by its colours.
    np.testing.assert_array_equal(read_label(str(out / "a_class.tif"), TABLE),
                                  _expected(path, empty))
    with rasterio.open(out / "a_probabilities.tif") as result:
        assert (result.crs, result.transform) == (rasterio.CRS.from_epsg(32640), place["transform"])
        assert (result.count, result.nodata, result.descriptions) == (3, 255, TABLE.names)
        assert result.scales == pytest.approx((1 / 254,) * 3)
        values = result.read()
    assert (values[:, empty] == 255).all()
    shares = (samples + np.float32(1)) / (samples + np.float32(1)).sum(0)
    np.testing.assert_allclose(values[:, ~empty], 254 * shares[:, ~empty], atol=.51)


def test_ground_control_points_are_kept(call, tmp_path):
    points = [rasterio.control.GroundControlPoint(row, column, 10 + column, 50 - row)
              for row, column in ((0, 0), (0, 80), (70, 0), (70, 80))]
    path = _write(tmp_path / "in" / "a.tif", _samples(70, 80), gcps=points, crs="EPSG:4326")
    _, out = call("--image", path)
    with rasterio.open(out / "a_class.tif") as result:
        kept, crs = result.gcps
        assert crs == rasterio.CRS.from_epsg(4326)
        assert [(p.row, p.col, p.x, p.y) for p in kept] == [(p.row, p.col, p.x, p.y)
                                                           for p in points]


def test_16_bit_scene_of_many_bands(call, tmp_path, capsys):
    path = _write(tmp_path / "in" / "a.tif", _samples(90, 80, 5, dtype=np.uint16, high=4000))
    _, out = call("--image", path, "--bands", 5, 3, 2)
    np.testing.assert_array_equal(read_label(str(out / "a_class.tif"), TABLE),
                                  _expected(path, bands=(5, 3, 2)))
    with Image(path, (5, 3, 2)) as image:
        limits = f"{image.stretch[0, 0]:g} {image.stretch[0, 1]:g}"
        np.testing.assert_array_equal(
            np.abs(read_image(str(out / "a_overlay.png"))
                   - (image.read(0, 0, 90, 80) * .5 + TABLE.colours[_expected(path, None,
                                                                            (5, 3, 2))] * .5)) < 1,
            True)
    with rasterio.open(out / "a_class.tif") as result:
        assert result.tags()["bands"] == "5 3 2" and result.tags()["stretch"].startswith(limits)
    assert f"uint16 stretched from {limits}" in capsys.readouterr().out


def test_a_run_knows_its_bands_and_stretch(call, logs, tmp_path):
    samples = _samples(70, 80, 4, dtype=np.uint16, high=4000)
    path = _write(tmp_path / "in" / "a.tif", samples)
    stretch = [[0, 1000], [0, 2000], [0, 4000]]
    settings = read_settings(str(logs / "stand-in")) | {"bands": [4, 2, 1], "stretch": stretch}
    write_settings(str(logs / "sixteen"), settings)
    for bands, flags in (((4, 2, 1), ()), ((1, 2, 3), ("--bands", 1, 2, 3))):
        _, out = call("--image", path, "--run", "sixteen", "--overwrite", *flags)
        with Image(path, bands, None if flags else stretch) as image:
            expected = image.read(0, 0, 70, 80).argmax(-1)
        np.testing.assert_array_equal(read_label(str(out / "a_class.tif"), TABLE), expected)


def test_as_many_bands_as_the_run_was_trained_on(call, logs, tmp_path, capsys):
    """Four bands, one of them for the fourth place: the stand-in's classes are the places."""
    settings = read_settings(str(logs / "stand-in"))
    classes = settings["classes"] + [{"id": 3, "name": "other", "colour": "#ffffff"}]
    write_settings(str(logs / "four"), {
        "model": {"num_classes": 4, "bands": 4}, "classes": classes, "tile_size": WINDOW,
        "bands": [3, 1, 2, 5]})
    path = _write(tmp_path / "1.tif", _samples(70, 90, bands=5))
    _, out = call("--run", "four", "--image", path)
    with Image(path, (3, 1, 2, 5)) as image:
        samples = image.read(0, 0, 70, 90)
    with rasterio.open(out / "1_class.tif") as result:
        np.testing.assert_array_equal(result.read(1), samples.argmax(-1))
    overlay = read_image(str(out / "1_overlay.png"))
    colours = np.array([[200, 0, 0], [0, 160, 0], [0, 0, 190], [255, 255, 255]])
    np.testing.assert_allclose(overlay, (colours[samples.argmax(-1)] + samples[..., :3]) / 2,
                               atol=.51)
    for bands in ((1,), (3, 2, 1), (1, 2, 3, 4, 5)):
        with pytest.raises(ValueError, match=rf"--bands 1?.*: {len(bands)} .* was trained on 4"):
            call("--run", "four", "--image", path, "--bands", *bands)
    write_png(str(tmp_path / "2.png"), np.zeros((70, 90, 3), np.uint8))
    with pytest.raises(ValueError, match="2.png: there is no band 5; .* need a GeoTIFF"):
        call("--run", "four", "--image", tmp_path / "2.png")


def test_pictures_of_a_large_scene_show_every_nth_pixel(call, tmp_path, monkeypatch):
    monkeypatch.setattr(map_writer, "PICTURE_PIXELS", 4000)
    path = _write(tmp_path / "in" / "a.tif", _samples(207, 150))
    _, out = call("--image", path)
    colours = decode_colours(read_image(str(out / "a_colour.png")), TABLE, "picture")
    np.testing.assert_array_equal(colours, _expected(path)[::3, ::3])
    assert read_image(str(out / "a_overlay.png")).shape == (69, 50, 3)


def test_nodata_and_ignored_pixels_do_not_count(call, tmp_path, capsys):
    samples = _samples(100, 90)
    samples[:, :10] = 0
    path = _write(tmp_path / "in" / "a.tif", samples, nodata=0)
    label = samples.argmax(0).astype(np.uint8)
    label[:, :20] = 255
    right = label.copy()
    label[50:, 50:] = 0
    write_png(str(tmp_path / "in" / "a_class.png"), label)
    _, out = call("--image", path, "--label", tmp_path / "in" / "a_class.png")
    counted = (label != 255) & (np.arange(100) >= 10)[:, None]
    accuracy = (label == right)[counted].mean()
    assert f"accuracy {accuracy:.4f} ({counted.sum():,} pixels)" in capsys.readouterr().out
    assert {"a_scores.csv", "a_confusion.png"} <= set(os.listdir(out))


def test_many_scenes_one_model_and_one_bad_scene(call, tmp_path, capsys):
    folder = tmp_path / "in"
    for number, name in enumerate("abcd"):
        _write(folder / f"{name}.tif", _samples(70 + number, 90, seed=number))
    _write(folder / "a_class.tif", _samples(70, 90))  # a label, which the pattern leaves out
    (folder / "b.tif").write_bytes((folder / "b.tif").read_bytes()[:9000])
    status, out = call("--image", folder / "d.tif", f"{folder}/*.tif", folder / "a.tif")
    assert status == 2 and len(call.models) == 1
    error = capsys.readouterr().err
    assert error == (f"predict.py: error: {folder}/b.tif: truncated or not an image; fetch or "
                     "export it again\n")
    for name in "acd":
        np.testing.assert_array_equal(read_label(str(out / f"{name}_class.tif"), TABLE),
                                      _expected(str(folder / f"{name}.tif")))
    assert not [name for name in os.listdir(out) if name.startswith(("b_", "."))]


def test_names_of_scenes_are_checked_first(call, tmp_path):
    a = _write(tmp_path / "in" / "a.tif", _samples(64, 64))
    other = _write(tmp_path / "other" / "a.tif", _samples(64, 64))
    with pytest.raises(ValueError, match="other/a.tif: .*in/a.tif is called a too"):
        call("--image", a, other)
    with pytest.raises(FileNotFoundError, match="x.*: no scene matches"):
        call("--image", a, tmp_path / "x*.tif")
    b = _write(tmp_path / "in" / "b.tif", _samples(64, 64))
    with pytest.raises(ValueError, match="--label goes with a single --image; there are 2"):
        call("--image", a, b, "--label", a)
    assert not call.models


def test_a_rerun_maps_only_what_is_not_complete(call, tmp_path, capsys):
    paths = [_write(tmp_path / "in" / f"{name}.tif", _samples(64, 64, seed=i))
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


def test_parts_are_every_nth_scene_and_make_up_the_whole(call, tmp_path):
    for i in range(7):
        _write(tmp_path / "in" / f"{i}.tif", _samples(64, 64, seed=i))
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


def test_a_failure_half_way_leaves_no_map(call, tmp_path, monkeypatch):
    path = _write(tmp_path / "in" / "a.tif", _samples(600, 300))
    done = []

    def failing(windows):
        done.append(len(windows))
        if len(done) > 20:
            raise ValueError("the model broke")
        return brightest(windows)

    monkeypatch.setattr(predict, "open_predictors", lambda *_: contextlib.nullcontext([failing]))
    with pytest.raises(ValueError, match="the model broke"):
        call("--image", path, "--probabilities")
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_half_way_no_map_stands(logs, tmp_path, repository, number):
    path = _write(tmp_path / "in" / "a.tif", _samples(700, 300))
    out = tmp_path / "out"
    script = tmp_path / "slow.py"
    script.write_text(textwrap.dedent("""
        import contextlib, sys, time
        import numpy as np
        import predict
        from utils.cli import run_script

        def slow(windows):
            time.sleep(.05)
            print("window", flush=True)
            return np.full((*windows.shape[:3], 3), 1 / 3, np.float32)

        predict.open_predictors = lambda *_: contextlib.nullcontext([slow])
        predict.Checkpoints.find = lambda *_: ("", 1)
        run_script(predict.main)
    """))
    process = subprocess.Popen(
        [sys.executable, str(script), "--logs", str(logs), "--run", "stand-in", "--image", path,
         "--out", str(out)],
        cwd=repository, env=os.environ | {"PYTHONPATH": str(repository)}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line == "window\n":
            break
    while not os.listdir(out):
        time.sleep(.01)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    left = os.listdir(out)
    assert not [name for name in left if not name.startswith(".partial-")]
    assert number == signal.SIGKILL or left == []


def _mount(folder, options):
    """Mounts a small tmpfs on `folder`, or skips the test where that is not allowed."""
    os.makedirs(folder)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder],
                             capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")


@pytest.mark.parametrize("size", [20, 60, 120, 200, 1000])
def test_a_full_disk_is_one_line_that_names_the_file(call, tmp_path, capfd, size):
    """Whatever file the disk fills up under, the class map's name is not taken."""
    path = _write(tmp_path / "in" / "a.tif", _samples(400, 500))
    _mount(str(tmp_path / "out"), f"size={size}k")
    try:
        with pytest.raises(OSError, match="out/a_.*could not be written .No space left on "
                           "device.; free some space") as error:
            call("--image", path, "--probabilities")
        assert len(str(error.value).splitlines()) == 1
        assert str(error.value).count("could not be written") == 1
        assert not [name for name in os.listdir(tmp_path / "out") if "class.tif" in name]
        assert capfd.readouterr().err == ""
    finally:
        subprocess.run(["umount", str(tmp_path / "out")], check=True)


def test_a_read_only_folder_is_named_before_the_work(call, tmp_path):
    path = _write(tmp_path / "in" / "a.tif", _samples(64, 64))
    _mount(str(tmp_path / "out"), "size=100k,ro")
    try:
        with pytest.raises(OSError, match="out: not writable"):
            call("--image", path)
        assert not call.models
    finally:
        subprocess.run(["umount", str(tmp_path / "out")], check=True)


def test_inputs_are_refused_before_the_model_is_built(call, logs, tmp_path):
    path = _write(tmp_path / "in" / "a.tif", _samples(700, 90))
    with open(path, "rb") as file:
        data = file.read()
    for kept in (0, 20, len(data) // 2, len(data) - 2):
        (tmp_path / "in" / "cut.tif").write_bytes(data[:kept])
        with pytest.raises(ValueError, match="cut.tif: truncated or not an image"):
            call("--image", tmp_path / "in" / "cut.tif")
    one = _write(tmp_path / "in" / "one.tif", _samples(64, 64, 1))
    with pytest.raises(ValueError, match=r"one.tif: 1 band\(s\) of uint8; a scene needs three"):
        call("--image", one)
    label = np.zeros((700, 90), np.uint8)
    write_png(str(tmp_path / "small.png"), label[1:])
    with pytest.raises(ValueError, match="small.png: 699 x 90 pixels.* has 700 x 90"):
        call("--image", path, "--label", tmp_path / "small.png")
    label[-1, -1] = 3
    for name in ("unknown.png", "unknown.tif"):
        write_png(str(tmp_path / "unknown.png"), label)
        _write(tmp_path / "unknown.tif", label[None])
        with pytest.raises(ValueError, match=f"{name}: label value 3 is not in the class table"):
            call("--image", path, "--label", tmp_path / name)
    os.makedirs(logs / "bare" / "best", exist_ok=True)
    with pytest.raises(FileNotFoundError, match="bare: no run there .no settings.json"):
        call("--image", path, "--run", "bare")
    assert not call.models and os.listdir(tmp_path / "out") == []
