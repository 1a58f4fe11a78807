"""Checkpoints of a run: saving, finding and restoring them. Only this module knows their files.

logs/<run>/latest/step-N.*   the latest: all variables, so that training resumes
logs/<run>/best/step-N.*     the best on the validation tiles: the model's variables only, or their
                             EMA (--ema)
"""

import contextlib
import glob
import os
import re

import tensorflow.compat.v1 as tf

from utils.files import remedy
from utils.training.ema import average_name

LATEST, BEST = "latest", "best"
# What runs of earlier versions call the folder of the latest.
OLD_LATEST = "newest"
KEPT = {LATEST: 2, BEST: 1}


def checkpoint_folder(run, which):
    """The folder of the run's 'latest' or 'best' checkpoint, which need not be there."""
    old = os.path.join(run, OLD_LATEST)
    return old if which == LATEST and os.path.isdir(old) else os.path.join(run, which)


class Checkpoints:
    """One folder's checkpoints.

    variables: what is saved, as tf.train.Saver takes it: a list, or a dict of names; None where
    they are only to be found. Needs the graph that holds them.
    """

    def __init__(self, run, which, variables=None):
        self.folder = checkpoint_folder(run, which)
        self._variables, self._kept = variables, KEPT[which]
        self._saver = variables and tf.train.Saver(variables, max_to_keep=KEPT[which],
                                                   save_relative_paths=True)

    @property
    def exist(self):
        """True where a checkpoint was once saved, so that a damaged one is never written over."""
        return bool(self._whole()) or os.path.exists(os.path.join(self.folder, "checkpoint"))

    @property
    def changed(self):
        """When the last one was saved, in seconds since 1970; None without any."""
        return max((os.path.getmtime(f"{path}.index") for path, _ in self._whole()), default=None)

    def find(self):
        """(path prefix, step) of the last one saved. Raises FileNotFoundError."""
        whole = self._whole()
        if not whole:
            advice = ("what is there is not whole: restore it from a copy" if self.exist
                      else "train first")
            raise FileNotFoundError(f"{self.folder}: no complete checkpoint there; {advice}, or "
                                    "choose another with --run (predict.py: or --checkpoint)")
        return whole[0]

    def restore(self, session):
        """Restores the last one saved; its step. Where that is damaged, the one before it, and the
        damaged one gets another name, so that nothing is saved over it. Raises OSError, ValueError
        naming its path."""
        damaged = []
        for path, step in self._whole() or [self.find()]:
            try:
                _restore(session, path, self._variables, self._saver)
            except DamagedCheckpoint as error:
                damaged.append((path, error))
                continue
            for other, error in damaged:
                aside = os.path.join(self.folder, f"damaged-{os.path.basename(other)}")
                print(f"warning: {str(error).split(';')[0]}; it is now {aside}, and the one before "
                      "it is taken")
                for file in glob.glob(f"{glob.escape(other)}.*"):
                    with contextlib.suppress(OSError):  # another host was faster
                        os.rename(file, aside + file[len(other):])
            return step
        raise damaged[0][1]

    def save(self, session, step):
        """Saves a checkpoint of `step`; the old one goes only when the new one is complete.

        TensorFlow writes under a temporary name and renames. Raises OSError where that fails.
        """
        try:
            os.makedirs(self.folder, exist_ok=True)
            self._remove_unfinished()
            if not self._saver.last_checkpoints:
                # A new process: without this, those of earlier ones would never be removed.
                self._saver.recover_last_checkpoints(
                    [path for path, _ in reversed(self._whole())])
            self._saver.save(session, os.path.join(self.folder, "step"), global_step=step,
                             write_meta_graph=False)
            # Also what a kill left, and what is of later steps than a damaged one let go on from.
            whole = self._whole()
            kept = [one for one in whole if one[1] <= step][:self._kept]
            for path, _ in set(whole) - set(kept):
                self._remove(path)
        except (tf.errors.OpError, OSError, ValueError) as error:
            self._remove_unfinished()
            reason = error_reason(error)
            raise OSError(f"{self.folder}: checkpoint of step {step} could not be written "
                          f"({reason}); {remedy(reason)}, then start the same run again to resume "
                          "from the last whole checkpoint") from error

    def _whole(self):
        """[(path prefix, step)] of what was saved to its end, the last first: TensorFlow writes the
        index last. Its own list of them (`checkpoint`) is one more file that can be lost."""
        found = [re.fullmatch(r"step-(\d+)\.index", name)
                 for name in (os.listdir(self.folder) if os.path.isdir(self.folder) else [])]
        return [(os.path.join(self.folder, f"step-{step}"), step)
                for step in sorted((int(name[1]) for name in found if name), reverse=True)]

    @staticmethod
    def _remove(path):
        # The index first: without it nothing takes the rest for a checkpoint.
        for file in sorted(glob.glob(f"{glob.escape(path)}.*"), reverse=True):
            with contextlib.suppress(OSError):
                os.remove(file)

    def _remove_unfinished(self):
        """Removes what a save left that was cut short by a full disk or a kill: files with a
        temporary name and, beside whole checkpoints, those of one without its index."""
        whole = [os.path.basename(path) for path, _ in self._whole()]
        for path in glob.glob(os.path.join(glob.escape(self.folder), "step-*")):
            prefix, _, rest = os.path.basename(path).partition(".")
            if ".tempstate" in rest or (whole and prefix not in whole):
                with contextlib.suppress(OSError):
                    os.remove(path)


