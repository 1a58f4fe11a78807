"""DeepGlobe's land-cover tiles: tables of scenes, the published score, a scene put together.

    python -m benchmarks.deepglobe tables --data ../shared/data/deepglobe --out dataset/deepglobe
    python -m benchmarks.deepglobe score --table dataset/deepglobe/official.csv --maps maps
    python -m benchmarks.deepglobe mosaic --data ../shared/data/deepglobe --scene 1 --out scene1.png

benchmarks/deepglobe.sh calls them between the three scripts. `tables` writes a scene table for
preprocess.py for each split:

choose.csv: 1,583 of the 2,000 training tiles to train on, the other 417 to validate on, which are
those of five scenes; for every choice.
official.csv: the 2,000 tiles to train on and the 257 to test, as others publish it. 244 of the 257
lie in a scene that has training tiles too.
watched.csv: the same, the 257 as validation tiles, on which train.py draws a curve; nothing may be
chosen by it.
by_scene.csv: the tiles of scenes 1 and 5 to test, all others of both folders to train on.

Which scene a tile is of says `scenes.csv` in --data, with the columns tile (train/0000), scene, row
and column. Without it only official.csv and watched.csv can be written.
"""

import argparse
import glob
import os

import cv2
import numpy as np
import pandas as pd

from utils.classes import read_classes
from utils.cli import run_script
from utils.data.label import Label
from utils.data.scene_table import TEST, TRAIN, VALIDATION, read_scene_table
from utils.data.scenes import write_png
from utils.files import write_bytes, write_text
from utils.metrics import confusion_matrix, mean_iou, share_of

# Large scenes that together have the classes' shares of the whole training set to a quarter.
VALIDATION_SCENES = (2, 7, 9, 11, 17)
TEST_SCENES = (1, 5)
TILE = 512  # pixels


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, call in (("tables", write_tables), ("score", print_score), ("mosaic", write_mosaic)):
        add = commands.add_parser(name).add_argument
        parser_flags = {"tables": ("--data", "--out"), "score": ("--table", "--maps"),
                        "mosaic": ("--data", "--scene", "--out")}[name]
        for flag in parser_flags:
            add(flag, required=True, type=int if flag == "--scene" else str)
        if name == "score":
            add("--classes", default="dataset/tables/deepglobe.csv", metavar="FILE")
        commands.choices[name].set_defaults(call=call)
    return parser.parse_args()


def main():
    args = parse_arguments()
    args.call(args)


def read_tiles(data):
    """DataFrame of all tiles: tile ('train/0000'), scene, row, column and `split`, its folder.

    Without scenes.csv it has tile and split only. Raises OSError where there are no tiles.
    """
    places = os.path.join(data, "scenes.csv")
    if os.path.exists(places):
        tiles = pd.read_csv(places)
    else:
        images = glob.glob("*/*_sat.jpg", root_dir=data)
        if not images:
            raise FileNotFoundError(f"{data}: no train/NNNN_sat.jpg or validation/NNNN_sat.jpg")
        tiles = pd.DataFrame({"tile": sorted(path[:-len("_sat.jpg")] for path in images)})
    tiles["split"] = tiles["tile"].str.split("/").str[0]
    return tiles


def write_tables(args):
    """Writes the four tables into --out, or the two that need no scenes."""
    tiles = read_tiles(args.data)
    given = tiles["split"] == "train"
    splits = {"official": np.where(given, TRAIN, TEST),
              "watched": np.where(given, TRAIN, VALIDATION)}
    if "scene" in tiles:
        chosen, tested = (tiles["scene"].isin(of) for of in (VALIDATION_SCENES, TEST_SCENES))
        splits["choose"] = np.where(chosen, VALIDATION, TRAIN)[given]
        splits["by_scene"] = np.where(tested, TEST, TRAIN)
    for name, split in splits.items():
        rows = tiles[given] if name == "choose" else tiles
        files = [os.path.relpath(os.path.join(args.data, tile), args.out) for tile in rows["tile"]]
        table = pd.DataFrame({"name": rows["tile"].str.replace("/", "_"),
                              "image": [f"{file}_sat.jpg" for file in files],
                              "label": [f"{file}_mask.png" for file in files], "split": split})
        write_text(os.path.join(args.out, f"{name}.csv"), table.to_csv(index=False))


def print_score(args):
    """Prints mean-IoU by the project's definition and by the published one, of all test scenes.

    The published one is, of each class, true positives / (pixels predicted + pixels labelled - true
    positives), and the mean of these: a pixel labelled unknown is a false prediction of its class.
    """
    table = read_classes(args.classes)
    count = len(table)
    matrix, predicted = np.zeros((count, count), np.int64), np.zeros(count, np.int64)
    for scene in read_scene_table(args.table):
        if scene.split == TEST:
            path = os.path.join(args.maps, f"{scene.name}_class.png")
            with Label(scene.label_path, table) as label, Label(path, table.of_maps()) as result:
                ids, classes = (each.read(0, 0, each.height, each.width)
                                for each in (label, result))
            matrix += confusion_matrix(ids, classes, count)
            predicted += np.bincount(classes.ravel(), minlength=256)[:count]
    right = matrix.diagonal()
    published = share_of(right, predicted + matrix.sum(axis=1) - right)
    print(f"mean-IoU {mean_iou(matrix):.4f}; by the published definition {published.mean():.4f} ("
          + ", ".join(f"{name} {iou:.3f}" for name, iou in zip(table.names, published)) + ")")


def write_mosaic(args):
    """Writes the image of a scene as PNG and beside it, as NAME_class.png, its label. Where a tile
    is missing the image is transparent, so that its map has nodata there, and the label 'unknown'.
    """
    tiles = read_tiles(args.data)
    if "scene" not in tiles:
        raise FileNotFoundError(f"{args.data}: no scenes.csv, which says where the tiles lie")
    tiles = tiles[tiles["scene"] == args.scene]
    size = [TILE * (tiles[axis].max() - tiles[axis].min() + 1) for axis in ("row", "column")]
    image, label = np.zeros((*size, 4), np.uint8), np.zeros((*size, 3), np.uint8)
    for tile in tiles.itertuples():
        top, left = (TILE * (getattr(tile, axis) - tiles[axis].min()) for axis in ("row", "column"))
        place = slice(top, top + TILE), slice(left, left + TILE)
        for whole, ending in ((image, "sat.jpg"), (label, "mask.png")):
            pixels = cv2.imread(os.path.join(args.data, f"{tile.tile}_{ending}"))
            whole[(*place, slice(3))] = pixels[..., ::-1]
        image[(*place, 3)] = 255
    encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA))[1]
    write_bytes(args.out, encoded.tobytes())
    write_png(os.path.splitext(args.out)[0] + "_class.png", label)


if __name__ == "__main__":
    run_script(main)
