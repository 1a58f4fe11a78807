"""What benchmarks.fuzz holds every case to."""

import contextlib
import io
import json
import os
import signal
import sys
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyogrio
import rasterio
import shapely
from rasterio.features import rasterize
from sklearn.metrics import confusion_matrix

OK, REFUSED = "mapped", "refused"


class Fault(Exception):
    """The property does not hold."""


def call(main, arguments):
    """(exit status, standard output, error output) of a script's main in this process."""
    out, errors, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [main.__module__.split(".")[-1] + ".py", *arguments]
    handlers = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            status = main(arguments) or 0
    except SystemExit as end:
        status = end.code
    except (ValueError, OSError, MemoryError) as error:  # as utils.cli.run_script
        status = 2
        errors.write("error: " + (" ".join(str(error).split()) or type(error).__name__))
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, handlers)
    return status, out.getvalue(), errors.getvalue()


def check_refusal(status, errors, folder):
    """Exit status 2, and one line at the end that names a file of the case or a flag."""
    if status != 2:
        raise Fault(f"exit status {status}: {errors}")
    lines = errors.strip().splitlines()
    told = [line for line in lines if "error: " in line]
    if "Traceback" in errors or len(told) != 1 or told[0] != lines[-1]:
        raise Fault(f"not one line: {errors}")
    if not (folder in told[0] or "--" in told[0] or "argument" in told[0]):
        raise Fault(f"names no file and no flag: {errors}")


def check_whole(folder, names):
    """Every file can be read to its end."""
    for name in names:
        path, ending = os.path.join(folder, name), name.rpartition(".")[2]
        try:
            if ending in ("tif", "png"):
                with rasterio.open(path) as file:
                    file.read()
            elif ending in ("gpkg", "geojson"):
                pyogrio.raw.read(path)
            elif ending == "csv":
                pd.read_csv(path)
            elif ending == "json":
                with open(path, encoding="utf-8") as file:
                    json.load(file)
            elif ending == "xml":
                ElementTree.parse(path)
            else:
                raise ValueError("of no known kind")
        except Exception as error:
            raise Fault(f"{name} is not whole: {error!r}") from error


def check_polygons(path, classes, file):
    """The polygons, burnt by rasterio into the grid of the map's open file, are the map."""
    _, _, shapes, (numbers, *_) = pyogrio.raw.read(path, columns=["class_id"])
    is_placed = file.crs and not file.transform.is_identity
    burnt = np.full_like(classes, 255)
    if len(shapes):
        burnt = rasterize(
            zip(shapely.from_wkb(shapes), numbers.tolist()), classes.shape, 255, dtype="uint8",
            transform=file.transform if is_placed else rasterio.Affine(1, 0, 0, 0, -1, 0))
    if not np.array_equal(burnt, classes):
        raise Fault("the polygons are not those of the map")


def check_matrix(path, ids, classes):
    """The confusion matrix beside a map is scikit-learn's."""
    with open(path, encoding="utf-8") as file:
        matrix = np.array(json.load(file)["matrix"])
    valid = (ids < 3) & (classes < 3)
    expected = confusion_matrix(ids[valid], classes[valid], labels=range(3))
    if not np.array_equal(matrix, expected):
        raise Fault(f"confusion matrix {matrix.tolist()}, scikit-learn's is {expected.tolist()}")
