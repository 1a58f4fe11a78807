"""The pictures, by the pixels that carry their meaning."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from utils.classes import ClassTable, colour_map, read_classes
from utils.inference import visualise
from utils.inference.visualise import CELL, confusion_picture, legend, overlay, rgb_of, side_by_side
from utils.data.scenes import read_image, write_png

TABLE = ClassTable(("ground", "a very long name for a class", "wässer"),
                   np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8))


def test_overlay_mixes_colours_and_leaves_ignored_pixels():
    image = np.full((2, 2, 3), 100, np.uint8)
    labels = np.array([[0, 1], [2, 255]], np.uint8)
    np.testing.assert_array_equal(
        overlay(image, labels, TABLE, opacity=.4),
        [[[162, 60, 60], [60, 162, 60]], [[60, 60, 162], [100, 100, 100]]])


def test_pictures_show_the_first_three_bands_or_grey():
    image = np.arange(2 * 2 * 5, dtype=np.uint8).reshape(2, 2, 5)
    for bands in (3, 4, 5):
        np.testing.assert_array_equal(rgb_of(image[..., :bands]), image[..., :3])
    for bands in (1, 2):
        np.testing.assert_array_equal(rgb_of(image[..., :bands]),
                                      np.stack([image[..., 0]] * 3, axis=-1))


def test_side_by_side_keeps_the_order():
    left, right = np.zeros((5, 3, 3), np.uint8), np.full((5, 4, 3), 7, np.uint8)
    row = side_by_side([left, right], gap=2)
    assert row.shape == (5, 9, 3)
    assert (row[:, :3] == 0).all() and (row[:, 3:5] == 255).all() and (row[:, 5:] == 7).all()


def test_confusion_picture_shades_each_row_by_its_shares():
    picture = confusion_picture(np.array([[90, 10, 0], [30, 70, 0], [0, 0, 0]]), TABLE)
    assert picture.dtype == np.uint8
    height, width = picture.shape[:2]
    # The cells are the last 3 x 3, before a margin; their upper corners hold no text.
    corners = picture[height - 16 - 3 * CELL + 4::CELL, width - 16 - 3 * CELL + 4::CELL][:3, :3]
    red = corners[..., 0].astype(int)
    assert red[0, 0] < red[1, 1] < red[1, 0] < red[0, 1] < red[0, 2] == 255
    # A class that the label lacks has no shares: nothing is shaded.
    assert (red[2] == 255).all()


def test_legend_shows_the_classes_and_what_is_ignored_where_it_is():
    def colours(labels):
        return {tuple(colour) for colour in legend(np.array(labels), TABLE, 600).reshape(-1, 3)}
    classes = set(map(tuple, TABLE.colours))
    assert colours([0]) > classes and (255, 0, 255) not in colours([0])
    assert colours([0, 255]) > classes | {(255, 0, 255)}


def drawn(*names):
    """Legend and confusion matrix of classes with these names."""
    table = ClassTable(names, TABLE.colours[:len(names)])
    return [legend(np.array([0]), table, 300), confusion_picture(np.eye(len(names)), table)]


def test_names_in_chinese_are_readable_where_a_font_has_them():
    if not shutil.which("fc-list"):
        pytest.skip("no fontconfig to ask for a Chinese font")
    if not subprocess.run(["fc-list", ":lang=zh"], capture_output=True, check=True).stdout:
        pytest.skip("no Chinese font is installed (Debian: fonts-wqy-zenhei)")
    # Boxes or '?' for characters that are not known would be the same for names of one length.
    pictures = [drawn(name, "road") for name in ("水体", "道路", "0", "??")]
    for first in range(4):
        for second in range(first):
            for one, other in zip(pictures[first], pictures[second]):
                assert one.shape != other.shape or (one != other).any()


def test_names_become_ids_where_no_font_has_them(tmp_path, monkeypatch):
    (tmp_path / "damaged.ttf").write_bytes(b"not a font")
    monkeypatch.setattr(visualise, "FONT_FOLDERS", (str(tmp_path),))
    for shown, expected in zip(drawn("水体", "road", "道 road"), drawn("0", "road", "2")):
        np.testing.assert_array_equal(shown, expected)
    # Titles are whole, however narrow the names: the margin is white.
    assert (drawn("水", "道")[1][:, :8] == 255).all()


def test_strip_shows_scene_label_and_map_in_this_order(tmp_path, draw_scene, repository):
    image, label = draw_scene(60, 90)
    prediction = np.full_like(label, 4)
    paths = {name: str(tmp_path / f"{name}.png") for name in ("image", "label", "prediction")}
    for path, pixels in zip(paths.values(), (image, label, prediction)):
        write_png(path, pixels)
    out = tmp_path / "strip.png"
    command = [sys.executable, "-m", "utils.inference.visualise",
               "--height", "60", "--out", str(out)]
    for name, path in paths.items():
        command += [f"--{name}", path]
    subprocess.run(command, cwd=repository, check=True)
    table = read_classes(str(repository / "dataset" / "classes.csv"))
    row = read_image(str(out))
    np.testing.assert_array_equal(row[:60, :90], image)
    np.testing.assert_array_equal(row[:60, 94:184], colour_map(label, table))
    np.testing.assert_array_equal(row[:60, 188:278], colour_map(prediction, table))

    write_png(paths["prediction"], prediction[:-1])
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert result.returncode == 2
    assert paths["prediction"] in result.stderr and result.stderr.count("\n") == 1
