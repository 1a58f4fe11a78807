"""Tiles -> checkpoint: trains Deeplab-v3 on the tiles that preprocess.py wrote.

Where the weights come from, in this order:
1. a run: --run NAME of a folder with a checkpoint resumes it, whatever --pretrained says;
2. ImageNet: --pretrained imagenet, or the path of a Keras .h5 or TF-slim checkpoint;
3. nothing: --pretrained none draws random weights.
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import argparse
import os
import time

import tensorflow.compat.v1 as tf

from deeplab_v3 import BACKBONES, deeplab_v3
from utils import evaluation, optimisation, pretrained, runs, tiles
from utils.classes import read_classes
from utils.command_line import argument_parser, positive, probability, progress, run_script
from utils.metrics import confusion_matrix
from utils.scenes import find_scenes, read_bands, read_scene


def parse_arguments():
    parser = argument_parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--logs", default="logs", help="folder of all runs, for tensorboard --logdir")
    add("--run", help="name of this run's folder; that of a run with a checkpoint resumes it; "
        "None makes a new name")
    add("--pretrained", default="imagenet", metavar="none|imagenet|PATH",
        help="first weights of the backbone; PATH: a Keras ResNet50V2 .h5 or a TF-slim checkpoint")
    add("--steps", type=positive, default=50000, help="number of training steps")
    add("--batch_size", type=positive, default=16, help="tiles a step")
    add("--optimizer", choices=optimisation.OPTIMIZERS, default="adam",
        help="the original's adam; the paper's momentum")
    add("--learning_rate", type=above_zero, default=2e-4, help="at the start; the paper's is .007")
    add("--schedule", choices=optimisation.SCHEDULES, default="step",
        help="step: divided by 10 at 60%% and 80%% of the steps (the original); poly: the paper's")
    add("--power", type=float, default=0.9, help="of the poly schedule")
    add("--momentum", type=probability, default=0.9, help="of the momentum optimizer")
    add("--weight_decay", type=float, default=5e-4,
        help="on convolution weights; the paper's is 1e-4")
    add("--backbone", choices=list(BACKBONES), default="resnet_v2_50", help="below the ASPP")
    add("--output_stride", type=int, choices=(8, 16), default=16, help="pixels to a feature")
    add("--multi_grid", type=positive, nargs=3, default=(1, 2, 4), metavar="RATE",
        help="factors on the atrous rate of the last block's units")
    add("--batch_norm_decay", type=probability, default=0.99,
        help="of the moving statistics; .997 and more suit only runs of many thousand steps")
    add("--precision", choices=("float32", "bfloat16"), default="float32",
        help="of the convolutions; variables, loss and batch statistics are float32 always")
    add("--test_display", type=positive, default=500, metavar="STEPS",
        help="steps between evaluations on validation tiles and the held-out scene")
    add("--save_every", type=positive, default=500, metavar="STEPS",
        help="steps between checkpoints")
    add("--summary_every", type=positive, default=20, metavar="STEPS",
        help="steps between points of the curves")
    return parser.parse_args()


def above_zero(text):
    """argparse type: a finite float above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def main():
    args = parse_arguments()
    table = read_classes(args.classes)
    training = tiles.read_tile_list(args.dataset)
    validation = tiles.read_tile_list(args.dataset, tiles.VALIDATION_LIST)
    tile_size = tiles.read_tile(next(training.itertuples()), table)[0].shape[0]
    held_out = read_held_out(args, table)
    run = os.path.join(args.logs, args.run or runs.new_run_name(args.backbone, args.seed))
    resumes = runs.has_checkpoint(run)
    origin = None if resumes else pretrained.origin_of(args.pretrained)
    settings = run_settings(args, table, tile_size, origin)
    if resumes:
        keep_start(run, settings)
        check_same_settings(run, settings)
    weights = pretrained.read_pretrained(args.pretrained) if origin else None

    with (tf.Graph().as_default(),
          tf.Session(config=optimisation.repeatable_config()) as session):
        tf.set_random_seed(args.seed)
        model = build_graph(args, settings["model"], training)
        savers = {runs.NEWEST: runs.newest_saver(), runs.BEST: runs.best_saver()}
        session.run(tf.global_variables_initializer())
        if resumes:
            checkpoint, step = runs.find_checkpoint(run, runs.NEWEST)
            runs.restore(session, savers[runs.NEWEST], checkpoint)
            print(f"{run}: resumed at step {step}")
        elif weights:
            left_out = pretrained.assign_backbone(session, weights, args.backbone, args.pretrained)
            print(f"{run}: backbone from {args.pretrained}; not used: "
                  f"{', '.join(left_out) or 'nothing'}")
        else:
            print(f"{run}: random weights")
        runs.write_settings(run, settings)

        def evaluate(writer, step):
            return write_evaluation(session, model, writer, step, table, validation, held_out,
                                    tile_size, args.batch_size)

        return train(args, session, model, savers, run, evaluate, training, table)


