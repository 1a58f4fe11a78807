"""The class table: ids, names, colours; colouring a map and reading one back."""

import contextlib
import functools
import re
import typing
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from utils.files import check_plain

IGNORE = 255
# As a row's colour or value: all that no other row has.
ALL_OTHERS = "*"
DEFAULT_TABLE = "dataset/classes.csv"
VALUES_SHOWN = 5  # in a message
COLUMNS = ["id", "name", "colour"]


class Row(typing.NamedTuple):
    """What else the table says of an id: a further colour in masks ((r, g, b), '*' or None), and
    values in label files (ints, or '*')."""

    id: int
    name: str
    colour: typing.Any = None
    values: tuple = ()


@dataclass(frozen=True)
class ClassTable:
    """names: tuple of str; colours: uint8 [classes, 3] RGB, as classes are drawn; a class's id is
    its index. rows: of Row, for further colours and values of classes, and for what is ignored."""

    names: tuple
    colours: np.ndarray
    rows: tuple = ()

    def __len__(self):
        return len(self.names)

    @property
    def ignore_colour(self):
        """(r, g, b) in which ignored pixels are drawn: that of the first row for them, else magenta
        or, where a class has it, the next less blue that none has."""
        own = [row.colour for row in self.rows
               if row.id == IGNORE and isinstance(row.colour, tuple)]
        taken = {*map(tuple, self.colours.tolist()), *(row.colour for row in self.rows)}
        free = ((255, 0, blue) for blue in range(255, -1, -1) if (255, 0, blue) not in taken)
        return own[0] if own else next(free)

    @functools.cached_property
    def ids_of_colours(self):
        """{0xrrggbb: id} of masks; under '*' the id of all others, where the table has it."""
        drawn = dict(zip(_pack(self.colours).tolist(), range(len(self))))
        drawn.setdefault(int(_pack(np.array(self.ignore_colour))), IGNORE)
        return drawn | {
            row.colour if row.colour == ALL_OTHERS else int(_pack(np.array(row.colour))): row.id
            for row in self.rows if row.colour is not None}

    @functools.cached_property
    def ids_of_values(self):
        """{value: id} of label files; under '*' the id of all other values, where the table has
        it. Where the table gives no class a value, they are the ids."""
        return {IGNORE: IGNORE} | dict(self.values_and_ids())

    def values_and_ids(self):
        """[(value, id)] of the table's rows; where no class has a value, they are the ids."""
        given = [(value, row.id) for row in self.rows for value in row.values]
        if all(number == IGNORE or value == ALL_OTHERS for value, number in given):
            given += [(number, number) for number in range(len(self))]
        return given

    def of_maps(self):
        """The table by which maps and tiles are read: they hold ids, whatever labels hold."""
        return replace(self, rows=tuple(row._replace(values=()) for row in self.rows
                                        if row.colour not in (None, ALL_OTHERS)))

    def to_settings(self):
        """The table as plain values for JSON; `from_settings` is its inverse."""
        return [{"name": name, "colour": _to_hex(colour)}
                for name, colour in zip(self.names, self.colours)] + [
            {"id": row.id, "name": row.name, "values": list(row.values),
             "colour": _to_hex(row.colour) if isinstance(row.colour, tuple) else row.colour}
            for row in self.rows]

    @staticmethod
    def from_settings(rows):
        classes = [row for row in rows if "values" not in row]
        return ClassTable(
            tuple(row["name"] for row in classes),
            np.array([_from_hex(row["colour"]) for row in classes], np.uint8),
            tuple(Row(row["id"], row["name"], row["colour"] and _from_text(row["colour"]),
                      tuple(row["values"])) for row in rows if "values" in row))


