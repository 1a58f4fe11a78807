"""benchmarks/quality.py: shared forward passes give predict.py's maps; models are pooled."""

import numpy as np
from sklearn.metrics import jaccard_score

from benchmarks.quality import WAYS, count_scene, excess_of, map_all_ways, pool, side_by_side
from benchmarks.seams import excess_at_borders
from utils.inference.sliding_window import InferenceOptions, predict_strips, turned_copies
from utils.metrics import mean_iou

WINDOW = 64


def _scene(height, width, seed):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def _directed(images):
    """Not symmetric: a pixel's answer is its upper neighbour's, the less the lower it lies."""
    values = np.roll(images / np.float32(255), 1, 1)
    return values * np.linspace(1, .2, len(values[0]), dtype=np.float32)[:, None, None] ** [0, 1, 2]


def _counts(seed):
    image, label = _scene(150, 170, seed), _scene(150, 170, seed + 1)[..., 0] % 3
    maps = map_all_ways(image, _directed, WINDOW, 5, range(0, WINDOW, 16))
    return image, label, maps, count_scene(maps, label, WINDOW, 3)


def test_maps_are_those_of_predict():
    image, label, maps, counts = _counts(0)

    def read(top, left, height, width):
        return image[top:top + height, left:left + width]

    calls = {}
    for way, (overlap, blend, rotations) in WAYS.items():
        calls[way] = 0

        def predict(images):
            calls[way] += len(images) * turned_copies(rotations)
            turns = range(0, 4, 4 // turned_copies(rotations))
            return np.mean([np.rot90(_directed(np.rot90(images, turn, (1, 2))), -turn, (1, 2))
                            for turn in turns], 0)

        options = InferenceOptions(WINDOW, overlap, blend, 1, rotations)
        strips = [strip for _, strip in predict_strips(read, 150, 170, predict, options)]
        expected = np.concatenate(strips).argmax(-1)
        assert (maps[way][0][1] != expected).mean() < 1e-3  # ties
        assert counts[way].evaluated == calls[way] * WINDOW ** 2
    assert len({maps[way][0][1].tobytes() for way in WAYS}) == len(WAYS)


def test_scenes_and_models_are_pooled():
    scenes = [_counts(seed) for seed in (0, 2, 4)]
    first, second = pool([scenes[0][3]["woven, root cosine"], scenes[1][3]["woven, root cosine"]]), scenes[2][3]["woven, root cosine"]
    both = side_by_side([first, second])
    shares = []
    for part in (scenes[:2], scenes[2:]):
        labels = np.concatenate([label.ravel() for _, label, _, _ in part])
        classes = np.concatenate([maps["woven, root cosine"][0][1].ravel() for _, _, maps, _ in part])
        shares += jaccard_score(labels, classes, average=None).tolist()
    assert mean_iou(both.matrix) == np.mean(shares)
    assert both.pixels == 3 * 150 * 170 and both.matrix.sum() == both.pixels
    # A model with fewer grids changes nothing in the lines of another.
    changes, distances = first.lines[0]
    alone = excess_at_borders(changes, distances, np.random.default_rng(0))[0]
    none = np.zeros((4, changes.shape[1] + 3)), np.full((4, changes.shape[1] + 3), 1)
    assert excess_of([first.lines[0], none], np.random.default_rng(0))[0] == alone
