"""Class maps of whole scenes from a trained run, with scores where there is a label.

    python predict.py --run NAME --image scene.tif --label scene_class.tif
    python predict.py --run NAME --image a.tif b.tif 'archive/*.tif' --part 3/16
    python predict.py --run NAME --export DIR
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import contextlib
import os
import sys
import time

import numpy as np
import tensorflow.compat.v1 as tf

from utils.classes import read_classes
from utils.cli import (TEST_SCENE, argument_parser, error_line, leave_on_signals, part_of,
                                positive, progress, run_script, scale, share)
from utils.inference.compare import compare_methods, compared_methods
from utils.files import write_text
from utils.inference.predictor import (Method, build_predictors, export_model,
                             predict_classes)
from utils.inference.map_writer import map_paths, writing_map
from utils.metrics import confusion_matrix, format_scores, score_table
from utils.inference.visualise import confusion_picture
from utils.data.rasters import RGB, TIFF, Image, Label
from utils.training.checkpoints import BEST, LATEST, OLD_LATEST, Checkpoints, restore_model
from utils.training.run import RunSettings, find_run
from utils.data.scenes import check_same_size, held_out_scene, scenes_of, write_png
from utils.inference.sliding_window import BLENDS

# Rows of a label that are checked at a time.
CHECKED_ROWS = 512


def parse_arguments(arguments=None):
    parser = argument_parser("Map the classes of scenes with a trained run.")
    parser.set_defaults(classes=None, test_scene=None)  # the run knows its own
    add = parser.add_argument
    add("--logs", default="logs", metavar="FOLDER", help="where the runs are")
    add("--run", default=None, help="name of the run; None means the latest")
    add("--checkpoint", choices=(BEST, LATEST), default=BEST,
        type=lambda name: LATEST if name == OLD_LATEST else name,
        help="the run's best on its validation tiles, or its latest")
    add("--image", default=None, nargs="+", metavar="FILE",
        help="scenes to map, also as patterns ('folder/*.tif', which leave labels out); None means "
        "--test_scene, from --origin or, where it is not, from test/ in --dataset")
    add("--label", default=None, metavar="FILE",
        help="label of a single --image, as class ids or colours, to score the map against")
    add("--out", default="predictions", metavar="FOLDER", help="for the results")
    add("--overwrite", action="store_true", help="map scenes again whose map is complete")
    add("--part", type=part_of, default=(1, 1), metavar="K/N",
        help="every N-th of the scenes from the K-th on, for a job array")
    add("--probabilities", action="store_true",
        help="also write a band a class: 0 to 254 for probabilities of 0 to 1, 255 for nodata")
    add("--bands", type=positive, nargs="+", default=None, metavar="BAND",
        help="bands of a scene that stand for those the run was trained on, in their order; None "
        "means the run's own numbers, or 1 2 3. Samples of other than 8 bits are stretched, from "
        "the run's limits where it has some for these bands, otherwise from the 2nd to the 98th "
        "percentile of the scene itself")
    add("--window", type=positive, default=None, metavar="PIXELS",
        help="side of a window; None means the size that the run was trained on")
    add("--overlap", type=share, default=0.5,
        help="share of a window that the next one covers again, from 0 to below 1")
    add("--blend", choices=BLENDS, default="cosine",
        help="weight of overlapping windows; none gives a pixel to the first one")
    add("--batch_size", type=positive, default=4,
        help="windows per call; their turned copies come on top")
    add("--rotations", type=int, choices=(1, 2, 4), default=4,
        help="copies of a window, turned by equal angles, to average over")
    add("--flips", action="store_true", help="average over mirrored copies too")
    add("--scales", type=scale, nargs="+", default=[1.0],
        help="average over copies of a window of these relative sizes")
    add("--precision", choices=("float32", "bfloat16"), default="float32",
        help="of the convolutions")
    add("--compare", action="store_true",
        help="score single pass, blending, scales, rotations and all of them side by side")
    add("--export", default=None, metavar="FOLDER",
        help="write the run's model as a SavedModel to this new folder, and map nothing")
    return parser.parse_args(arguments)


def main():
    arguments = parse_arguments()
    leave_on_signals()
    run = find_run(arguments.logs, arguments.run)
    settings = RunSettings.read(run)
    table = choose_table(settings, arguments.classes)
    check_bands(run, settings, arguments.bands)
    checkpoint, step = Checkpoints(run, arguments.checkpoint).find()
    source = {"run": os.path.basename(run), "step": str(step)}
    if arguments.export is not None:
        export_model(arguments.export, checkpoint, settings, arguments.precision)
        print(f"written: {arguments.export} (run {source['run']}, step {step}); it takes images of "
              f"bands {' '.join(map(str, settings.bands or ('red, green, blue',)))}")
        return 0

    scenes = find_scenes_to_map(arguments, settings)
    if arguments.compare and not all(scene.label_path for scene in scenes):
        raise ValueError(f"{scenes[0].image_path}: --compare needs a label; give it with --label")
    check_output_folder(arguments.out, scenes)
    todo = scenes[arguments.part[0] - 1::arguments.part[1]]
    if not arguments.compare and not arguments.overwrite:
        todo = [scene for scene in todo if not is_complete(arguments, scene)]
    if not todo:
        return 0
    methods = [chosen_method(arguments)]
    if arguments.compare:
        methods = compared_methods(methods[0])
    window = arguments.window or settings.crop_size
    print(f"run {source['run']}, step {step}; {len(todo)} scene(s); windows of {window}, "
          f"{arguments.batch_size} a call")
    errors = []
    with contextlib.ExitStack() as stack:
        predictors = None
        for scene in todo:
            try:
                with open_scene(scene, arguments, settings, table) as (image, label):
                    # After the first scene's checks, so that a mistake shows at once.
                    predictors = predictors or load_predictors(
                        stack, settings, window, arguments.precision, methods, checkpoint)
                    if arguments.compare:
                        print(describe(scene, image))
                        comparison = compare_methods(image, label, methods, predictors, window,
                                                     arguments.batch_size, len(table))
                        write_comparison(arguments.out, scene.name, comparison)
                    else:
                        map_scene(arguments, scene, image, label, window, methods[0],
                                  predictors[0], table, source)
            except (ValueError, OSError) as error:
                if len(scenes) == 1:
                    raise
                errors.append(error_line(error))
                print(f"{scene.name}: failed; see the end")
    for line in errors:
        print(line, file=sys.stderr)
    return 2 if errors else 0


def check_bands(run, settings, bands):
    """Raises ValueError where --bands gives the model of the run more or fewer than it takes."""
    trained = settings.model.in_channels
    if bands and len(bands) != trained:
        raise ValueError(f"--bands {' '.join(map(str, bands))}: {len(bands)} band(s), but {run} "
                         f"was trained on {trained}; name as many")


def load_predictors(stack, settings, window, precision, methods, checkpoint):
    """The functions of `build_predictors` with the trained weights; `stack` ends their session."""
    stack.enter_context(tf.Graph().as_default())
    session = stack.enter_context(tf.Session())
    predictors = build_predictors(session, settings.model, window, precision, methods)
    restore_model(session, checkpoint)
    return predictors


def chosen_method(arguments):
    return Method("map", arguments.overlap, arguments.blend, arguments.rotations, arguments.flips,
                  tuple(arguments.scales))


def map_scene(arguments, scene, image, label, window, method, predict, table, source):
    """Writes the scene's map and pictures and, with a label, its scores, from the top down."""
    paths = output_paths(arguments, scene)
    print(describe(scene, image))
    matrix = np.zeros((len(table), len(table)), np.int64)
    started = time.perf_counter()
    with (progress(image.height, "row", scene.name) as bar,
          writing_map(paths, image, table, source | input_tags(image)) as write,
          contextlib.closing(predict_classes(image, predict, window, arguments.batch_size,
                                             method)) as bands):
        for top, classes, probabilities in bands:
            write(top, classes, probabilities)
            if label:
                matrix += confusion_matrix(label.read(top, 0, *classes.shape), classes, len(table))
            bar.update(len(classes))
        seconds = time.perf_counter() - started
        if label:
            scores = score_table(matrix, table)
            write_png(paths["confusion"], confusion_picture(matrix, table))
            write_text(paths["scores"], scores.to_csv())
    if label:
        print(format_scores(scores))
    print(f"{seconds:.1f} s, {megapixels(image) / seconds:.3f} megapixels/s, optimising the graph "
          "included")
    print("written: " + ", ".join(paths.values()))


