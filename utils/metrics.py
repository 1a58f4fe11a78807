"""How well a class map agrees with its label: confusion matrix, IoU, accuracy.

    python -m utils.metrics --label L.png --prediction P.png
    python -m utils.metrics --label 'tiles/*_mask.png' --prediction 'predictions/*_class.png'
"""

import contextlib
import os
import sys

import numpy as np
import pandas as pd

from utils.classes import DEFAULT_TABLE, IGNORE, read_classes
from utils.cli import error_line, error_of, plain_parser, run_script
from utils.files import write_text
from utils.data.polygons import (LabelOptions, MaskedLabel, PolygonLabel, add_label_flags,
                                 is_polygons, open_area)
from utils.data.label import Label, check_same_place
from utils.data.scenes import paired_files

# The joint histogram of so many pixels is taken at a time; more only costs memory.
PIXELS_AT_ONCE = 1 << 22
# Rows of two files that are compared at a time.
ROWS_AT_ONCE = 512
# Scenes that the screen shows, the worst where there are more; the CSV has all.
SHOWN_SCENES = 10
NAMED_FAILURES = 5


def confusion_matrix(label, prediction, num_classes):
    """Counts of pixels, int64 [classes, classes]: rows are the label, columns the prediction.

    label, prediction: uint8 ids of one shape. A pixel that is 255 in either (ignored, or nodata in
    the prediction) does not count. Matrices of parts of a scene add up to the scene's. Raises
    ValueError where the shapes differ or another value is no class id.
    """
    label, prediction = np.asarray(label), np.asarray(prediction)
    if label.shape != prediction.shape:
        raise ValueError(f"the label is {_size(label)} pixels and the prediction "
                         f"{_size(prediction)}; only maps of the same size can be scored")
    if label.dtype != np.uint8 or prediction.dtype != np.uint8:
        raise ValueError(f"maps to be scored hold uint8 ids, not {label.dtype}, {prediction.dtype}")
    label, prediction = label.ravel(), prediction.ravel()
    counts = np.zeros(256 * 256, np.int64)
    for start in range(0, label.size, PIXELS_AT_ONCE):
        part = slice(start, start + PIXELS_AT_ONCE)
        counts += np.bincount(label[part].astype(np.uint16) << 8 | prediction[part],
                              minlength=counts.size)
    counts = counts.reshape(256, 256)
    for name, present in (("label", counts.sum(1)), ("prediction", counts.sum(0))):
        unknown = np.flatnonzero(present[num_classes:IGNORE]) + num_classes
        if unknown.size:
            raise ValueError(f"value {unknown[0]} in the {name} is not one of the {num_classes} "
                             f"classes (0 to {num_classes - 1}, or {IGNORE} for ignore)")
    return counts[:num_classes, :num_classes].copy()


def intersection_over_union(matrix):
    """float64 [classes]; NaN for a class that is absent from both maps."""
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return share_of(np.diag(matrix), union)


def mean_iou(matrix):
    """Mean over the classes present in either map; NaN where no pixel is valid."""
    iou = intersection_over_union(matrix)
    return float(np.nanmean(iou)) if matrix.any() else float("nan")


def accuracy(matrix):
    """Share of the valid pixels whose class is right; NaN where none is valid."""
    return float(share_of(np.trace(matrix), matrix.sum()))


def precision(matrix):
    """float64 [classes]: share of a class's predicted pixels that are right; NaN if none is."""
    return share_of(np.diag(matrix), matrix.sum(0))


def recall(matrix):
    """float64 [classes]: share of a class's labelled pixels that were found; NaN if none is."""
    return share_of(np.diag(matrix), matrix.sum(1))


def score_table(matrix, table):
    """DataFrame with a row for each class and a last row 'all', which holds mean-IoU and accuracy.

    An IoU of NaN marks a class absent from both maps; the mean leaves it out.
    """
    scores = pd.DataFrame({
        "IoU": intersection_over_union(matrix), "precision": precision(matrix),
        "recall": recall(matrix), "accuracy": np.nan,
        "label_pixels": matrix.sum(1), "predicted_pixels": matrix.sum(0),
    }, index=pd.Index(table.names, name="class"))
    total = pd.DataFrame({
        "IoU": mean_iou(matrix), "precision": np.nan, "recall": np.nan,
        "accuracy": accuracy(matrix), "label_pixels": matrix.sum(), "predicted_pixels": matrix.sum()
    }, index=pd.Index(["all"], name="class"))
    return pd.concat([scores, total])


def format_scores(scores):
    """The table of `score_table` as text for the screen; mean-IoU and accuracy stand below it."""
    classes, total = scores.iloc[:-1].drop(columns="accuracy"), scores.iloc[-1]
    for column, missing in (("IoU", "absent"), ("precision", "-"), ("recall", "-")):
        classes[column] = [missing if np.isnan(value) else f"{value:.4f}"
                           for value in classes[column]]
    return (f"{classes.to_string()}\nmean-IoU {total['IoU']:.4f}, accuracy "
            f"{total['accuracy']:.4f} ({int(total['label_pixels']):,} pixels)")


