"""Random scenes, labels, tables, settings and flags, good and bad, against one property.

Run as: python -m benchmarks.fuzz --cases 10000
        python -m benchmarks.fuzz --first 4711 --cases 1 --keep /tmp/case

A case is a seed: its files and flags are drawn from it, and the script under test runs in a process
of its own. The property: exit status 0 and the result of a plain copy of the same pixels; or exit
status 2, one line that names a file or a flag, and no result. Never a traceback, more than 60
seconds, more than 2 GB, or a file that is not whole under a final name. predict.py runs with a
stand-in for the network (a pixel's class is its brightest band), so what is tried is everything
around it.
"""

import argparse
import collections
import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback

import cv2
import numpy as np
import rasterio
from rasterio.control import GroundControlPoint
from sklearn.metrics import confusion_matrix

import utils.quiet  # noqa: F401  (before TensorFlow)
import predict
import preprocess
from utils import metrics
from utils.classes import ClassTable
from utils.cli import natural, positive, progress, run_script

SECONDS, GIGABYTES = 60, 2
OK, REFUSED, FAULT = "mapped", "refused", "FAULT"
TABLE = ClassTable(("red", "green", "blue"),
                   np.array([[200, 0, 0], [0, 160, 0], [0, 0, 190]], np.uint8))
TABLE_CSV = "id,name,colour\n0,red,#c80000\n1,green,#00a000\n2,blue,#0000be\n"
WINDOW = 32
WORDS = ["0", "-1", "1", "2", "3", "1e9", "nan", "inf", "", "x", "1e-9", "99999999999999999999", "é",
         ".5", "255", "../x"]


class Fault(Exception):
    """The property does not hold."""


def brightest(windows):
    """The stand-in for the network: a band's share of a pixel is the probability of its class."""
    values = windows[..., :3].astype(np.float32) + 1
    return values / values.sum(-1, keepdims=True)


def stand_in(checkpoint, config, precision, all_options):
    return contextlib.nullcontext([brightest for _ in all_options])


def draw_pixels(random):
    """Samples [bands, height, width] of a scene, of any depth that rasters have."""
    dtype = random.choice(["uint8"] * 6 + ["uint16", "int16", "float32", "uint32", "int8"])
    height, width = random.integers(1, 150, 2)
    bands = int(random.choice([1, 2, 3, 3, 3, 3, 3, 4, 4, 7]))
    if dtype == "float32":
        samples = random.normal(100, 50, (bands, height, width)).astype(dtype)
        if random.random() < .3:
            samples[random.random(samples.shape) < .05] = random.choice([np.nan, np.inf, -3.4e38])
        return samples
    limits = np.iinfo(dtype)
    low, high = max(limits.min, -1000), min(limits.max, 4000)
    return random.integers(low, high, (bands, height, width), endpoint=True).astype(dtype)


def write_tiff(path, samples, **profile):
    bands, height, width = samples.shape
    with rasterio.open(path, "w", driver="GTiff", count=bands, height=height, width=width,
                       dtype=samples.dtype, **profile) as file:
        file.write(samples)


def write_scene(random, path, samples):
    """Writes them in some form; gives the path and the samples as that form holds them."""
    bands, height, width = samples.shape
    if samples.dtype == np.uint8 and bands in (1, 3) and random.random() < .4:
        path += random.choice([".png", ".jpg"])
        pixels = np.moveaxis(samples, 0, -1)[..., ::-1] if bands == 3 else samples[0]
        cv2.imwrite(path, pixels)
        stored = np.atleast_3d(cv2.imread(path, cv2.IMREAD_UNCHANGED))
        return path, np.moveaxis(stored[..., ::-1] if bands == 3 else stored, -1, 0)
    profile = {"compress": random.choice(["none", "deflate", "lzw", "packbits", "zstd"]),
               "interleave": random.choice(["band", "pixel"])}
    if random.random() < .5:
        profile |= {"tiled": True, "blockxsize": 16 * int(random.integers(1, 9)),
                    "blockysize": 16 * int(random.integers(1, 9))}
    if random.random() < .2:
        profile["bigtiff"] = "yes"
    profile |= draw_place(random, height, width)
    path += random.choice([".tif", ".tiff", ".TIF"])
    write_tiff(path, samples, **profile)
    return path, samples