def read_held_out(args, table):
    """(image, label) of the scene that is only watched, or None where it is not there."""
    origin = args.origin or os.path.join(args.dataset, "origin")
    try:
        return read_scene(find_scenes(origin)[args.test_scene], table, **read_bands(args.dataset))
    except (FileNotFoundError, KeyError):
        print(f"{origin}: no labelled scene {args.test_scene}; training without watching it")
        return None


def run_settings(args, table, tile_size, origin):
    """What is written beside the checkpoint: enough for predict.py to build the model again."""
    model = {"num_classes": len(table), "backbone": args.backbone,
             "output_stride": args.output_stride, "multi_grid": list(args.multi_grid),
             "pool1_padding": origin or pretrained.SLIM}
    recipe = {name: getattr(args, name) for name in (
        "seed", "batch_size", "steps", "optimizer", "learning_rate", "schedule", "power",
        "momentum", "weight_decay", "batch_norm_decay", "precision", "pretrained", "dataset")}
    return {"model": model, "classes": table.to_settings(), "tile_size": tile_size,
            "training": recipe} | read_bands(args.dataset)


def keep_start(run, settings):
    """A resumed run's weights come from where they came from, whatever --pretrained says now."""
    before = runs.read_settings(run)
    settings["model"]["pool1_padding"] = before["model"].get("pool1_padding")
    settings["training"]["pretrained"] = before.get("training", {}).get("pretrained")


def check_same_settings(run, settings):
    """Raises ValueError naming the settings in which a resumed run would differ from itself."""
    def flat(value, name=""):
        if not isinstance(value, dict):
            return {name: value}
        return {k: v for key, part in value.items() for k, v in flat(part, f"{name} {key}").items()}

    before, now = flat(runs.read_settings(run)), flat(settings)
    changed = [f"{name.split()[-1]} was {before.get(name)}, is {value}"
               for name, value in now.items() if before.get(name) != value]
    if changed:
        raise ValueError(f"{run}: cannot be resumed with other settings: {'; '.join(changed)}; "
                         "give the same, or another --run")


def build_graph(args, model, training):
    """The tensors and ops of training and of evaluation, by name."""
    step = tf.train.get_or_create_global_step()
    images, labels, start_of_data = tiles.training_batches(
        training, args.batch_size, model["num_classes"], args.seed, step)
    logits, _ = deeplab_v3(images, is_training=True, precision=args.precision,
                           batch_norm_decay=args.batch_norm_decay,
                           dropout_seed=tf.stack([tf.constant(args.seed, tf.int64), step]), **model)
    loss = optimisation.cross_entropy(logits, labels)
    total = loss + optimisation.weight_decay_loss(args.weight_decay)
    rate = optimisation.learning_rate(step, args.learning_rate, args.steps, args.schedule,
                                      args.power)
    update = optimisation.train_op(total, args.optimizer, rate, args.momentum, step)

    evaluated = tf.placeholder(tf.uint8, [None, None, None, 3], "evaluated")
    logits, _ = deeplab_v3(evaluated, is_training=False, precision=args.precision, **model)
    return {"step": step, "loss": loss, "total": total, "rate": rate, "update": update,
            "start_of_data": start_of_data, "evaluated": evaluated,
            "probabilities": tf.nn.softmax(logits)}


