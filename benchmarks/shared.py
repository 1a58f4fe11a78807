"""What benchmarks share: scripts as processes, event files, tables that grow by a row at a time."""

import utils.quiet  # noqa: F401  (before TensorFlow)

import contextlib
import glob
import os
import subprocess
import sys

import pandas as pd
import tensorflow.compat.v1 as tf

from utils.files import check_writable, write_text

ADVICE = "choose another --out, or restore the file"


def python(script, *arguments, interpreter=sys.executable):
    """Command line of a script, or of '-m module', with this Python or another."""
    return [interpreter, *script.split(), *map(str, arguments)]


def call(name, script, *arguments, interpreter=sys.executable):
    """Standard output of a script that runs to its end. ValueError with its `name` and last line
    where it fails."""
    done = subprocess.run(python(script, *arguments, interpreter=interpreter),
                          capture_output=True, text=True)
    if done.returncode:
        raise ValueError(failure(name, done.returncode, done.stdout + done.stderr))
    return done.stdout


def failure(name, status, output):
    """What is said of a process that failed, with the last line of its output."""
    return f"{name}: ended with status {status}: {''.join(output.strip().splitlines()[-1:])}"


def event_files(run):
    """Paths of the event files in folder `run`, the oldest first."""
    return sorted(glob.glob(os.path.join(glob.escape(run), "events.out.*")))


def read_events(paths):
    """Yields the whole events of these files; a kill may have torn a file's last."""
    for path in paths:
        with contextlib.suppress(tf.errors.DataLossError):
            yield from tf.train.summary_iterator(path)


def scalars(run):
    """{tag: {step: [values]}} of all event files in folder `run`."""
    values = {}
    for event in read_events(event_files(run)):
        for value in event.summary.value:
            values.setdefault(value.tag, {}).setdefault(event.step, []).append(value.simple_value)
    return values


def read_variables(checkpoints):
    """{name: array} of the one that `Checkpoints` finds. Raises an error of TensorFlow where it is
    not whole."""
    reader = tf.train.load_checkpoint(checkpoints.find()[0])
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def read_table(path, columns, numbers):
    """The rows in the table at `path`; none, of these columns, where it is not there.

    columns: those that it must have. numbers: those that hold numbers, or nothing, where they are
    there. Raises ValueError, OSError naming the file, also where it could not be written later.
    """
    check_writable(os.path.dirname(path) or os.curdir, "the table", "choose another --out")
    try:
        rows = pd.read_csv(path)
    except FileNotFoundError:
        return pd.DataFrame(columns=columns)
    except OSError as error:
        raise OSError(f"{path}: could not be read ({error.strerror}); {ADVICE}") from None
    except ValueError as error:  # pandas has several kinds
        raise ValueError(f"{path}: not a table ({error}); {ADVICE}") from None
    missing = sorted(set(columns) - set(rows))
    if missing:
        raise ValueError(f"{path}: no table of this script (no column {missing[0]}); {ADVICE}")
    for column in numbers if len(rows) else []:
        if column in rows and rows[column].dtype.kind not in "if":
            raise ValueError(f"{path}: column {column} has something other than numbers; {ADVICE}")
    return rows


def add_rows(path, rows, planned, measure, finish=lambda rows: None):
    """(`rows` and a row for each of `planned`, the errors of those that failed).

    planned: dicts of the columns that are known before. measure: function(one of them) -> dict of
    the other columns; a ValueError is kept and the next one comes. Each row is written to `path` at
    once; then `finish` gets all that are there, the new one last.
    """
    failed = []
    for plan in planned:
        try:
            row = pd.DataFrame([plan | measure(plan)])
        except ValueError as error:
            failed.append(str(error))
            continue
        rows = pd.concat([rows, row]) if len(rows) else row
        write_text(path, rows.to_csv(index=False, lineterminator="\n"))
        finish(rows)
    return rows, failed
