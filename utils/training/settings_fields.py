"""What the fields of a run's settings.json may hold."""

from utils.classes import ALL_OTHERS, IGNORE, ClassTable
from utils.cli import LARGEST_SIDE
from utils.data.tiles import are_bands, are_limits
from utils.precision import FLOAT32, PRECISIONS


def _is_recipe(value):
    # train.py compares the others with its flags when a run resumes.
    return value.get("precision", FLOAT32) in [*PRECISIONS] if isinstance(value, dict) else False


def _are_names(value):
    names = [value] if isinstance(value, str) else value
    return names is None or isinstance(names, list) and all(isinstance(n, str) for n in names)


def _is_class_table(value):
    try:
        table = ClassTable.from_settings(value)
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    known = {*range(len(table)), IGNORE}
    return (2 <= len(table) <= IGNORE and all(isinstance(name, str) for name in table.names)
            and len({*table.names}) == len(table) and all(
                type(row.id) is int and row.id in known and isinstance(row.name, str)
                and all(type(one) is int or one == ALL_OTHERS for one in row.values)
                for row in table.rows))


def _is_above_zero(value):
    return type(value) in (int, float) and 0 < value < float("inf")


# The fields of settings.json: what each is, and whether a value (None where it is missing) fits.
FIELDS = {
    "model": ("a set of fields", lambda value: isinstance(value, dict)),
    "classes": ("a class table", _is_class_table),
    "tile_size": (f"a whole number from 1 to {LARGEST_SIDE}",
                  lambda value: type(value) is int and 0 < value <= LARGEST_SIDE),
    "test_scene": ("a name or names", _are_names),
    "training": ("train.py's flags", lambda value: value is None or _is_recipe(value)),
    "bands": ("numbers of bands from 1", lambda value: value is None or are_bands(value)),
    "stretch": ("pairs (low, high)", lambda value: value is None or are_limits(value)),
    "gsd": ("metres a pixel", lambda value: value is None or _is_above_zero(value)),
    "resample": ("a gsd or a factor", lambda value: value is None or isinstance(value, dict) and (
        list(value) in (["gsd"], ["factor"]) and all(map(_is_above_zero, value.values()))))}