def train(args, session, model, savers, run, evaluate, training, table):
    """The loop, from the graph's step to --steps. Returns the exit status."""
    step = saved = int(session.run(model["step"]))
    session.run(model["start_of_data"])
    stop = runs.stop_event()
    writer = tf.summary.FileWriter(run, None if step else session.graph)
    if step:
        # TensorBoard then drops the points that a killed run wrote after its last checkpoint.
        writer.add_session_log(tf.SessionLog(status=tf.SessionLog.START), step + 1)
    best_score = (runs.read_best_score(run) or {"mean_iou": -1})["mean_iou"]
    fetches = {name: model[name] for name in ("loss", "total", "rate", "update")}
    bar = progress(args.steps, "step", "training", initial=step)
    images, seconds = 0, 0.0
    while step < args.steps and not stop.is_set():
        began = time.perf_counter()
        try:
            values = session.run(fetches)
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(f"{args.batch_size} tiles a step do not fit into the device's "
                              "memory; lower --batch_size") from error
        except tf.errors.OpError as error:
            if optimisation.NOT_FINITE not in error.message:
                tiles.name_faulty_tile(training, table)
                raise ValueError(f"{run}: TensorFlow stopped at step {step + 1}: "
                                 f"{error.message.splitlines()[0]}") from error
            kept = f"the checkpoint of step {saved} is kept" if saved else "nothing was saved yet"
            raise ValueError(f"{run}: loss or gradient is not finite at step {step + 1}; stopped, "
                             f"{kept}; try a lower --learning_rate") from error
        seconds += time.perf_counter() - began
        images += args.batch_size
        step += 1
        bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
        bar.update()
        if step % args.summary_every == 0:
            writer.add_summary(evaluation.scalar_summary({
                "loss/cross_entropy": values["loss"], "loss/with_weight_decay": values["total"],
                "training/learning_rate": values["rate"],
                "training/images_per_second": images / seconds}), step)
            images, seconds = 0, 0.0
        if step % args.save_every == 0 or step == args.steps:
            runs.save(session, savers[runs.NEWEST], run, runs.NEWEST, step)
            saved = step
        if (step % args.test_display == 0 or step == args.steps) and not stop.is_set():
            score = evaluate(writer, step)
            if score >= best_score:
                best_score = score
                runs.save(session, savers[runs.BEST], run, runs.BEST, step)
                runs.write_best_score(run, step, {"mean_iou": best_score})
    bar.close()
    if saved < step:
        runs.save(session, savers[runs.NEWEST], run, runs.NEWEST, step)
    writer.close()
    if step < args.steps:
        print(f"{run}: stopped and saved at step {step}; the same command with --run "
              f"{os.path.basename(run)} goes on from there")
        return 130
    print(f"{run}: done; best mean-IoU on the validation tiles {best_score:.4f}")
    return 0


def write_evaluation(session, model, writer, step, table, validation, held_out, tile_size,
                     batch_size):
    """Scores and pictures of this step to TensorBoard; returns the validation tiles' mean-IoU.

    Without validation tiles it returns 0, so that the newest always counts as the best.
    """
    def predict(images):
        return session.run(model["probabilities"], {model["evaluated"]: images})

    matrix = evaluation.evaluate_tiles(predict, validation, table, batch_size)
    values = evaluation.score_values("validation", matrix, table)
    score = values.get("validation/mean_iou", 0.0)
    if held_out:
        image, label = held_out
        prediction = evaluation.map_scene(predict, image, tile_size, batch_size)
        values.update(evaluation.score_values(
            "held_out", confusion_matrix(label, prediction, len(table)), table))
        writer.add_summary(evaluation.picture_summary(image, label, prediction, table, tile_size),
                           step)
    writer.add_summary(evaluation.scalar_summary(values), step)
    writer.flush()
    print(f"step {step}: " + ", ".join(f"{tag} {value:.4f}" for tag, value in values.items()
                                       if tag.endswith(("/mean_iou", "/accuracy"))), flush=True)
    return score


if __name__ == "__main__":
    run_script(main)
