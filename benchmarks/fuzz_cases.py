"""The cases of benchmarks.fuzz: each draws files and flags and calls a script in this process.
Where the property does not hold, it raises Fault."""

import contextlib
import json
import os
import shutil
import sys
from typing import NamedTuple

import numpy as np
import rasterio

import predict
import preprocess
from benchmarks.fuzz_inputs import (TABLE, TABLE_CSV, damage, draw_flags, draw_pixels, spoil_json,
                                    write, write_label, write_polygons, write_scene, write_tiff)
from benchmarks.fuzz_property import (OK, REFUSED, Fault, call, check_matrix, check_polygons,
                                      check_refusal, check_whole)
from utils import metrics

WINDOW = 32
NEEDS_PLACE = {"--aoi", "--polygons", "--min_area", "--simplify"}


def brightest(windows):
    """The stand-in for the network: a band's share of a pixel is the probability of its class."""
    values = windows[..., :3].astype(np.float32) + 1
    return values / values.sum(-1, keepdims=True)


def stand_in(checkpoint, config, precision, all_options):
    return contextlib.nullcontext([brightest for _ in all_options])


class Drawn(NamedTuple):
    """A case of predict.py. samples, place: of `write_scene`. ids: of the label, or None. spoiled:
    path of the one damaged file, or None."""

    arguments: list
    scene: str
    samples: np.ndarray
    place: dict
    ids: np.ndarray
    spoiled: str


def draw_predict_case(random, folder):
    """The Drawn, its files in `folder`."""
    run = os.path.join(folder, "logs", "run")
    os.makedirs(os.path.join(run, "best"))
    settings = {"model": {"num_classes": 3}, "classes": TABLE.to_settings(), "tile_size": WINDOW,
                "training": {"precision": "float32"}}
    write(os.path.join(run, "settings.json"), json.dumps(settings))
    write(os.path.join(run, "best", "checkpoint"), 'model_checkpoint_path: "step-7"')
    write(os.path.join(run, "best", "step-7.index"), "")
    scene, samples, place = write_scene(random, os.path.join(folder, "scene"),
                                        draw_pixels(random))
    arguments = ["--logs", os.path.dirname(run), "--run", "run", "--precision", "float32"]
    shape, ids, files = samples.shape[1:], None, [scene, os.path.join(run, "settings.json")]
    if random.random() < .3:
        files.append(os.path.join(folder, "table.csv"))
        write(files[-1], TABLE_CSV)
        arguments += ["--classes", files[-1]]
    if random.random() < .5:
        files.append(os.path.join(folder, "scene_class.png"))
        ids = write_label(random, files[-1], (shape[0], shape[1] + (random.random() < .1)))
        arguments += ["--label", files[-1]]
    if random.random() < .15:
        files.append(os.path.join(folder, random.choice(["area.gpkg", "area.geojson"])))
        write_polygons(random, files[-1], shape, place)
        arguments += ["--aoi", files[-1]]
    spoiled = random.choice(files) if random.random() < .35 else None
    if spoiled and spoiled.endswith("settings.json") and random.random() < .7:
        spoil_json(random, spoiled)
    elif spoiled:
        damage(random, spoiled)
    arguments += draw_flags(random, {
        "--window": [8, 16, 33, 64], "--overlap": [0, .125, .5, .75], "--batch_size": [1, 3, 16],
        "--blend": ["cosine", "tukey", "uniform", "none"], "--rotations": [1, 2, 4, "woven"],
        "--quality": ["fast", "best"], "--flips": ["set"], "--scales": ["1", ".75 1.25"],
        "--probabilities": ["set"], "--confidence": ["set"], "--cog": ["set"],
        "--polygons": ["gpkg", "geojson"], "--min_area": ["3px", "20px", "5"],
        "--part": ["1/1"], "--checkpoint": ["best"]}, .05)
    if "--polygons" in arguments and random.random() < .3:
        arguments += ["--simplify", random.choice(["1px", "2"])]
    if random.random() < .1:
        arguments += ["--resample", random.choice([".5", ".7", "2"])]
    if ids is not None and random.random() < .1:
        arguments += ["--compare"]
    if (len(samples) < 3 or samples.dtype != np.uint8) != (random.random() < .1):
        bands = "1 1 1" if len(samples) < 3 else random.choice(["1 2 3", "3 2 1", "1 1 2"])
        arguments += ["--bands", *bands.split()]
    return Drawn(arguments, scene, samples, place, ids, spoiled)


def predict_case(random, folder):
    """predict.py on one scene, with or without label; its map is that of a plain copy."""
    drawn, out = draw_predict_case(random, folder), os.path.join(folder, "out")
    status, _, errors = call(run_predict, [*drawn.arguments, "--image", drawn.scene, "--out", out])
    left = os.listdir(out) if os.path.isdir(out) else []
    if [name for name in left if name.startswith(".")]:
        raise Fault(f"left behind: {left}")
    check_whole(out, left)
    maps = [name for name in left if name.endswith(("_class.tif", "_class.png"))]
    if status:
        check_refusal(status, errors, folder)
        if maps:
            raise Fault(f"a map in spite of: {errors}")
        return REFUSED
    if "--compare" in drawn.arguments:
        return OK
    if len(maps) != 1:
        raise Fault(f"maps: {left}")
    with rasterio.open(os.path.join(out, maps[0])) as file:
        classes = file.read(1)
        if "scene_polygons.gpkg" in left and "--simplify" not in drawn.arguments:
            check_polygons(os.path.join(out, "scene_polygons.gpkg"), classes, file)
    # A damaged scene that can still be read is another one: what it holds is not known. And the
    # samples of a picture are resampled by OpenCV, those of a GeoTIFF by GDAL.
    if drawn.scene != drawn.spoiled and "--resample" not in drawn.arguments:
        check_plain_copy(drawn, folder, classes)
    if drawn.ids is not None and not (drawn.spoiled or "").endswith(("_class.png", "table.csv")):
        check_matrix(os.path.join(out, "scene_confusion.json"), drawn.ids, classes)
    return OK


