"""How far colour alone gets on the synthetic demo scenes: a classifier of single RGB pixels.

Run as: python -m benchmarks.demo_colour_baseline
"""

import argparse

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import jaccard_score
from threadpoolctl import threadpool_limits

from utils.classes import DEFAULT_TABLE, IGNORE, read_classes
from utils.cli import natural, positive, run_script
from utils.data.scenes import choose_scenes, find_scenes, read_scene


def score_colour_alone(train, test, num_classes, pixels, seed):
    """IoU of each class, float [num_classes] (NaN where absent), of a per-pixel classifier.

    train: list of (image uint8 [height, width, 3], label uint8 [height, width]), of which
    `pixels` random pixels are learned from; test: one such pair, classified whole.
    """
    colours = np.concatenate([image.reshape(-1, 3) for image, _ in train])
    labels = np.concatenate([label.ravel() for _, label in train])
    counted = np.flatnonzero(labels != IGNORE)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(counted, min(pixels, counted.size), replace=False)
    classifier = HistGradientBoostingClassifier(random_state=seed)
    # One thread: scikit-learn's spinning OpenMP threads are 20 times slower on busy cores.
    with threadpool_limits(1):
        classifier.fit(colours[chosen], labels[chosen])

    image, label = test
    # Equal colours get equal answers, so each is asked for once.
    distinct, index = np.unique(image[label != IGNORE], axis=0, return_inverse=True)
    with threadpool_limits(1):
        predicted = classifier.predict(distinct)[index.ravel()]
    truth = label[label != IGNORE]
    present = np.union1d(truth, predicted)
    iou = np.full(num_classes, np.nan)
    iou[present] = jaccard_score(truth, predicted, labels=present, average=None)
    return iou


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--origin", default="dataset/demo/origin", metavar="FOLDER")
    parser.add_argument("--classes", default=DEFAULT_TABLE, metavar="FILE")
    parser.add_argument("--test_scene", default="5")
    parser.add_argument("--pixels", type=positive, default=400000, help="learned from")
    parser.add_argument("--seed", type=natural, default=0)
    args = parser.parse_args()

    table = read_classes(args.classes)
    scenes = find_scenes(args.origin)
    test = choose_scenes(scenes, [args.test_scene], args.origin)[0]
    train = [read_scene(scene, table) for scene in scenes.values() if scene != test]
    image, label = read_scene(test, table)
    iou = score_colour_alone(train, (image, label), len(table), args.pixels, args.seed)

    share = np.bincount(label[label != IGNORE], minlength=len(table)) / (label != IGNORE).sum()
    print(f"{args.origin}: {args.pixels} pixels of {len(train)} scenes learned, scene "
          f"{args.test_scene} ({label.shape[0]} x {label.shape[1]}) classified by colour alone")
    print(pd.DataFrame({"share": share, "IoU": iou}, index=table.names).round(3).to_string())
    print(f"mean-IoU {np.nanmean(iou):.3f}")


if __name__ == "__main__":
    run_script(main)