def draw_place(random, height, width):
    """Georeference of some kind, as rasterio's arguments, or none."""
    kind = random.choice(["none", "north-up", "south-up", "rotated", "degrees", "points"])
    if kind == "none":
        return {}
    if kind == "points":
        points = [GroundControlPoint(row=row, col=column, x=5 + column * 1e-5, y=50 - row * 1e-5)
                  for row in (0, height) for column in (0, width)]
        return {"gcps": points, "crs": "EPSG:4326"}
    transform = {"north-up": rasterio.Affine(.5, 0, 325000, 0, -.5, 2785000),
                 "south-up": rasterio.Affine(.5, 0, 325000, 0, .5, 2785000),
                 "rotated": rasterio.Affine(.4, .3, 325000, .3, -.4, 2785000),
                 "degrees": rasterio.Affine(1e-5, 0, 5, 0, -1e-5, 50)}[kind]
    return {"crs": "EPSG:4326" if kind == "degrees" else "EPSG:32640", "transform": transform}


def write_label(random, path, shape):
    """A label that fits, as ids or colours, and its ids; sometimes with a value of no class."""
    ids = random.integers(0, 3, shape).astype(np.uint8)
    ids[random.random(shape) < .05] = 255
    if random.random() < .15:
        ids[0, 0] = 77
    if random.random() < .5:
        palette = np.zeros((256, 3), np.uint8)
        palette[:3], palette[255], palette[77] = TABLE.colours, TABLE.ignore_colour, (1, 2, 3)
        cv2.imwrite(path, palette[ids][..., ::-1])
    else:
        cv2.imwrite(path, ids)
    return ids


def damage(random, path):
    """Spoils a file in one of the ways that disks, tools and people do."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    kind = random.choice(["cut", "flip", "empty", "text", "gone", "folder", "shuffle", "link"])
    if kind in ("gone", "folder", "link"):
        os.remove(path)
        if kind == "folder":
            os.mkdir(path)
        if kind == "link":
            os.symlink(path, path)
        return kind
    if kind == "cut":
        data = data[:int(random.integers(0, len(data) + 1))]
    elif kind == "flip":
        for place in random.integers(0, len(data), random.integers(1, 4)):
            data[place] ^= 1 << random.integers(0, 8)
    elif kind == "shuffle":
        start = int(random.integers(0, len(data)))
        part = data[start:start + 64]
        random.shuffle(part)
        data[start:start + 64] = part
    else:
        data = b"" if kind == "empty" else b"id,name\n{\n"
    with open(path, "wb") as file:
        file.write(data)
    return kind


def spoil_json(random, path):
    """Replaces, adds or removes one value somewhere in a JSON file."""
    with open(path, encoding="utf-8") as file:
        values = json.load(file)
    place = values
    while True:
        key = random.choice(list(place)) if isinstance(place, dict) else int(
            random.integers(0, len(place)))
        if isinstance(place[key], dict | list) and place[key] and random.random() < .7:
            place = place[key]
            continue
        if random.random() < .3:
            del place[key]
        else:
            place[key] = [None, -1, 0, 1e9, 10**9, "x", [], {}, [1, 2], True, "\u0000", .5][
                random.integers(0, 12)]
        break
    with open(path, "w", encoding="utf-8") as file:
        json.dump(values, file)


def draw_flags(random, known, chance):
    """Some flags, most with values that make sense, a few (`chance`) with ones that do not."""
    flags = []
    for flag, values in known.items():
        if random.random() < .25:
            value = random.choice(WORDS) if random.random() < chance else random.choice(values)
            flags += [flag] + ([] if value == "set" else str(value).split() or [""])
    return flags


def call(main, arguments):
    """(exit status, standard output, error output) of a script's main in this process."""
    out, errors, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [main.__module__.split(".")[-1] + ".py", *arguments]
    handlers = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            status = main(arguments) or 0
    except SystemExit as end:
        status = end.code
    except (ValueError, OSError, MemoryError) as error:  # as utils.cli.run_script
        status = 2
        errors.write("error: " + (" ".join(str(error).split()) or type(error).__name__))
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, handlers)
    return status, out.getvalue(), errors.getvalue()