def read_classes(path=DEFAULT_TABLE):
    """Reads and checks a table: csv with the columns id, name, colour (#rrggbb) and, if label files
    hold other values than the ids, value (whole numbers with spaces between).

    Rows of id 255 are ignored; rows that repeat an id and its name add a colour or values to it;
    '*' stands for all colours or values that no other row has. Raises ValueError, OSError.
    """
    check_plain(path)
    try:
        # Only an empty field is missing: a class may well be called 'None' or 'NA'.
        table = pd.read_csv(path, dtype={"name": str, "colour": str, "value": str},
                            skipinitialspace=True, keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no class table there; give one with --classes") from None
    except OSError as error:
        raise OSError(f"{path}: could not be read ({error.strerror}); "
                      "give a class table with --classes") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a class table: {error}") from None
    missing = set(COLUMNS) - set(table.columns)
    if missing:
        raise ValueError(f"{path}: column {', '.join(sorted(missing))} is missing; "
                         "a class table has the columns id,name,colour")
    more = table["id"].duplicated() | (table["id"] == IGNORE)
    classes = table[~more]
    if table[["id", "name"]].isna().any(axis=None) or classes["colour"].isna().any():
        raise ValueError(f"{path}: a row has an empty field; each needs id, name and colour")
    ids = classes["id"].tolist()
    if ids != list(range(len(ids))) or not 2 <= len(ids) <= IGNORE:
        raise ValueError(f"{path}: ids are {ids}; they must be 0, 1, 2, ... without gaps, two at "
                         f"least, and {IGNORE} for what is ignored")
    names = tuple(classes["name"])
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: a name occurs twice: {list(names)}")
    renamed = [row for row in table[more].itertuples() if row.id != IGNORE
               and row.name != names[int(row.id)]]
    if renamed:
        raise ValueError(f"{path}: id {renamed[0].id} is called {names[int(renamed[0].id)]} and "
                         f"{renamed[0].name}; give it one name")
    try:
        rows = tuple(row for index, found in enumerate(table.itertuples())
                     if (row := _row_of(found, more[index])).values or row.colour)
        result = ClassTable(names, np.array([_from_hex(text) for text in classes["colour"]],
                                            np.uint8), rows)
        _check_distinct(result)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return result


def _row_of(found, is_more):
    """The Row of a line of the file; the colour of a class's first line is not repeated in it."""
    colour, value = found.colour, getattr(found, "value", None)
    try:
        values = () if pd.isna(value) else tuple(
            text if text == ALL_OTHERS else int(text) for text in str(value).split())
    except ValueError:
        raise ValueError(f"value {value!r} of {found.name} is not whole numbers") from None
    return Row(int(found.id), found.name,
               _from_text(colour) if is_more and not pd.isna(colour) else None, values)


def _check_distinct(table):
    colours = [(_to_hex(colour), number) for number, colour in enumerate(table.colours)] + [
        (_to_hex(row.colour) if isinstance(row.colour, tuple) else row.colour, row.id)
        for row in table.rows if row.colour is not None]
    for what, given in (("colour", colours), ("value", table.values_and_ids())):
        last = dict(given)
        twice = [one for one, number in given if last[one] != number]
        if twice:
            raise ValueError(f"{what} {twice[0]} is used twice")


def colour_map(labels, table):
    """Class ids uint8 [height, width] -> RGB uint8 [height, width, 3], ignored pixels too."""
    colours = np.empty((256, 3), np.uint8)
    colours[:] = table.ignore_colour
    colours[:len(table)] = table.colours
    return colours[labels]


def decode_colours(mask, table, name, nodata=None):
    """RGB mask uint8 [height, width, 3] -> class ids uint8 [height, width].

    nodata: bool [height, width] of what is ignored where its colour is not in the table. Raises
    ValueError naming the most frequent other colour that is not, its count and `name`.
    """
    def unknown(values, counts):
        value, count = values[counts.argmax()], counts.max()
        return (f"{name}: colour #{value:06x} ({count} pixels, and {len(values) - 1} more colours) "
                "is not in the class table; add it to the table, with id 255 to ignore it, or give "
                "the label as class ids")
    return _look_up(_pack(mask), table.ids_of_colours, unknown, nodata)


def decode_values(pixels, table, name, nodata=None):
    """Values of a label [height, width], of any dtype -> class ids uint8 [height, width].

    nodata: as for `decode_colours`. Raises ValueError, naming the value, its count and `name`,
    where one is not in the table.
    """
    def unknown(values, counts):
        shown = ", ".join(f"{value:g}" for value in values[:VALUES_SHOWN])
        known = sorted(set(table.ids_of_values) - {ALL_OTHERS, IGNORE})
        told = (f"{known[0]} to {known[-1]}" if known == list(range(len(known)))
                else ", ".join(map(str, known)))
        return (f"{name}: label value {shown} is not in the class table ({told}, or {IGNORE} for "
                f"ignore); {counts.sum()} pixels; correct the label or give its table with "
                "--classes")
    return _look_up(pixels, table.ids_of_values, unknown, nodata)


def decode_attribute(values, table, name):
    """Values of an attribute of polygons, of any dtype [features] -> class ids uint8 [features].

    Each is a name of the table or, as number or text, what `decode_values` takes. Raises ValueError
    with the most frequent ones that are neither, and of how many polygons; `name` begins it.
    """
    def id_of_value(value):
        if isinstance(value, str) and value.strip() in names:
            return names[value.strip()]
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # no finite number
            if int(float(value)) == float(value):
                return known.get(int(float(value)), others)
        return others

    names, known = _ids_of_names(table), table.ids_of_values
    others = known.get(ALL_OTHERS)
    codes, found = pd.factorize(values, use_na_sentinel=False)
    found = found.tolist()
    ids = [id_of_value(value) for value in found]
    if None in ids:
        counts = sorted(((np.count_nonzero(codes == code), found[code]) for code, one
                         in enumerate(ids) if one is None), key=lambda pair: -pair[0])
        shown = ", ".join(f"{'none' if pd.isna(value) else repr(value)} ({count} polygon"
                          f"{'s' * (count != 1)})" for count, value in counts[:VALUES_SHOWN])
        more = len(counts) - VALUES_SHOWN
        raise ValueError(f"{name} is {shown}{f' and {more} more' if more > 0 else ''}, not in the "
                         f"class table ({', '.join(map(str, [*sorted(known), *table.names]))}); "
                         "correct the polygons, choose another --label_attribute or give their "
                         "table with --classes")
    return np.array(ids, np.uint8)[codes]


def id_of(text, table, name):
    """The id of a class, given by id or name. Raises ValueError, which `name` begins."""
    known = {str(number): number for number in (*range(len(table)), IGNORE)} | _ids_of_names(table)
    if text not in known:
        raise ValueError(f"{name} {text}: not in the class table; there are {', '.join(known)}")
    return known[text]


def _ids_of_names(table):
    return {row.name: row.id for row in table.rows} | {
        name: number for number, name in enumerate(table.names)}


def _look_up(codes, ids, unknown, nodata):
    """The ids (uint8) of `codes` by the dict `ids`; unknown(values, counts) makes the message of
    the ValueError where some are not in it."""
    known = np.array(sorted(set(ids) - {ALL_OTHERS}))
    found = np.array([ids[code] for code in known.tolist()], np.uint8)
    if codes.dtype == np.uint8:
        # By a table of all bytes: many times faster than searching.
        position = np.minimum(np.searchsorted(known, np.arange(256)), len(known) - 1)
        fits, found = known[position] == np.arange(256), found[position]
        position, wrong = codes, ~fits[codes]
    else:
        position = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        wrong = known[position] != codes
    result = found[position]
    if nodata is not None:
        result[wrong & nodata] = IGNORE
        wrong &= ~nodata
    if wrong.any():
        if ALL_OTHERS not in ids:
            raise ValueError(unknown(*np.unique(codes[wrong], return_counts=True)))
        result[wrong] = ids[ALL_OTHERS]
    return result


def _pack(colours):
    """uint8 [..., 3] -> one int32 0xrrggbb each."""
    red, green, blue = (colours[..., i].astype(np.int32) for i in range(3))
    return red << 16 | green << 8 | blue


def _from_text(text):
    """(r, g, b) of '#rrggbb', or '*'."""
    return text if text == ALL_OTHERS else _from_hex(text)


def _from_hex(text):
    digits = text.strip().removeprefix("#")
    if not re.fullmatch("[0-9a-fA-F]{6}", digits):
        raise ValueError(f"colour {text!r} is not of the form #rrggbb")
    return tuple(bytes.fromhex(digits))


def _to_hex(colour):
    return "#" + bytes(int(value) for value in colour).hex()
