"""Run folders: settings, checkpoints, the best score. The only room that knows where they lie.

logs/<run>/settings.json          everything needed to build the model again, the class table too
logs/<run>/environment.json       code version, machine and command of each start of the run
logs/<run>/newest/step-N.*        the newest checkpoint: all variables, so that training resumes
logs/<run>/best/step-N.*          the best on the validation tiles: the model's variables only, or
                                  their averages (--ema)
logs/<run>/best/score.json        its step and scores, and which step was evaluated last
logs/<run>/events.out.*           TensorBoard
"""

import contextlib
import glob
import json
import os
import signal
import threading
import time

import tensorflow.compat.v1 as tf

from utils import files
from utils.training.ema import average_name
from utils.classes import ClassTable

NEWEST, BEST = "newest", "best"
SETTINGS, ENVIRONMENT, SCORE = "settings.json", "environment.json", "score.json"


def new_run_name(settings_name, seed):
    """A name that tells the experiment, the seed and the time: resnet_v2_50-seed0-20260131-1200."""
    return f"{settings_name}-seed{seed}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_writable(run):
    """Raises OSError where the folder `run` could not be made or written to; leaves no trace."""
    files.check_writable(run, "a run", "change its permissions, or choose another --logs or --run")


def find_run(logs, name=None):
    """The folder of run `name`, or of the newest run in `logs` that has a checkpoint."""
    if name is not None:
        run = os.path.join(logs, name)
        if not is_run(run):
            raise FileNotFoundError(f"{run}: no run there (no {SETTINGS}); "
                                    f"there are: {', '.join(run_names(logs)) or 'none'}")
        return run
    runs = [os.path.join(logs, name) for name in run_names(logs)]
    dated = [(os.path.getmtime(_state_file(run, NEWEST)), run) for run in runs
             if os.path.isfile(_state_file(run, NEWEST))]
    if not dated:
        raise FileNotFoundError(f"{logs}: no trained run there; run 'python train.py' first, "
                                "or say where with --logs")
    return max(dated)[1]


def is_run(folder):
    """True for a folder that train.py made: it holds settings."""
    return os.path.isfile(os.path.join(folder, SETTINGS))


def run_names(logs, known_by=(SETTINGS,)):
    """Names of the runs in `logs`, sorted: of the folders that hold anything of `known_by`."""
    if not os.path.isdir(logs):
        return []
    return sorted(name for name in os.listdir(logs) if any(
        os.path.exists(os.path.join(logs, name, part)) for part in known_by))


def write_settings(run, settings):
    """Writes `settings` (plain values) as JSON into the run's folder."""
    files.write_text(os.path.join(run, SETTINGS), json.dumps(settings, indent=2) + "\n")


def read_settings(run):
    """The run's settings as a dict. Raises OSError, ValueError naming the file."""
    settings = _read_json(os.path.join(run, SETTINGS))
    try:
        table = ClassTable.from_settings(settings["classes"])
        complete = (settings["tile_size"] > 0 and isinstance(settings.get("training", {}), dict)
                    and len(table) == settings["model"]["num_classes"])
    except (KeyError, TypeError, ValueError):
        complete = False
    if not complete:
        raise ValueError(f"{os.path.join(run, SETTINGS)}: not the settings of a run, which have "
                         "model, tile_size and a row of classes for each of the model's; "
                         "restore it or train again")
    return settings


def append_start(run, step, environment):
    """Notes in the run's folder that it was started at `step` in `environment` (plain values)."""
    starts = read_starts(run) + [{"step": step, **environment}]
    files.write_text(os.path.join(run, ENVIRONMENT), json.dumps(starts, indent=2) + "\n")


def read_starts(run):
    """What `append_start` noted, oldest first: a list of dicts. A damaged file counts as none."""
    try:
        starts = _read_json(os.path.join(run, ENVIRONMENT))
    except (OSError, ValueError):
        return []
    return starts if isinstance(starts, list) else []


def find_checkpoint(run, which):
    """(path prefix, step) of the run's 'best' or 'newest' checkpoint.

    A run that was never evaluated has no best one. Raises FileNotFoundError.
    """
    state = _checkpoint_state(os.path.join(run, which))
    step = state.model_checkpoint_path.rpartition("-")[2] if state else ""
    if not step.isdecimal() or not tf.train.checkpoint_exists(state.model_checkpoint_path):
        raise FileNotFoundError(f"{os.path.join(run, which)}: no complete checkpoint there; "
                                "train first, or choose another with --run and --checkpoint")
    return state.model_checkpoint_path, int(step)


def has_checkpoint(run):
    """True where a checkpoint was once saved, so that a damaged one is never written over."""
    return os.path.exists(_state_file(run, NEWEST))


def model_variables():
    """The current graph's model: trainable variables and batch norm's moving statistics."""
    moving = [variable for variable in tf.global_variables()
              if variable.op.name.endswith(("/moving_mean", "/moving_variance"))]
    return tf.trainable_variables() + moving


def newest_saver():
    """A Saver of all variables that keeps the last two checkpoints."""
    return tf.train.Saver(max_to_keep=2, save_relative_paths=True)


def best_saver(averages=None):
    """A Saver of the model's variables that keeps one checkpoint.

    averages: {name of a variable: variable holding its average}: saved under that name instead; of
    several devices' equal copies the first, since a Saver gives no other name to all of them.
    """
    copies_of = tf.distribute.get_strategy().experimental_local_results
    first = {name: copies_of(average)[0] for name, average in (averages or {}).items()}
    return tf.train.Saver(first or model_variables(), max_to_keep=1, save_relative_paths=True)


