"""The scores of mapped scenes: kept beside each map, and pooled over all of them."""

import json
import os
from typing import NamedTuple

import numpy as np

from utils.data.scenes import write_png
from utils.files import write_text
from utils.inference.visualise import confusion_picture
from utils.metrics import format_pooled, pool, pooled_over, score_table


class SceneScore(NamedTuple):
    """What the pool needs of a scene: int64 [classes, classes], and which weights made the map."""

    matrix: np.ndarray
    run: str
    step: str


def write_scene_score(paths, score, table):
    """Writes the files 'confusion', 'scores' and 'matrix' of `map_paths`; returns the scores."""
    scores = score_table(score.matrix, table)
    write_png(paths["confusion"], confusion_picture(score.matrix, table))
    write_text(paths["scores"], scores.to_csv())
    write_text(paths["matrix"], json.dumps({
        "run": score.run, "step": score.step, "classes": list(table.names),
        "matrix": score.matrix.tolist()}) + "\n")
    return scores


def read_scene_score(path, table):
    """The SceneScore that `write_scene_score` wrote. Raises OSError, ValueError naming the file."""
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        classes, run, step = values["classes"], values["run"], values["step"]
        matrix = np.array(values["matrix"], np.int64)
        if matrix.shape != (len(classes), len(classes)):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: damaged; --overwrite maps and scores the scene again") from None
    if classes != list(table.names):
        raise ValueError(f"{path}: of a map of other classes ({', '.join(classes)}) than this "
                         "run's; choose another --out, or map the scene again with --overwrite")
    return SceneScore(matrix, run, step)


def report_pooled(folder, ending, scene_scores, table):
    """Prints and saves scores by scene and pooled: <folder>/scores_by_scene.csv and scores.csv.

    ending: of both names, before '.csv'. scene_scores: {scene: SceneScore, or None for one that
    failed}. Where all failed, earlier files stay as they are.
    """
    if not any(scene_scores.values()):
        print(f"{pooled_over(len(scene_scores), [*scene_scores])}:")
        return
    by_scene, scores = pool({name: score and score.matrix for name, score in scene_scores.items()},
                            table)
    for column in ("run", "step"):
        by_scene[column] = [score and getattr(score, column) for score in scene_scores.values()]
    print(format_pooled(by_scene, scores))
    runs = by_scene[["run", "step"]].dropna().value_counts(sort=False)
    if len(runs) > 1:
        print("these maps are not of one model: " + ", ".join(
            f"{count} of run {run}, step {step}" for (run, step), count in runs.items())
              + "; --overwrite maps all with the same")
    paths = {name: os.path.join(folder, f"{name}{ending}.csv")
             for name in ("scores_by_scene", "scores")}
    write_text(paths["scores_by_scene"], by_scene.to_csv())
    write_text(paths["scores"], scores.to_csv())
    print("written: " + ", ".join(paths.values()))