def check_refusal(status, errors, folder):
    """Exit status 2, and one line at the end that names a file of the case or a flag."""
    if status != 2:
        raise Fault(f"exit status {status}: {errors}")
    lines = errors.strip().splitlines()
    told = [line for line in lines if "error: " in line]
    if "Traceback" in errors or len(told) != 1 or told[0] != lines[-1]:
        raise Fault(f"not one line: {errors}")
    if not (folder in told[0] or "--" in told[0] or "argument" in told[0]):
        raise Fault(f"names no file and no flag: {errors}")


def predict_case(random, folder):
    """predict.py on one scene, with or without label."""
    logs, run = os.path.join(folder, "logs"), os.path.join(folder, "logs", "run")
    os.makedirs(os.path.join(run, "best"))
    settings = {"model": {"num_classes": 3}, "classes": TABLE.to_settings(), "tile_size": WINDOW,
                "training": {"precision": "float32"}}
    write(os.path.join(run, "settings.json"), json.dumps(settings))
    write(os.path.join(run, "best", "checkpoint"), 'model_checkpoint_path: "step-7"')
    write(os.path.join(run, "best", "step-7.index"), "")
    scene, samples = write_scene(random, os.path.join(folder, "scene"), draw_pixels(random))
    arguments = ["--logs", logs, "--run", "run", "--precision", "float32"]
    shape, ids = samples.shape[1:], None
    label = os.path.join(folder, "scene_class.png")
    if random.random() < .5:
        if random.random() < .1:
            shape = (shape[0], shape[1] + 1)
        ids = write_label(random, label, shape)
    table = os.path.join(folder, "table.csv")
    write(table, TABLE_CSV)
    spoiled = []
    if random.random() < .35:
        spoiled = [random.choice([scene, table, os.path.join(run, "settings.json")]
                                 + [label] * (ids is not None))]
        if spoiled[0].endswith(".json") and random.random() < .7:
            spoil_json(random, spoiled[0])
        else:
            damage(random, spoiled[0])
    if random.random() < .3 or table in spoiled:
        arguments += ["--classes", table]
    if ids is not None:
        arguments += ["--label", label]
    bands = "1 1 1" if len(samples) < 3 else random.choice(["1 2 3", "3 2 1", "1 1 2"])
    arguments += draw_flags(random, {
        "--window": [8, 16, 33, 64], "--overlap": [0, .125, .5, .75], "--batch_size": [1, 3, 16],
        "--blend": ["cosine", "uniform", "none"], "--rotations": [1, 2, 4], "--flips": ["set"],
        "--scales": ["1", ".75 1.25"], "--probabilities": ["set"], "--part": ["1/1"],
        "--checkpoint": ["best"]}, .06)
    if ids is not None and random.random() < .1:
        arguments += ["--compare"]
    if (len(samples) < 3 or samples.dtype != np.uint8) != (random.random() < .1):
        arguments += ["--bands", *bands.split()]
    out = os.path.join(folder, "out")
    status, _, errors = call(run_predict, [*arguments, "--image", scene, "--out", out])
    left = os.listdir(out) if os.path.isdir(out) else []
    if [name for name in left if name.startswith(".")]:
        raise Fault(f"left behind: {left}")
    maps = [name for name in left if name.endswith(("_class.tif", "_class.png"))]
    if status:
        check_refusal(status, errors, folder)
        if maps:
            raise Fault(f"a map in spite of: {errors}")
        return REFUSED
    if "--compare" in arguments:
        return OK
    if len(maps) != 1:
        raise Fault(f"maps: {left}")
    with rasterio.open(os.path.join(out, maps[0])) as file:
        classes = file.read(1)
    if [scene] != spoiled:
        # A damaged file that can still be read is another scene: what it holds is not known.
        plain = os.path.join(folder, "plain.tif")
        write_tiff(plain, samples)
        status, _, errors = call(run_predict, [
            *arguments, "--image", plain, "--out", os.path.join(folder, "plain_out")])
        if status:
            raise Fault(f"its plain copy is refused: {errors}")
        with rasterio.open(os.path.join(folder, "plain_out", "plain_class.tif")) as file:
            if not np.array_equal(file.read(1), classes):
                raise Fault("another map than that of its plain copy")
    if ids is not None and not {label, table} & set(spoiled):
        check_matrix(os.path.join(out, "scene_confusion.json"), ids, classes)
    return OK


