"""The runs in a folder side by side: what `train.py --list` prints."""

import os
import time

import pandas as pd
import tensorflow.compat.v1 as tf

from utils.training.checkpoints import BEST, LATEST, OLD_LATEST, Checkpoints
from utils.training.run import SETTINGS, BestScore, RunSettings, run_names

COLUMNS = ("run", "backbone", "seed", "step", "of", "best_step", "validation", "held_out", "saved",
           "state")


def list_runs(logs):
    """DataFrame with a row for each run in `logs`, the best first, damaged ones last.

    validation, held_out: mean-IoU of the best checkpoint, NaN where unknown. saved: when the latest
    checkpoint was written. state: 'done', 'unfinished', or what is damaged.
    """
    rows = []
    # With checkpoints and without settings it is a run too, a damaged one.
    for name in run_names(logs, (SETTINGS, LATEST, OLD_LATEST, BEST)):
        run = os.path.join(logs, name)
        try:
            rows.append({"run": name, **_describe(run)})
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = str(error).removeprefix(run + os.sep).split(";")[0].split(" (")[0]
            rows.append({"run": name, "state": f"damaged: {reason}"})
    # As objects, since a column with gaps would be float64, which does not hold every seed.
    table = pd.DataFrame(rows, columns=COLUMNS, dtype=object)
    for column in ("seed", "step", "of", "best_step"):
        table[column] = table[column].astype("Int64")
    for column in ("validation", "held_out"):
        table[column] = table[column].astype(float)
    damaged = table["state"].str.startswith("damaged", na=False)
    return table.assign(damaged=damaged).sort_values(
        ["damaged", "validation"], ascending=[True, False], kind="stable",
        ignore_index=True).drop(columns="damaged")


def format_runs(logs):
    """The table of `list_runs` as text, or a line that says there are none."""
    table = list_runs(logs)
    if table.empty:
        return f"{logs}: no runs there; 'python train.py' makes one, or say where with --logs"
    return table.astype(object).where(table.notna(), float("nan")).to_string(
        index=False, na_rep="-", float_format="{:.4f}".format)


def _describe(run):
    settings = RunSettings.read(run)
    recipe = settings.recipe
    row = {"backbone": settings.model.backbone, "seed": int(recipe["seed"]),
           "step": 0, "of": int(recipe["steps"]), "state": "unfinished"}
    latest = Checkpoints(run, LATEST)
    if latest.exist:
        path, row["step"] = latest.find()
        try:
            tf.train.list_variables(path)
        except tf.errors.OpError as error:
            raise ValueError(f"{path}: {error.message}") from None
        row["saved"] = time.strftime("%Y-%m-%d %H:%M", time.localtime(
            os.path.getmtime(path + ".index")))
    best = BestScore.read(run)
    if best:
        row |= {"best_step": best.step, "validation": best.mean_iou,
                "held_out": best.held_out_mean_iou}
    if row["step"] >= row["of"]:
        row["state"] = "done"
    return row