def check_readable_name(path):
    """Raises ValueError where TensorFlow could not read a checkpoint in `path`: for it a bracket
    begins a pattern, also where it is a name."""
    if "[" in path:
        raise ValueError(f"{path}: TensorFlow reads no checkpoint where a name holds a bracket; "
                         "rename the folder, or choose another name")


class DamagedCheckpoint(ValueError):
    """A checkpoint that cannot be read."""


def latest_checkpoints(run):
    """The Checkpoints of all variables of the current graph, of which the last two are kept."""
    return Checkpoints(run, LATEST, tf.global_variables())


def best_checkpoints(run, averages=None):
    """The Checkpoints of the model's variables alone, of which one is kept.

    averages: {name of a variable: variable holding its average}: saved under that name instead; of
    several devices' equal copies the first, since a Saver gives no other name to all of them.
    """
    copies_of = tf.distribute.get_strategy().experimental_local_results
    first = {name: copies_of(average)[0] for name, average in (averages or {}).items()}
    return Checkpoints(run, BEST, first or model_variables())


def model_variables():
    """The current graph's model: trainable variables and batch norm's moving statistics."""
    moving = [variable for variable in tf.global_variables()
              if variable.op.name.endswith(("/moving_mean", "/moving_variance"))]
    return tf.trainable_variables() + moving


def restore_model(session, path):
    """Restores all model variables of the current graph by name, or raises ValueError.

    Where the checkpoint holds their EMA (a latest one of a run with --ema), the variables get that.
    """
    with _damage_named(path):
        stored = dict(tf.train.list_variables(path))
    variables = {variable.op.name: variable for variable in model_variables()}
    if any(average_name(name) in stored for name in variables):
        variables = {average_name(name): variable for name, variable in variables.items()}
    _restore(session, path, variables, tf.train.Saver(variables))


def error_reason(error):
    """What an error of TensorFlow or of the system says went wrong, without where in the graph."""
    text = getattr(error, "message", None) or getattr(error, "strerror", None) or str(error)
    lines = text.strip().splitlines()
    nodes = [number for number, line in enumerate(lines[:-1]) if line.startswith("Node: ")]
    return lines[nodes[0] + 1 if nodes else 0].rsplit("; ", 1)[-1][:200]


def _restore(session, path, variables, saver):
    """Restores `variables`, those of `saver`, from `path`. ValueError names what does not fit."""
    named = variables if isinstance(variables, dict) else {v.op.name: v for v in variables}
    with _damage_named(path):
        shapes = dict(tf.train.list_variables(path))
        wrong = [f"{name} is missing" if name not in shapes else
                 f"{name} has shape {shapes[name]}, not {variable.shape.as_list()}"
                 for name, variable in named.items()
                 if shapes.get(name) != variable.shape.as_list()]
        if wrong:
            raise ValueError(f"{path}: checkpoint of another model: {'; '.join(wrong[:3])}"
                             f"{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''}")
        saver.restore(session, path)


@contextlib.contextmanager
def _damage_named(path):
    """TensorFlow's errors while reading checkpoint `path` as a DamagedCheckpoint that names it."""
    check_readable_name(path)
    try:
        yield
    except tf.errors.OpError as error:
        raise DamagedCheckpoint(f"{path}: checkpoint is damaged ({error_reason(error)}); "
                                "restore it from a copy or train again") from error