def check_matrix(path, ids, classes):
    """The confusion matrix beside a map is scikit-learn's."""
    with open(path, encoding="utf-8") as file:
        matrix = np.array(json.load(file)["matrix"])
    valid = (ids < 3) & (classes < 3)
    expected = confusion_matrix(ids[valid], classes[valid], labels=range(3))
    if not np.array_equal(matrix, expected):
        raise Fault(f"confusion matrix {matrix.tolist()}, scikit-learn's is {expected.tolist()}")


def run_predict(arguments):
    return predict.main(arguments, stand_in)


def preprocess_case(random, folder):
    """preprocess.py on a few scenes; its tiles are those of plain copies of them."""
    table, origin = os.path.join(folder, "table.csv"), os.path.join(folder, "origin")
    plain = os.path.join(folder, "plain")
    os.makedirs(origin)
    os.makedirs(plain)
    write(table, TABLE_CSV)
    files = [table]
    for number in range(1, int(random.integers(3, 6))):
        samples = random.integers(0, 256, (3, *random.integers(30, 150, 2)), np.uint8)
        scene, samples = write_scene(random, os.path.join(origin, str(number)), samples)
        write_label(random, os.path.join(origin, f"{number}_class.png"), samples.shape[1:])
        write_tiff(os.path.join(plain, f"{number}.tif"), samples)
        files += [scene, os.path.join(origin, f"{number}_class.png")]
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
        "--rotate_90": [.3], "--blur": [.5]}, .04)
    if random.random() < .95:
        flags += ["--test_scene", "1"]
    if "--tile_size" not in flags:
        flags += ["--tile_size", "16"]
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
        if kind in ("gone", "flip", "cut", "shuffle") and spoiled.startswith(origin):
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


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


CASES = {predict_case: .65, preprocess_case: .25, metrics_case: .1}


def run_case(seed, folder):
    """What became of the case of this seed: (kind, OK, REFUSED or FAULT, what is wrong)."""
    random = np.random.default_rng(seed)
    kind = random.choice(list(CASES), p=list(CASES.values()))
    try:
        return kind.__name__, kind(random, folder), ""
    except Fault as fault:
        return kind.__name__, FAULT, str(fault)
    except BaseException:
        return kind.__name__, FAULT, traceback.format_exc()


def run_apart(seed, folder):
    """`run_case` in a process of its own, whose time and memory are held to the limits."""
    os.makedirs(folder)
    result = os.path.join(folder, "result.json")
    sys.stdout.flush()
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.makedirs(os.path.join(folder, "case"))
        write(result, json.dumps(run_case(seed, os.path.join(folder, "case"))))
        os._exit(0)
    until = time.monotonic() + SECONDS
    while (done := os.wait4(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "?", FAULT, f"more than {SECONDS} s"
        time.sleep(.002)
    if done[1]:
        return "?", FAULT, f"ended by signal or status {done[1]}"
    if done[2].ru_maxrss * 1024 > GIGABYTES * 1e9:
        return "?", FAULT, f"{done[2].ru_maxrss * 1024 / 1e9:.1f} GB"
    with open(result, encoding="utf-8") as file:
        return json.load(file)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--cases", type=positive, default=1000)
    parser.add_argument("--first", type=natural, default=0, help="seed of the first case")
    parser.add_argument("--keep", metavar="FOLDER", help="for the files of faults")
    args = parser.parse_args()
    cv2.setNumThreads(1)  # a process with threads of OpenCV cannot be forked
    counts, faults = collections.Counter(), []
    with tempfile.TemporaryDirectory() as place, progress(args.cases, " cases", "fuzz") as bar:
        for seed in range(args.first, args.first + args.cases):
            folder = os.path.join(place, str(seed))
            kind, outcome, why = run_apart(seed, folder)
            counts[kind, outcome] += 1
            if outcome == FAULT:
                faults.append(seed)
                print(f"seed {seed}, {kind}: {why}", flush=True)
                if args.keep:
                    shutil.copytree(folder, os.path.join(args.keep, str(seed)), symlinks=True)
            shutil.rmtree(folder)
            bar.update()
    for (kind, outcome), count in sorted(counts.items()):
        print(f"{kind:16} {outcome:8} {count:6}")
    print(f"{len(faults)} faults in {args.cases} cases from seed {args.first}")
    return 1 if faults else 0


if __name__ == "__main__":
    run_script(main)
