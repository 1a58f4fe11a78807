"""utils/data/tiles.py: the lists and what lies beside the tiles, and what is wrong with them."""

import os
import types
from dataclasses import replace

import numpy as np
import pytest
from conftest import class_table, write_tile_set

from utils.classes import ClassTable, Row
from utils.data import tile_writer, tiles
from utils.data.tiles import BANDS, FREQUENCIES, TRAINING_LIST, TileSet, read_bands

PIXELS = np.array([700, 200, 0, 90, 10])


@pytest.fixture
def dataset(tmp_path):
    """A folder of two tiles without class frequencies."""
    write_tile_set(tmp_path, [(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8))] * 2)
    return tmp_path


def write_frequencies(folder, bands=(None, None)):
    """What preprocess.py writes for training pixels PIXELS and 55 ignored ones, of no tile."""
    counts = np.zeros(256, np.int64)
    counts[:len(PIXELS)], counts[255] = PIXELS, 55
    frequencies = tile_writer.class_frequencies(class_table(len(PIXELS)), counts, counts // 10)
    rows = [("images/0.png", "labels/0.png", 0, 3, 4, "")]
    tile_writer.write_lists(str(folder), ["1"], rows, [], frequencies, tiles.TileInput(*bands))


@pytest.mark.parametrize("content, message", [
    (None, "run 'python preprocess.py"),
    ("", "not a list of tiles"),
    ("scene,row\n1,2\n", "no columns image and label"),
    ("image,label\n", "names no tile"),
    (b"\xff\xfe\x00image", "not a list of tiles"),
])
def test_a_list_that_cannot_be_used_is_named(tmp_path, content, message):
    path = tmp_path / "path_list.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((ValueError, OSError), match=message) as error:
        tiles.read_tile_list(str(tmp_path))
    assert str(path) in str(error.value)


def test_a_tile_set_is_read_as_it_was_written(dataset):
    write_frequencies(dataset)
    tile_set = TileSet(str(dataset), class_table(5))
    assert tile_set.training["scene"].tolist() == ["1"] and tile_set.validation.empty
    assert tile_set.shape == (16, 16, 3) and tile_set.noted_bands == {}
    np.testing.assert_array_equal(tile_set.class_pixels, PIXELS)


def test_labels_of_tiles_hold_ids_whatever_values_label_files_hold(tmp_path):
    label = np.arange(256, dtype=np.uint8).reshape(16, 16) % 5
    write_tile_set(tmp_path, [(np.zeros((16, 16, 3), np.uint8), label)])
    rows = tuple(Row(number, f"class {number}", None, (100 * number,)) for number in range(5))
    tile_set = TileSet(str(tmp_path), replace(class_table(5), rows=rows))
    read = tile_set.read_tile(next(tile_set.training.itertuples()))[1]
    np.testing.assert_array_equal(read, label)


@pytest.mark.parametrize("name", [TRAINING_LIST, FREQUENCIES])
def test_the_fingerprint_changes_with_the_list_and_the_class_frequencies(dataset, name):
    assert len(TileSet(str(dataset), class_table(5)).fingerprint) == 16
    write_frequencies(dataset)
    before = TileSet(str(dataset), class_table(5)).fingerprint
    assert TileSet(str(dataset), class_table(5)).fingerprint == before
    (dataset / name).write_text((dataset / name).read_text().replace("0", "1"))
    assert TileSet(str(dataset), class_table(5)).fingerprint != before


@pytest.mark.parametrize("change", [lambda path: path.write_text(path.read_text() + "\n"),
                                    lambda path: path.unlink(),
                                    # The same crops of other bands: another file, equal to it.
                                    lambda path: os.utime(path, ns=(1, 1))])
def test_tiles_that_are_replaced_after_the_start_are_noticed(dataset, change):
    tile_set = TileSet(str(dataset), class_table(5))
    assert tile_set.fingerprint
    tile_set.check_unchanged()
    change(dataset / TRAINING_LIST)
    with pytest.raises(ValueError, match="its tiles were replaced or removed meanwhile"):
        tile_set.check_unchanged()


def test_the_fingerprint_is_that_of_older_runs(dataset):
    (dataset / TRAINING_LIST).write_text("image,label\na.png,b.png\n")
    # printf 'image,label\na.png,b.png\n' | sha256sum
    assert TileSet(str(dataset), class_table(5)).fingerprint == "2f6ee856d834fc31"


def test_missing_class_frequencies_are_named_where_they_are_asked_for(dataset):
    with pytest.raises(OSError, match=f"{FREQUENCIES}: could not be read.*preprocess.py"):
        TileSet(str(dataset), class_table(5)).class_pixels


@pytest.mark.parametrize("text, message", [
    ("", "not the class frequencies"), ("a,b\n1,2\n", "not the class frequencies"),
    ("id,train_pixels\n0,x\n255,0\n", "not the class frequencies"),
    ("id,train_pixels\n0,\n1,3\n255,0\n", "not numbers of pixels"),
    ("id,train_pixels\n0,5\n1,3\n", "not the class frequencies"),
    ("id,train_pixels\n0,5\n255,3\n", "not the 2 of --classes"),
    ("id,train_pixels\n0,0\n1,0\n255,3\n", "all are 0"),
    ("id,train_pixels\n0,-1\n1,5\n255,3\n", "not numbers of pixels")])
def test_class_frequencies_that_do_not_fit_are_named(dataset, text, message):
    (dataset / FREQUENCIES).write_text(text)
    with pytest.raises(ValueError, match=f"{FREQUENCIES}: .*{message}"):
        TileSet(str(dataset), class_table(2)).class_pixels


def test_tiles_of_other_classes_are_refused_by_name_and_more_classes_are_not(dataset):
    write_frequencies(dataset)
    for count in (4, 5, 6):
        TileSet(str(dataset), class_table(count))
    names = class_table(5).names
    other = ClassTable(("class 0", "ice", *names[2:]), class_table(5).colours)
    with pytest.raises(ValueError, match=f"{FREQUENCIES}: .*1 is class 1, not ice"):
        TileSet(str(dataset), other)


def test_noted_bands_are_read_again_or_refused_by_file(tmp_path):
    folder = str(tmp_path)
    assert read_bands(folder) == {}
    write_frequencies(tmp_path, ([4, 1], [[0, 900], [5, 50]]))
    assert read_bands(folder) == {"bands": [4, 1], "stretch": [[0, 900], [5, 50]]}
    for noted in ((5, None), (["red"], None), ([0, 1], None), ([4, 1], [[0, 900]]),
                  ([4, 1], [[0, 900], [5]]), (None, [[0, 1]] * 3)):
        write_frequencies(tmp_path, noted)
        with pytest.raises(ValueError, match=f"{BANDS}: not what preprocess.py writes"):
            read_bands(folder)


def test_tiles_are_not_written_where_they_could_not_be_put_in_place(tmp_path, small_disk):
    (tmp_path / "train").symlink_to(small_disk)
    (tmp_path / TRAINING_LIST).touch()
    with pytest.raises(OSError, match=f"{tmp_path}/train: on another disk than {tmp_path}"):
        with tile_writer.replacing_tile_set(str(tmp_path)):
            raise AssertionError("nothing may be written")
    assert {path.name for path in tmp_path.iterdir()} == {"train", TRAINING_LIST, "disk"}


def test_tiles_that_do_not_fit_on_the_disk_are_refused(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    sample = [(noise, np.zeros((64, 64), np.uint8))]  # 12.3 kB and less than a block: 4 + 1 blocks
    usage = types.SimpleNamespace(free=100 * 5 * 4096)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    tile_writer.check_free_space(str(tmp_path), 100, sample)
    with pytest.raises(OSError, match="101 tiles take about 0.00207 GB there, and 0.00205 GB are"):
        tile_writer.check_free_space(str(tmp_path), 101, sample)
