"""The class table: ids, names, colours; colouring a map and reading one back."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

IGNORE = 255
IGNORE_COLOUR = (255, 0, 255)
DEFAULT_TABLE = "dataset/classes.csv"


@dataclass(frozen=True)
class ClassTable:
    """names: tuple of str; colours: uint8 [classes, 3] RGB; a class's id is its index."""

    names: tuple
    colours: np.ndarray

    def __len__(self):
        return len(self.names)

    def to_settings(self):
        """The table as plain values for JSON; `from_settings` is its inverse."""
        return [{"name": name, "colour": _to_hex(colour)}
                for name, colour in zip(self.names, self.colours)]

    @staticmethod
    def from_settings(rows):
        return ClassTable(tuple(row["name"] for row in rows),
                          np.array([_from_hex(row["colour"]) for row in rows], np.uint8))


def read_classes(path=DEFAULT_TABLE):
    """Reads and checks a table (csv: id, name, colour as #rrggbb). Raises ValueError, OSError."""
    try:
        # Only an empty field is missing: a class may well be called 'None' or 'NA'.
        table = pd.read_csv(path, dtype={"name": str, "colour": str}, skipinitialspace=True,
                            keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no class table there; give one with --classes") from None
    except OSError as error:
        raise OSError(f"{path}: could not be read ({error.strerror}); "
                      "give a class table with --classes") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a class table: {error}") from None
    missing = {"id", "name", "colour"} - set(table.columns)
    if missing:
        raise ValueError(f"{path}: column {', '.join(sorted(missing))} is missing; "
                         "a class table has the columns id,name,colour")
    if table[["id", "name", "colour"]].isna().any(axis=None):
        raise ValueError(f"{path}: a row has an empty field; each needs id, name and colour")
    if len(table) < 2 or table["id"].tolist() != list(range(len(table))) or len(table) > IGNORE:
        raise ValueError(f"{path}: ids are {table['id'].tolist()}; they must be 0, 1, 2, ... "
                         f"without gaps, two at least, and {IGNORE} is reserved for ignore")
    if table["name"].duplicated().any():
        raise ValueError(f"{path}: a name occurs twice: {table['name'].tolist()}")
    try:
        colours = [_from_hex(text) for text in table["colour"]]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    taken = colours + [IGNORE_COLOUR]
    for colour in colours:
        if taken.count(colour) > 1:
            raise ValueError(f"{path}: colour {_to_hex(colour)} is used twice "
                             f"({_to_hex(IGNORE_COLOUR)} is reserved for ignore)")
    return ClassTable(tuple(table["name"]), np.array(colours, np.uint8))


def colour_map(labels, table):
    """Class ids uint8 [height, width] -> RGB uint8 [height, width, 3]; ignore is magenta."""
    colours = np.empty((256, 3), np.uint8)
    colours[:] = IGNORE_COLOUR
    colours[:len(table)] = table.colours
    return colours[labels]


def decode_colours(mask, table, name):
    """RGB mask uint8 [height, width, 3] -> class ids uint8 [height, width].

    Raises ValueError naming the first colour that is not in the table, its count and `name`.
    """
    codes = _pack(mask)
    known = _pack(np.vstack([table.colours, [IGNORE_COLOUR]]).astype(np.uint8))
    ids = np.append(np.arange(len(table)), IGNORE).astype(np.uint8)
    order = np.argsort(known)
    position = np.minimum(np.searchsorted(known, codes, sorter=order), len(known) - 1)
    nearest = order[position]
    unknown = known[nearest] != codes
    if unknown.any():
        values, counts = np.unique(codes[unknown], return_counts=True)
        value, count = values[counts.argmax()], counts.max()
        raise ValueError(
            f"{name}: colour #{value:06x} ({count} pixels, and {len(values) - 1} more colours) is "
            "not in the class table; add it to the table or give the label as class ids")
    return ids[nearest]


def check_labels(labels, table, name):
    """Raises ValueError, naming the value and `name`, where a label is no class id and not 255."""
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    wrong = [int(value) for value in present if value >= len(table) and value != IGNORE]
    if wrong:
        raise ValueError(f"{name}: label value {', '.join(map(str, wrong[:5]))} is not in the "
                         f"class table (0 to {len(table) - 1}, or {IGNORE} for ignore); "
                         "correct the label or give its table with --classes")


def _pack(colours):
    """uint8 [..., 3] -> one int32 0xrrggbb each."""
    red, green, blue = (colours[..., i].astype(np.int32) for i in range(3))
    return red << 16 | green << 8 | blue


def _from_hex(text):
    digits = text.strip().removeprefix("#")
    try:
        colour = tuple(bytes.fromhex(digits))
        if len(colour) != 3 or len(digits) != 6:
            raise ValueError
        return colour
    except ValueError:
        raise ValueError(f"colour {text!r} is not of the form #rrggbb") from None


def _to_hex(colour):
    return "#" + bytes(int(value) for value in colour).hex()
