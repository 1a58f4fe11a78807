"""Synthetic scenes: exact labels, a fair share of each class, and no solution by colour alone."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from benchmarks.demo_colour_baseline import score_colour_alone
from utils.classes import read_classes
from utils.data.demo_scenes import (BUILDING, MARKER, OTHER, ROAD, SCENES, VEGETATION, WATER, Canvas,
                               draw_building, draw_buildings, write_demo_scenes)
from utils.data.scenes import find_scenes, read_scene, write_png
from utils.data.street_plan import USES, assign_uses, split_blocks

BLOCK = np.float32([(0, 0), (400, 0), (400, 400), (0, 400)])
GREY = (128, 128, 128)


@pytest.fixture(scope="module")
def table():
    return read_classes()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, table):
    """What `python -m utils.data.demo_scenes` gives: {name: (image, label)}."""
    folder = str(tmp_path_factory.mktemp("demo") / "origin")
    write_demo_scenes(folder, seed=0, size=1024)
    return {name: read_scene(scene, table) for name, scene in find_scenes(folder).items()}


def empty_canvas(sun):
    return Canvas(np.full((400, 400, 3), GREY, np.float32), np.zeros((400, 400), np.uint8),
                  np.zeros((400, 400), bool), np.float64(sun))


def files(folder):
    return {name: (folder / name).read_bytes() for name in os.listdir(folder)}


def test_ids_are_those_of_the_class_table(table):
    ids = dict(zip(table.names, range(len(table))))
    assert ids == {"other": OTHER, "vegetation": VEGETATION, "road": ROAD, "building": BUILDING,
                   "water": WATER}


def test_every_scene_has_a_fair_share_of_every_class(scenes, table):
    assert list(scenes) == ["1", "2", "3", "4", "5"]
    for name, (_, label) in scenes.items():
        share = np.bincount(label.ravel(), minlength=len(table)) / label.size
        assert share.shape == (len(table),) and share.min() > .06, (name, share)


def test_sizes_differ_and_are_not_multiples_of_a_tile(scenes):
    sizes = [label.shape for _, label in scenes.values()]
    assert len(set(sizes)) >= 4
    assert all(900 < side < 1120 and side % 256 for size in sizes for side in size)


def test_colour_alone_does_not_solve_the_held_out_scene(scenes, table):
    train = [scenes[name] for name in ("1", "2", "3", "4")]
    held_out = tuple(array[::3, ::3] for array in scenes["5"])
    iou = score_colour_alone(train, held_out, len(table), pixels=20000, seed=0)
    # The lower bound catches a baseline that is broken, or colours that say nothing at all.
    assert .3 < np.mean(iou) < .65, iou


def test_held_out_conditions_lie_within_those_of_the_others():
    for field in ("haze", "warmth", "noise"):
        others = [getattr(SCENES[name], field) for name in SCENES if name != "5"]
        assert min(others) < getattr(SCENES["5"], field) < max(others)


def test_same_seed_same_bytes_and_other_seed_other_scenes(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_demo_scenes(str(tmp_path / name), seed, 300)
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert a == b
    assert len(a) == 11 and a.keys() == c.keys() and all(a[name] != c[name] for name in a)
    assert len(set(a.values())) == len(a)


def test_roof_is_labelled_to_the_pixel_and_its_shadow_is_not():
    for seed in range(12):
        rng = np.random.default_rng(seed)
        turn, sun = rng.uniform(0, 2 * np.pi, 2)
        axes = np.array([(np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))])
        canvas = empty_canvas((np.cos(sun), np.sin(sun)))
        half = np.array([45., 30.])
        assert draw_building(rng, canvas, BLOCK, axes @ (200, 200), axes, half, (9, 90, 9))
        roof = canvas.label == BUILDING
        assert np.array_equal(roof, (canvas.image != GREY).any(-1))
        # A notched roof lacks at most a quarter of the rectangle.
        inside = cv2.boxPoints(((200, 200), (90, 60), np.rad2deg(turn)))
        rectangle = np.zeros_like(canvas.label)
        cv2.fillConvexPoly(rectangle, np.round(inside).astype(np.int32), 1)
        assert .5 < roof.sum() / 5400 < 1.02
        assert not roof[cv2.dilate(rectangle, np.ones((3, 3))) == 0].any()
        assert (canvas.label[~roof] == OTHER).all()
        cast = np.argwhere(canvas.shadow & ~roof).mean(0)[::-1] - (200, 200)
        assert cast @ canvas.sun > 20


def test_buildings_keep_off_roads_water_and_the_edge_of_their_block():
    canvas = empty_canvas((1, 0))
    canvas.label[180:200] = ROAD
    canvas.label[:, 120:150] = WATER
    before = canvas.label.copy()
    draw_buildings(np.random.default_rng(0), canvas, BLOCK)
    roof = canvas.label == BUILDING
    assert roof.mean() > .15
    assert np.array_equal(canvas.label[~roof], before[~roof])
    assert (before[roof] == OTHER).all()
    rows, columns = np.nonzero(roof)
    assert min(rows.min(), columns.min()) >= 21 and max(rows.max(), columns.max()) <= 379


def test_blocks_are_convex_and_cover_the_scene_once():
    blocks, roads = split_blocks(np.random.default_rng(0), 700, 900)
    assert len(blocks) == len(roads) + 1 > 8
    assert all(cv2.isContourConvex(block) for block in blocks)
    side = 1.05 * np.hypot(700, 900)
    assert sum(map(cv2.contourArea, blocks)) == pytest.approx(side ** 2, rel=1e-3)
    count = np.zeros((700, 900), np.uint8)
    for block in blocks:
        count += cv2.fillConvexPoly(np.zeros_like(count), np.round(block).astype(np.int32), 1)
    # Rounded edges overlap or leave a pixel out, so the roads must cover them.
    covered = np.zeros_like(count)
    for start, end, width, _ in roads:
        cv2.line(covered, np.round(start).astype(int), np.round(end).astype(int), 1, width)
    assert (count[covered == 0] == 1).all()
    widths = [width for _, _, width, _ in roads]
    assert widths == sorted(widths) and min(widths) >= 14
    angles = [np.arctan2(*(end - start)) % np.pi for start, end, _, _ in roads]
    assert len(np.unique(np.round(angles, 2))) > len(angles) / 2


def test_uses_meet_their_shares():
    areas = np.random.default_rng(0).integers(0, 60000, 60)
    uses = assign_uses(np.random.default_rng(1), areas)
    for use, share in USES.items():
        got = areas[[name == use for name in uses]].sum() / areas.sum()
        assert got == pytest.approx(share, abs=.03)


def test_scenes_of_others_are_never_overwritten(tmp_path):
    write_png(str(tmp_path / "2.png"), np.full((20, 20, 3), 7, np.uint8))
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"not drawn here \(2\); choose another"):
        write_demo_scenes(str(tmp_path), 0, 300)
    assert files(tmp_path) == before


def test_own_scenes_are_drawn_anew(tmp_path):
    write_demo_scenes(str(tmp_path), 0, 300)
    first = files(tmp_path)
    assert "seed 0, size 300" in first[MARKER].decode()
    write_demo_scenes(str(tmp_path), 1, 300)
    second = files(tmp_path)
    assert first.keys() == second.keys() and first["1.png"] != second["1.png"]


def test_command_refuses_a_size_below_a_tile_in_one_line(tmp_path):
    run = subprocess.run([sys.executable, "-m", "utils.data.demo_scenes", "--out", str(tmp_path / "x"),
                          "--size", "100"], capture_output=True, text=True)
    assert run.returncode == 2 and "--size 100 is too small" in run.stderr
    assert run.stderr.count("\n") == 1 and not (tmp_path / "x").exists()
