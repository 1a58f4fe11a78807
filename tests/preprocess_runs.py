"""What the tests of preprocess.py share: its command, and the tiles of small scenes."""

import filecmp
import subprocess
import sys

import pandas as pd
import pytest
from conftest import REPOSITORY, write_small_dataset
from utils.data.tiles import SCENES

TABLE = str(REPOSITORY / "dataset" / "classes.csv")
SIZE = 64
FLAGS = ("--tile_size", SIZE, "--validation_fraction", 0.2, "--seed", 7)


def preprocess_command(dataset, *flags):
    return [sys.executable, str(REPOSITORY / "preprocess.py"), "--dataset", str(dataset),
            "--classes", TABLE, *map(str, flags)]


def run_preprocess(dataset, *flags, **options):
    return subprocess.run(preprocess_command(dataset, *flags), capture_output=True, text=True,
                          timeout=120, **options)


def read_list(dataset, name="path_list.csv"):
    return pd.read_csv(dataset / name, dtype={"scene": str}, keep_default_na=False)


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def same_content(first, second, names):
    """Whether two tile sets are the same but for the paths to their scenes."""
    names = [name for name in names if name != SCENES]
    return filecmp.cmpfiles(first, second, names, shallow=False) == (names, [], [])


@pytest.fixture(name="tile_set", scope="session")
def tile_set_fixture(tmp_path_factory):
    """150 tiles of the small scenes 1 and 2, cut by one process."""
    dataset = write_small_dataset(tmp_path_factory.mktemp("tiles"))
    result = run_preprocess(dataset, *FLAGS, "--tiles", 150, "--workers", 1)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return dataset