def write_comparison(folder, name, comparison):
    """Prints the methods side by side and saves them as <folder>/<name>_compare.csv."""
    print(comparison.round({"mean-IoU": 4, "accuracy": 4, "boundary F1": 4, "seconds": 1,
                            "megapixels/s": 3}).to_string())
    path = os.path.join(folder, f"{name}_compare.csv")
    write_text(path, comparison.to_csv())
    print(f"written: {path}")


@contextlib.contextmanager
def open_scene(scene, arguments, settings, table):
    """Gives (Image, Label or None), after checks that would be a pity to fail half-way."""
    bands = tuple(arguments.bands or settings.bands or RGB)
    stretch = settings.stretch if bands == tuple(settings.bands or RGB) else None
    with contextlib.ExitStack() as stack:
        image = stack.enter_context(Image(scene.image_path, bands, stretch))
        label = scene.label_path and stack.enter_context(Label(scene.label_path, table))
        if label:
            check_same_size(scene, (image.height, image.width), (label.height, label.width))
            for top in range(0, label.height, CHECKED_ROWS):
                label.read(top, 0, min(CHECKED_ROWS, label.height - top), label.width)
        yield image, label


def input_tags(image):
    """How the scene's samples became the model's input, for the map's file."""
    tags = {"bands": " ".join(map(str, image.chosen_bands))}
    if image.stretch is not None:
        tags["stretch"] = ", ".join(f"{low:g} {high:g}" for low, high in image.stretch)
    return tags