def pool(matrices, table):
    """(scores by scene, pooled scores): DataFrames, the second of `score_table`.

    matrices: {scene: confusion matrix, or None for one that failed}. The pooled scores are those
    of the sum of the matrices: every valid pixel counts the same, in whichever scene it lies. A
    scene that failed has a row without scores, and is in no sum.
    """
    rows = []
    for scene, matrix in matrices.items():
        row = {"scene": scene, "state": "failed"}
        if matrix is not None:
            iou = intersection_over_union(matrix)
            row |= {"state": "scored", "mean-IoU": mean_iou(matrix), "accuracy": accuracy(matrix),
                    "pixels": matrix.sum()} | {
                        f"IoU {name}": value for name, value in zip(table.names, iou)}
        rows.append(row)
    columns = ["scene", "state", "mean-IoU", "accuracy", "pixels",
               *(f"IoU {name}" for name in table.names)]
    by_scene = pd.DataFrame(rows, columns=columns).astype({"pixels": "Int64"})
    scored = [matrix for matrix in matrices.values() if matrix is not None]
    total = sum(scored, np.zeros((len(table), len(table)), np.int64))
    return by_scene.set_index("scene"), score_table(total, table)


def format_pooled(by_scene, scores):
    """Both tables of `pool` as text for the screen: of many scenes the worst, failures first."""
    failed, shown = by_scene["state"] != "scored", by_scene
    title = "scores by scene"
    if len(by_scene) > SHOWN_SCENES:
        title += f", the {SHOWN_SCENES} worst of {len(by_scene)}"
        shown = by_scene.assign(scored=~failed).sort_values(["scored", "mean-IoU"], kind="stable")
        shown = shown.head(SHOWN_SCENES)
    shown = shown[["state", "mean-IoU", "accuracy", "pixels"]]
    text = shown.to_string(na_rep="-", float_format="{:.4f}".format)
    return (f"{title}:\n{text}\n{pooled_over(len(by_scene), by_scene.index[failed].tolist())}:\n"
            f"{format_scores(scores)}")


def pooled_over(count, failed):
    """What pooled scores are of: a line without its end. failed: names of those of `count` scenes
    that are left out."""
    names = ", ".join(failed[:NAMED_FAILURES])
    more = len(failed) - NAMED_FAILURES
    return (f"pooled over the valid pixels of {count - len(failed)} of {count} scenes"
            + (f"; failed and left out: {names}" if failed else "")
            + (f" and {more} more" if more > 0 else ""))


def share_of(part, whole):
    """part / whole in float64, NaN where whole is 0."""
    with np.errstate(invalid="ignore"):
        return np.asarray(part, np.float64) / np.asarray(whole, np.float64)


def _size(labels):
    return " x ".join(map(str, labels.shape))


def confusion_of_files(label_path, prediction_path, table, options=LabelOptions()):
    """The confusion matrix of two files of ids or colours, the label's also of polygons. Raises
    ValueError, OSError."""
    matrix = np.zeros((len(table), len(table)), np.int64)
    with contextlib.ExitStack() as stack:
        prediction = stack.enter_context(Label(prediction_path, table.of_maps()))
        if is_polygons(label_path):
            label = PolygonLabel(label_path, prediction, table, options)
        else:
            label = stack.enter_context(Label(label_path, table))
            size, other = (f"{one.height} x {one.width}" for one in (label, prediction))
            if size != other:
                raise ValueError(f"{prediction_path}: {other} pixels (height x width), but "
                                 f"{label_path} has {size}; give two maps of one scene")
            check_same_place(label, prediction)
        area = open_area(prediction, options)
        label = MaskedLabel(label, [area]) if area else label
        for top in range(0, label.height, ROWS_AT_ONCE):
            window = top, 0, min(ROWS_AT_ONCE, label.height - top), label.width
            matrix += confusion_matrix(label.read(*window), prediction.read(*window), len(table))
    return matrix


def main():
    parser = plain_parser(__doc__)
    parser.add_argument("--label", required=True, nargs="+", metavar="FILE",
        help="class ids, colours or polygons; of several scenes as files or patterns "
        "('a/*_mask.png')")
    parser.add_argument("--prediction", required=True, nargs="+", metavar="FILE",
        help="class ids or colours; one for each of --label, or a pattern whose star stands for "
        "that of --label ('b/*_class.png')")
    add_label_flags(parser.add_argument)
    parser.add_argument("--classes", default=DEFAULT_TABLE, metavar="FILE", help="class table")
    parser.add_argument("--csv", default=None, metavar="FILE",
        help="also save the table here and, of several scenes, that by scene as FILE_by_scene.csv")
    arguments = parser.parse_args()

    table = read_classes(arguments.classes)
    pairs = paired_files(arguments.label, arguments.prediction, ("--label", "--prediction"))
    matrices, errors = {}, []
    for label, prediction in pairs.items():
        try:
            matrices[label] = confusion_of_files(label, prediction, table,
                                                 LabelOptions.of(arguments))
        except Exception as error:
            error = error_of(prediction, error)
            if len(pairs) == 1:
                raise error
            matrices[label] = None
            errors.append(error_line(error))
    by_scene, scores = pool(matrices, table)
    print(format_pooled(by_scene, scores) if len(pairs) > 1 else format_scores(scores))
    if arguments.csv and len(errors) < len(pairs):
        write_text(arguments.csv, scores.to_csv())
        if len(pairs) > 1:
            stem, extension = os.path.splitext(arguments.csv)
            write_text(f"{stem}_by_scene{extension}", by_scene.to_csv())
    for line in errors:
        print(line, file=sys.stderr)
    return 2 if errors else 0


if __name__ == "__main__":
    run_script(main)