def save(session, saver, run, which, step):
    """Saves a checkpoint of `step`; the old one goes only when the new one is complete.

    TensorFlow writes under a temporary name and renames. Raises OSError where that fails.
    """
    folder = os.path.join(run, which)
    try:
        os.makedirs(folder, exist_ok=True)
        _remove_unfinished(folder)
        if not saver.last_checkpoints:
            # A new process: without this, the checkpoints of earlier ones would never be removed.
            state = _checkpoint_state(folder)
            saver.recover_last_checkpoints(state.all_model_checkpoint_paths if state else [])
        saver.save(session, os.path.join(folder, "step"), global_step=step, write_meta_graph=False)
    except (tf.errors.OpError, OSError, ValueError) as error:
        _remove_unfinished(folder)
        raise OSError(f"{folder}: checkpoint of step {step} could not be written "
                      f"({error_reason(error)}); free some space, then start the same run again to "
                      "resume from the last whole checkpoint") from error


def restore(session, saver, path):
    """Restores what `saver` covers from `path`; raises ValueError naming what does not fit."""
    variables = saver._var_list or tf.global_variables()
    if not isinstance(variables, dict):
        variables = {variable.op.name: variable for variable in variables}
    with _damage_named(path):
        _check_variables(path, tf.train.list_variables(path), variables)
        saver.restore(session, path)


def restore_model(session, path):
    """Restores all model variables of the current graph by name, or raises ValueError.

    Where the checkpoint holds moving averages (a newest one of a run with --ema), it is these that
    the variables get.
    """
    with _damage_named(path):
        stored = dict(tf.train.list_variables(path))
    variables = {variable.op.name: variable for variable in model_variables()}
    if any(average_name(name) in stored for name in variables):
        variables = {average_name(name): variable for name, variable in variables.items()}
    restore(session, tf.train.Saver(variables), path)


def write_best_score(run, score):
    """Notes of the best checkpoint its 'step' and scores (plain values), and 'evaluated'."""
    files.write_text(os.path.join(run, BEST, SCORE), json.dumps(score) + "\n")


def read_best_score(run):
    """What `write_best_score` noted, or None. Raises OSError, ValueError naming the file."""
    path = os.path.join(run, BEST, SCORE)
    if not os.path.exists(path):
        return None
    score = _read_json(path)
    kinds = {"step": int, "evaluated": int, "mean_iou": int | float | None,
             "held_out_mean_iou": int | float | None}
    if not (isinstance(score, dict) and {"step", "mean_iou", "evaluated"} <= set(score)
            and all(isinstance(score.get(name), kind) for name, kind in kinds.items())):
        raise ValueError(f"{path}: not the scores of a run; restore it or train again")
    return score


def stop_event():
    """A threading.Event that the first SIGINT or SIGTERM sets; a second one ends at once."""
    event = threading.Event()

    def ask_to_stop(number, frame):
        event.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask_to_stop)
    return event


@contextlib.contextmanager
def _damage_named(path):
    """TensorFlow's errors while reading checkpoint `path` as a ValueError that names it."""
    try:
        yield
    except tf.errors.OpError as error:
        raise ValueError(f"{path}: checkpoint is damaged ({error_reason(error)}); "
                         "restore it from a copy or train again") from error


def error_reason(error):
    """What an error of TensorFlow or of the system says went wrong, without where in the graph."""
    text = getattr(error, "message", None) or getattr(error, "strerror", None) or str(error)
    lines = text.strip().splitlines()
    nodes = [number for number, line in enumerate(lines[:-1]) if line.startswith("Node: ")]
    return lines[nodes[0] + 1 if nodes else 0].rsplit("; ", 1)[-1][:200]


def _check_variables(path, stored, variables):
    shapes = dict(stored)
    wrong = [f"{name} is missing" if name not in shapes else
             f"{name} has shape {shapes[name]}, not {shape}"
             for name, shape in ((name, v.shape.as_list()) for name, v in variables.items())
             if shapes.get(name) != shape]
    if wrong:
        raise ValueError(f"{path}: checkpoint of another model: {'; '.join(wrong[:3])}"
                         f"{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''}")


def _checkpoint_state(folder):
    """TensorFlow's list of the folder's checkpoints; None where it is missing or damaged."""
    try:
        return tf.train.get_checkpoint_state(folder)
    except ValueError:
        return None


def _remove_unfinished(folder):
    """Removes what a save cut short by a full disk or a kill left in `folder`.

    That is files with a temporary name, and whole ones of a checkpoint that the list of checkpoints
    does not name; where that list is missing or damaged they may be all that is left, and stay.
    """
    state = _checkpoint_state(folder)
    known = [os.path.basename(path) for path in state.all_model_checkpoint_paths] if state else []
    for path in glob.glob(os.path.join(glob.escape(folder), "step-*")):
        prefix, _, rest = os.path.basename(path).partition(".")
        if ".tempstate" in rest or (known and prefix not in known):
            with contextlib.suppress(OSError):
                os.remove(path)


def _read_json(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise OSError(f"{path}: could not be read ({error.strerror}); "
                      "a run folder is made by train.py") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); restore it or train again") from None


def _state_file(run, which):
    return os.path.join(run, which, "checkpoint")
