"""Class maps of whole scenes from a trained run, with scores where there is a label.

    python predict.py --run NAME --image scene.tif --label scene_class.tif
    python predict.py --run NAME --image a.tif b.tif 'archive/*.tif' --part 3/16
    python predict.py --run NAME --image 'tiles/*_sat.jpg' --label 'tiles/*_mask.png'
    python predict.py --run NAME --export DIR
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import contextlib
import os
import sys
import time
from dataclasses import replace

import numpy as np

from utils.cli import (argument_parser, counted, error_line, error_of, leave_on_signals,
                       part_of, positive, progress, run_script, scale, share, side)
from utils.data.gdal_files import maps_to_geotiff
from utils.data.pixel_size import add_pixel_size_flags, choose_resample, warn_of_other_gsd
from utils.data.polygons import LabelOptions, add_label_flags
from utils.data.tiles import read_label_options
from utils.idle_flags import PREDICT, tell_idle_flags
from utils.inference.compare import (compare_options, compared_options, report_pooled_comparison,
                                     write_comparison)
from utils.inference.area_table import ClassAreas
from utils.inference.export import export_model, model_facts
from utils.inference.export_onnx import export_onnx
from utils.inference.map_files import (check_output_folder, describe, find_complete, input_tags,
                                       map_paths)
from utils.inference.map_form import add_form_flags, check_form, form_of
from utils.inference.map_writer import writing_map
from utils.inference.predictor import open_predictors, predict_classes
from utils.inference.quality import IMAGES_A_CALL, QUALITIES, options_of, parse_with_quality
from utils.inference.scene_scores import (SceneScore, read_scene_score, report_pooled,
                                          write_scene_score)
from utils.inference.scenes_to_map import check_bands, find_scenes_to_map, open_scene
from utils.inference.sliding_window import BLENDS, ROTATIONS
from utils.metrics import confusion_matrix, format_scores
from utils.precision import AUTO, FLOAT32, PRECISION_FLAG, precision_of_inference
from utils.training.checkpoints import BEST, LATEST, OLD_LATEST, Checkpoints
from utils.training.run import RunSettings, find_run, read_starts

SCENES_IN_DETAIL = 4  # more of them in one call are told in a line each


def parse_arguments(arguments=None):
    """The checked flags, of the command line or of a list of strings."""
    parser = argument_parser(__doc__, seeded=False)
    parser.set_defaults(classes=None, test_scene=None)  # the run knows its own
    add = parser.add_argument_group("run").add_argument
    add("--logs", default="logs", metavar="FOLDER", help="where the runs are")
    add("--run", help="name of the run; by default the one that saved a checkpoint last")
    add("--checkpoint", choices=(BEST, LATEST), default=BEST,
        type=lambda name: LATEST if name == OLD_LATEST else name,
        help="the run's best on its validation tiles, or its latest")
    add("--export", metavar="FOLDER",
        help="write the run's model as a SavedModel to this new folder, and map nothing")
    add("--export_onnx", metavar="FILE",
        help="write it as an ONNX model for the QGIS plugin Deepness, and map nothing; needs the "
        "packages tf2onnx and onnx")

    add = parser.add_argument_group("scenes").add_argument
    add("--image", nargs="+", metavar="FILE",
        help="scenes to map, also as patterns ('folder/*.tif', which leave labels out) and on "
        "servers (https://, s3://, /vsi...); by default --test_scene, from --origin or, where it "
        "is not, from test/ in --dataset")
    add("--label", nargs="+", default=(), metavar="FILE",
        help="labels of --image, as class ids, colours or polygons, to score the maps against: one "
        "for each, or a pattern whose star stands for that of --image ('tiles/*_mask.png')")
    add_label_flags(add)
    add("--bands", type=positive, nargs="+", metavar="BAND",
        help="bands of a scene that stand for those the run was trained on, in their order; by "
        "default the run's own numbers, or 1 2 3. Samples of other than 8 bits are stretched, from "
        "the run's limits where it has some for these bands, otherwise from the 2nd to the 98th "
        "percentile of the scene itself")
    add("--part", type=part_of, default=(1, 1), metavar="K/N",
        help="every N-th of the scenes from the K-th on, for a job array; the same call without it "
        "then pools the scores of all parts")

    add_pixel_size_flags(parser)
    add = parser.add_argument_group("map").add_argument
    add("--window", type=side, metavar="PIXELS",
        help="side of a window; by default the size that the run was trained on")
    add("--quality", choices=QUALITIES, default="default",
        help="sets --overlap and --rotations together, where they are not given: "
        + "; ".join(f"{name} {values['overlap']} and {values['rotations']}"
                    for name, values in QUALITIES.items()))
    add("--overlap", type=share,
        help="share of a window that the next one covers again, from 0 to below 1")
    add("--blend", choices=BLENDS, default="cosine",
        help="weight of overlapping windows; none gives a pixel to the first one; tukey, for woven "
        "turns, gains a little and leaves slight seams")
    add("--batch_size", type=positive,
        help="windows per call, at most; their turned copies come on top; by default as "
        f"many as make {IMAGES_A_CALL} with these")
    add("--rotations", choices=ROTATIONS, type=lambda text: int(text) if text.isdigit() else text,
        help="copies of a window, turned by equal angles, to average over; woven computes each "
        "window in one of four turns only, so that at overlap .5 a pixel still has all four")
    add("--flips", action="store_true", help="average over mirrored copies too")
    add("--scales", type=scale, nargs="+", default=[1.0],
        help="average over copies of a window of these relative sizes")
    add("--precision", **PRECISION_FLAG,
        help="of the convolutions; auto: on the machine that trained the run that of the training, "
        "elsewhere the faster in a trial or, where there is little to map, float32")

    add = parser.add_argument_group("output").add_argument
    add("--out", default="predictions", metavar="FOLDER", help="for the results")
    add("--overwrite", action="store_true", help="map scenes again whose map is complete")
    add_form_flags(add)
    add("--compare", action="store_true",
        help="score single pass, blending, woven turns, scales, rotations and all of them side by "
        "side")
    args = parse_with_quality(parser, arguments)
    tell_idle_flags(parser, args, PREDICT)
    return args


def main(arguments=None, open_predictors=open_predictors):
    """arguments: list of strings; None for the command line. Returns the exit status."""
    args = parse_arguments(arguments)
    leave_on_signals()
    run = find_run(args.logs, args.run)
    settings = RunSettings.read(run)
    form = form_of(args)
    table = settings.class_table(args.classes)
    check_bands(run, settings, args.bands)
    checkpoint, step = Checkpoints(run, args.checkpoint).find()
    source = {"run": os.path.basename(run), "step": str(step)}
    options = options_of(args, settings.crop_size)
    exported = [path for path in (args.export, args.export_onnx) if path is not None]
    if exported:
        facts = model_facts(run, settings, args.checkpoint, step)
        if args.export is not None:  # on which machine it will run is not known here
            export_model(args.export, checkpoint, settings,
                         FLOAT32 if args.precision == AUTO else args.precision, facts)
        if args.export_onnx is not None:
            export_onnx(args.export_onnx, checkpoint, settings, options, facts)
        print(f"written: {', '.join(exported)} (run {source['run']}, step {step}); it takes images "
              f"of bands {' '.join(map(str, settings.bands or ('red, green, blue',)))}")
        return 0

    scenes = find_scenes_to_map(args, settings)
    reading = LabelOptions.of(args, None if args.image else read_label_options(args.dataset))
    unlabelled = [scene.image_path for scene in scenes if not scene.label_path]
    if args.compare and unlabelled:
        raise ValueError(f"{unlabelled[0]}: --compare needs a label; give it with --label")
    check_output_folder(args.out, scenes, reading.aoi)
    part = scenes[args.part[0] - 1::args.part[1]]
    paths = {scene: output_paths(args.out, form, scene) for scene in part}
    complete = set() if args.compare or args.overwrite else find_complete(paths)
    todo = [scene for scene in part if scene not in complete]
    # Of each labelled scene: its SceneScore or, with --compare, its list of Measured.
    scored = {scene.name: read_scene_score(paths[scene]["matrix"], table)
              for scene in complete if scene.label_path}
    options = replace(options, resample=choose_resample(args.resample, settings.resample))
    source |= {"resample": str(options.resample)} if options.resample else {}
    all_options = compared_options(options) if args.compare else {"map": options}
    if todo:
        print(f"run {source['run']}, step {step}; {len(todo)} scene(s); windows of "
              f"{options.window}, {options.batch_size} a call")
    errors, predictors = [], None
    with contextlib.ExitStack() as stack:
        for scene in todo:
            try:
                with open_scene(scene, args.bands, settings, table, reading) as (image, label):
                    seen = options.resample.view(image) if options.resample else image
                    print(f"{scene.name}: {describe(image, seen)}")
                    warn_of_other_gsd(seen, settings.gsd, run)
                    check_form(form, image)
                    if predictors is None:  # after the first scene's checks: mistakes show at once
                        predictors = ()  # what fails now is the run's fault, not one scene's
                        precision = precision_of_inference(
                            args.precision, read_starts(run), settings, options,
                            len(todo) * seen.height * seen.width)
                        predictors = stack.enter_context(open_predictors(
                            checkpoint, settings.model, precision, all_options.values()))
                    if args.compare:
                        measured = compare_options(image, label, all_options, predictors,
                                                   len(table))
                        write_comparison(os.path.join(args.out, f"{scene.name}_compare.csv"),
                                         measured, all_options)
                        scored[scene.name] = measured
                    else:
                        strips = predict_classes(image, predictors[0], options)
                        scored[scene.name] = map_scene(image, label, strips, table, paths[scene],
                                                       source | input_tags(image, args.out), form,
                                                       brief=len(todo) > SCENES_IN_DETAIL)
            except Exception as error:
                if predictors == ():
                    raise
                error = error_of(scene.image_path, error)
                if len(scenes) == 1:
                    raise error
                errors.append(error_line(error))
                print(f"{scene.name}: failed; see the end")
    labelled = {scene.name: scored.get(scene.name) for scene in part if scene.label_path}
    if labelled and len(scenes) > 1:
        ending = "_{}_of_{}".format(*args.part) if args.part[1] > 1 else ""
        if args.compare:
            report_pooled_comparison(args.out, ending, labelled, all_options)
        else:
            report_pooled(args.out, ending, labelled, table)
    for line in errors:
        print(line, file=sys.stderr)
    return 2 if errors else 0


def map_scene(image, label, strips, table, paths, tags, form, brief=False):
    """Writes the scene's map and pictures, from the top down; with a label scores it and returns
    its SceneScore.

    image, label: open Image and Label or None. strips: of `predict_classes`. paths: of `map_paths`.
    tags: for the map files, with run and step. form: MapForm. brief: one line, without tables.
    """
    matrix, areas = np.zeros((len(table), len(table)), np.int64), ClassAreas(image, table)
    started = time.perf_counter()
    with (progress(image.height, "row", "map") as bar,
          writing_map(paths, image, table, tags, form) as write, contextlib.closing(strips)):
        for top, classes in write(counted(strips, bar)):
            areas.add(top, classes)
            if label:
                matrix += confusion_matrix(label.read(top, 0, *classes.shape), classes, len(table))
        seconds = time.perf_counter() - started
        areas.write(paths["area"])
        score = SceneScore(matrix, tags["run"], tags["step"]) if label else None
        if score:  # before the map has its name: a map that stands has its scores
            scores = write_scene_score(paths, score, table)
    if brief:
        print(f"written in {seconds:.1f} s: {paths['class']}"
              + (f"; {format_scores(scores).splitlines()[-1]}" if score else ""))
        return score
    if score:
        print(format_scores(scores))
    print(areas.format())
    print(f"{seconds:.1f} s, {image.height * image.width / 1e6 / seconds:.3f} megapixels/s, "
          "optimising the graph included")
    print("written: " + ", ".join(paths.values()))
    return score


def output_paths(folder, form, scene):
    return map_paths(folder, scene.name, maps_to_geotiff(scene.image_path), form,
                     scores=scene.label_path is not None)


if __name__ == "__main__":
    run_script(main)