def check_plain_copy(drawn, folder, classes):
    """The map of a plain GeoTIFF of the same samples is the same, wherever it lies."""
    plain, out = (os.path.join(folder, name) for name in ("plain.tif", "plain_out"))
    write_tiff(plain, drawn.samples, **drawn.place if NEEDS_PLACE & set(drawn.arguments) else {})
    status, _, errors = call(run_predict, [*drawn.arguments, "--image", plain, "--out", out])
    if status:
        raise Fault(f"its plain copy is refused: {errors}")
    with rasterio.open(os.path.join(out, "plain_class.tif")) as file:
        if not np.array_equal(file.read(1), classes):
            raise Fault("another map than that of its plain copy")


def run_predict(arguments):
    return predict.main(arguments, stand_in)


def preprocess_case(random, folder):
    """preprocess.py on a few scenes; its tiles are those of plain copies of them."""
    table, origin, plain = (os.path.join(folder, name) for name in ("table.csv", "origin", "plain"))
    os.makedirs(origin)
    os.makedirs(plain)
    write(table, TABLE_CSV)
    files, with_polygons = [table], random.random() < .25
    for number in range(1, int(random.integers(3, 6))):
        samples = random.integers(0, 256, (3, *random.integers(30, 150, 2)), np.uint8)
        scene, samples, place = write_scene(random, os.path.join(origin, str(number)), samples)
        label = os.path.join(origin, f"{number}_class." + ("gpkg" if with_polygons else "png"))
        if with_polygons:
            write_polygons(random, label, samples.shape[1:], place)
        else:
            write_label(random, label, samples.shape[1:])
        write_tiff(os.path.join(plain, f"{number}.tif"), samples,
                   **place if with_polygons else {})
        files += [scene, label]
    spoiled = random.choice(files) if random.random() < .3 else None
    kind = spoiled and damage(random, spoiled)
    for name in os.listdir(origin):
        if "_class" in name and os.path.isfile(os.path.join(origin, name)):
            shutil.copy(os.path.join(origin, name), plain)
    flags = ["--classes", table, "--workers", "1", "--seed", str(random.integers(0, 9))]
    flags += draw_flags(random, {
        "--tile_size": [16, 24], "--crops_per_scene": ["area", "equal"],
        "--rare_class_weight": [0, .5, 1], "--validation_fraction": [0, .1, .5],
        "--no_augment": ["set"], "--bands": ["1 2 3", "3 2 1"], "--gamma_range": ["1 2"],
        "--rotate_90": [.3], "--blur": [.5], "--memory": [0], "--keep_nodata": ["set"],
        "--label_background": ["red", "2"]}, .04)
    flags += ["--label_attribute", "kind"] if with_polygons and random.random() < .95 else []
    flags += ["--test_scene", "1"] if random.random() < .95 else []
    flags += [] if "--tile_size" in flags else ["--tile_size", "16"]
    if random.random() < .1:
        flags += ["--resample", random.choice([".5", "2"])]
    results = []
    for source in (origin, plain):
        dataset = os.path.join(folder, "data_" + os.path.basename(source))
        status, _, errors = call(run_preprocess, [
            "--tiles", "40", *flags, "--origin", source, "--dataset", dataset])
        written = os.path.isdir(dataset) and os.listdir(dataset)
        if status:
            check_refusal(status, errors, folder)
            if written:
                raise Fault(f"left behind: {written}")
            return REFUSED
        results.append(tile_bytes(dataset))
        if "--resample" in flags or kind in ("gone", "flip", "cut", "shuffle") and (
                spoiled.startswith(origin)):
            return OK  # the plain scenes are those before the damage
    if results[0] != results[1]:
        raise Fault("other tiles than those of plain copies")
    return OK


def tile_bytes(dataset):
    """{name: bytes} of all tiles of a tile set."""
    found = {}
    for part in ("train", "validation"):
        folder = os.path.join(dataset, part)
        for parent, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(parent, name)
                with open(path, "rb") as file:
                    found[os.path.relpath(path, dataset)] = file.read()
    return found


def run_preprocess(arguments):
    sys.argv[1:] = arguments
    return preprocess.main()


def metrics_case(random, folder):
    """python -m utils.metrics on two maps; its matrix is scikit-learn's."""
    shape = tuple(random.integers(1, 60, 2))
    files = [os.path.join(folder, name) for name in ("label.png", "map.png")]
    for path in files:
        write_label(random, path, shape)
    table = os.path.join(folder, "table.csv")
    write(table, TABLE_CSV)
    spoiled = random.random() < .4 and damage(random, random.choice([*files, table]))
    status, out, errors = call(run_metrics, ["--label", files[0], "--prediction", files[1],
                                             "--classes", table])
    if status:
        check_refusal(status, errors, folder)
        return REFUSED
    if not spoiled and "mean" not in out.lower():
        raise Fault(f"no mean in: {out}")
    return OK


def run_metrics(arguments):
    sys.argv[1:] = arguments
    return metrics.main()