def describe(scene, image):
    stretch = input_tags(image).get("stretch")
    return (f"{scene.name}: {image.height} x {image.width} pixels"
            + (f", {image.dtype} stretched from {stretch}" if stretch else ""))


def find_scenes_to_map(arguments, settings):
    """The scenes that --image names, or the one that the run held out, from the data's folders."""
    if arguments.image:
        return scenes_of(arguments.image, arguments.label)
    if arguments.label:
        raise ValueError(f"{arguments.label}: --label goes with --image; a scene of --origin has "
                         "its label beside it")
    folders = [arguments.origin or os.path.join(arguments.dataset, "origin")]
    if not arguments.origin:
        folders.append(os.path.join(arguments.dataset, "test"))
    return [held_out_scene(folders, arguments.test_scene or settings.test_scene or TEST_SCENE)]


def output_paths(arguments, scene):
    return map_paths(arguments.out, scene.name, scene.image_path.lower().endswith(TIFF),
                     arguments.probabilities, scores=scene.label_path is not None)


def is_complete(arguments, scene):
    """True, and says so, where an earlier call has written all that this one would."""
    paths = output_paths(arguments, scene)
    complete = all(map(os.path.exists, paths.values()))
    if complete:
        print(f"{scene.name}: {paths['class']} is there already; --overwrite maps it again")
    return complete


def choose_table(settings, path):
    """The run's class table, or another of the same length from `path`."""
    table = settings.classes
    if path is None:
        return table
    other = read_classes(path)
    if len(other) != len(table):
        raise ValueError(f"{path}: {len(other)} classes, but the run was trained on {len(table)}: "
                         f"{', '.join(table.names)}")
    return other


def check_output_folder(folder, scenes):
    """Fails now rather than after the work; and never lets a map replace a scene's label."""
    inputs = {os.path.realpath(os.path.dirname(path)) for scene in scenes
              for path in (scene.image_path, scene.label_path) if path}
    if os.path.realpath(folder) in inputs:
        raise ValueError(f"{folder}: a scene or its label is in that folder, and the label could "
                         "be replaced by the map; choose another folder with --out")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise OSError(f"{folder}: could not be made ({error.strerror}); choose another folder with "
                      "--out") from None
    if not os.access(folder, os.W_OK):
        raise OSError(f"{folder}: not writable; choose another folder with --out")


def megapixels(image):
    return image.height * image.width / 1e6


if __name__ == "__main__":
    run_script(main)
