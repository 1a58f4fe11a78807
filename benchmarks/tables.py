"""The CSV tables that benchmarks add a row to, and go on from, as read back and checked."""

import os

import pandas as pd

from utils.files import check_writable

ADVICE = "choose another --out, or restore the file"


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
