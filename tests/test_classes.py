import json

import cv2
import numpy as np
import pytest

from utils.classes import (IGNORE, ClassTable, colour_map, decode_colours,
                           decode_values, read_classes)
from utils.data.scenes import read_label

GOOD = "id,name,colour\n0,land,#ffffff\n1,None,#00FF00\n2,road,#000000\n"


@pytest.fixture(name="table")
def table_fixture(tmp_path):
    (tmp_path / "classes.csv").write_text(GOOD)
    return read_classes(str(tmp_path / "classes.csv"))


def test_reads_names_and_colours_in_the_order_of_ids(table):
    assert len(table) == 3
    assert table.names == ("land", "None", "road")
    assert table.colours.tolist() == [[255, 255, 255], [0, 255, 0], [0, 0, 0]]
    assert table.colours.dtype == np.uint8


def test_the_repository_s_own_table_is_good(repository):
    table = read_classes(str(repository / "dataset" / "classes.csv"))
    assert table.names == ("other", "vegetation", "road", "building", "water")


@pytest.mark.parametrize("text, complaint", [
    ("", "not a class table"),
    ("id;name;colour\n0;a;#000000\n1;b;#111111\n", "is missing"),
    ("id,name\n0,a\n1,b\n", "column colour is missing"),
    ("id,name,colour\n0,a,#000000\n", "two at least"),
    ("id,name,colour\n", "two at least"),
    ("id,name,colour\n0,a,#000000\n2,b,#111111\n", "without gaps"),
    ("id,name,colour\n1,a,#000000\n2,b,#111111\n", "without gaps"),
    ("id,name,colour\n0,a,#000000\n0,b,#111111\n", "two at least"),
    ("id,name,colour\n0,a,#000000\n1,b,#222222\n0,b,#111111\n", "id 0 is called a and b"),
    ("id,name,colour\n0,a,#000000\nx,b,#111111\n", "without gaps"),
    ("id,name,colour\n0,a,#000000\n1,,#111111\n", "empty field"),
    ("id,name,colour\n0,a,#000000\n1,b,\n", "empty field"),
    ("id,name,colour\n0,a,#000000\n1,a,#111111\n", "name occurs twice"),
    ("id,name,colour\n0.0,a,#000000\n1.0,b,#111111\n1.0,c,#222222\n", "called b and c"),
    ("id,name,colour\n0,a,#00aa00\n1,b,#00AA00\n", "#00aa00 is used twice"),
    ("id,name,colour\n0,a,#000000\n1,b,#ff00ff\n255,none,#ff00ff\n", "#ff00ff is used twice"),
    ("id,name,colour,value\n0,a,#000000,1\n1,b,#ff00ff,2 1\n", "value 1 is used twice"),
    ("id,name,colour,value\n0,a,#000000,\n1,b,#ff00ff,\n255,none,,1\n", "value 1 is used twice"),
    ("id,name,colour,value\n0,a,#000000,1\n1,b,#ff00ff,two\n", "value 'two' of b is not whole"),
    ("id,name,colour\n0,a,#000000\n1,b,red\n", "'red'"),
    ("id,name,colour\n0,a,#000000\n1,b,#12345\n", "'#12345'"),
    ("id,name,colour\n0,a,#000000\n1,b,ff  ff\n", "'ff  ff'"),
    ("id,name,colour\n0,a,#000000\n1,b,#1234gg\n", "'#1234gg'"),
    ("id,name,colour\n0,a,#000000\n1,b,c,d,e\n", "not a class table"),
    ("id,name,colour\n" + "".join(f"{i},c{i},#{i:06x}\n" for i in range(257)), "without gaps"),
])
def test_a_bad_table_is_refused_with_its_name_and_its_fault(tmp_path, text, complaint):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        read_classes(str(path))
    assert str(path) in str(error.value) and complaint in str(error.value)


def test_a_table_that_is_binary_or_missing_is_refused(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_bytes(b"\xff\xfe\x00\x81" * 20)
    with pytest.raises(ValueError, match="not a class table"):
        read_classes(str(path))
    with pytest.raises(FileNotFoundError, match="--classes"):
        read_classes(str(tmp_path / "none.csv"))


def test_255_classes_is_the_most(tmp_path):
    path = tmp_path / "many.csv"
    path.write_text("id,name,colour\n" + "".join(f"{i},c{i},#{i:06x}\n" for i in range(255)))
    table = read_classes(str(path))
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(decode_values(labels, table, "x"), labels)
    np.testing.assert_array_equal(decode_colours(colour_map(labels, table), table, "x"), labels)


def test_decoding_is_the_inverse_of_colouring_ignore_included(table):
    labels = np.random.default_rng(0).choice(np.array([0, 1, 2, IGNORE], np.uint8), (37, 41))
    coloured = colour_map(labels, table)
    assert coloured.shape == (37, 41, 3) and coloured.dtype == np.uint8
    assert (coloured[labels == 1] == [0, 255, 0]).all()
    decoded = decode_colours(coloured, table, "mask.png")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, labels)


def test_an_unknown_colour_is_named_with_its_count_and_file(table):
    mask = colour_map(np.zeros((10, 10), np.uint8), table)
    mask[2:4, 3:6] = (0x12, 0x34, 0x56)
    mask[9, 9] = (255, 255, 254)
    with pytest.raises(ValueError) as error:
        decode_colours(mask, table, "mask.png")
    message = str(error.value)
    assert "mask.png" in message and "#123456" in message and "6 pixels" in message


def test_a_label_value_outside_the_table_is_named(table):
    labels = np.zeros((5, 5), np.uint8)
    labels[0, 0] = IGNORE
    labels[1, 1] = 2
    np.testing.assert_array_equal(decode_values(labels, table, "label.png"), labels)
    labels[2, 2] = 3
    with pytest.raises(ValueError, match=r"label\.png: label value 3 "):
        decode_values(labels, table, "label.png")


def test_settings_bring_the_table_back(table):
    again = ClassTable.from_settings(table.to_settings())
    assert again.names == table.names
    np.testing.assert_array_equal(again.colours, table.colours)
    old = [{"name": name, "colour": colour} for name, colour in (("land", "#ffffff"),
                                                                 ("sea", "#0000ff"))]
    table = ClassTable.from_settings(old)
    assert table.to_settings() == old and table.ignore_colour == (255, 0, 255)
    np.testing.assert_array_equal(decode_values(np.uint8([[0, 1, 255]]), table, "l"), [[0, 1, 255]])


def test_a_folder_in_place_of_the_table_is_named(tmp_path):
    with pytest.raises(OSError, match=f"{tmp_path}: could not be read .* with --classes"):
        read_classes(str(tmp_path))


RICH = """id,name,colour,value
0,land,#ff00ff,1 2
1,sea,#0000ff,40
255,unknown,#000000,0
255,clouds,#ff0000,
0,land,#884400,300
"""


@pytest.fixture
def rich(tmp_path):
    (tmp_path / "rich.csv").write_text(RICH)
    return read_classes(str(tmp_path / "rich.csv"))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_values_of_a_label_become_the_ids_that_the_table_gives_them(rich, dtype):
    meant = {0: 255, 1: 0, 2: 0, 40: 1, 300: 0, 255: 255}
    values = np.random.default_rng(0).choice(list(meant), (30, 40)).astype(dtype)
    expected = np.vectorize(meant.get)(values)
    ids = decode_values(values, rich, "label.tif")
    assert ids.dtype == np.uint8
    np.testing.assert_array_equal(ids, expected)
    few = np.minimum(values, 254).astype(np.uint8)
    with pytest.raises(ValueError, match="label.tif: label value 254 is not in .*1, 2, 40, 300"):
        decode_values(few, rich, "label.tif")


def test_colours_of_a_class_and_of_what_is_ignored_are_rows_like_any_other(rich):
    mask = np.uint8([[[255, 0, 255], [0, 0, 255], [0, 0, 0], [255, 0, 0], [0x88, 0x44, 0]]])
    np.testing.assert_array_equal(decode_colours(mask, rich, "m"), [[0, 1, 255, 255, 0]])
    np.testing.assert_array_equal(colour_map(np.uint8([[0, 255]]), rich),
                                  [[[255, 0, 255], [0, 0, 0]]])
    again = ClassTable.from_settings(json.loads(json.dumps(rich.to_settings())))
    assert len(again) == 2 and again.rows == rich.rows
    assert again.ids_of_colours == rich.ids_of_colours
    assert again.ids_of_values == rich.ids_of_values


def test_magenta_may_be_a_class_and_then_another_colour_is_ignored(tmp_path):
    (tmp_path / "t.csv").write_text("id,name,colour\n0,a,#ff00ff\n1,b,#00ff00\n")
    table = read_classes(str(tmp_path / "t.csv"))
    labels = np.uint8([[0, 1, 255]])
    coloured = colour_map(labels, table)
    assert len({tuple(pixel) for pixel in coloured[0].tolist()}) == 3
    np.testing.assert_array_equal(decode_colours(coloured, table, "m"), labels)


def test_the_colour_of_what_is_ignored_is_no_further_colour_of_a_class(tmp_path):
    (tmp_path / "t.csv").write_text(
        "id,name,colour\n0,a,#ffffff\n1,b,#00ff00\n1,b,#ff00ff\n1,b,#ff00fe\n")
    table = read_classes(str(tmp_path / "t.csv"))
    labels = np.uint8([[0, 1, 255]])
    np.testing.assert_array_equal(decode_colours(colour_map(labels, table), table, "m"), labels)


@pytest.mark.parametrize("text, meant", [
    ("0,a,#ffffff,7\n1,b,#00ff00,8\n0,a,#ffffff,9\n", {7: 0, 9: 0, 8: 1}),
    ("0,a,#ffffff,\n1,b,#00ff00,\n255,none,,99\n", {0: 0, 1: 1, 99: 255}),
    ("0,a,#ffffff,-1\n1,b,#00ff00,70000\n", {-1: 0, 70000: 1}),
])
def test_values_by_rows_of_one_id_and_for_what_is_ignored_alone(tmp_path, text, meant):
    (tmp_path / "t.csv").write_text("id,name,colour,value\n" + text)
    table = read_classes(str(tmp_path / "t.csv"))
    values = np.int32([list(meant)])
    np.testing.assert_array_equal(decode_values(values, table, "l"), [list(meant.values())])


def test_all_other_colours_and_values_can_be_ignored_by_name(tmp_path):
    (tmp_path / "t.csv").write_text(
        "id,name,colour,value\n0,a,#ffffff,7\n1,b,#00ff00,255\n255,rest,*,*\n")
    table = read_classes(str(tmp_path / "t.csv"))
    mask = np.uint8([[[255, 255, 255], [1, 2, 3], [0, 255, 0]]])
    np.testing.assert_array_equal(decode_colours(mask, table, "m"), [[0, 255, 1]])
    np.testing.assert_array_equal(decode_values(np.uint8([[7, 3, 255]]), table, "l"), [[0, 255, 1]])


@pytest.mark.parametrize("name", ["deepglobe", "isprs", "loveda", "worldcover"])
def test_the_tables_of_public_data_sets_are_good(repository, name):
    table = read_classes(str(repository / "dataset" / "tables" / f"{name}.csv"))
    assert len(table) >= 6


# Two of them have red, one has black.
@pytest.mark.parametrize("mask", ["validation/0000", "validation/0177", "train/0182", "train/0008"])
def test_real_masks_of_deepglobe_are_read_by_its_table(repository, shared_data, mask):
    table = read_classes(str(repository / "dataset" / "tables" / "deepglobe.csv"))
    path = str(shared_data / "deepglobe" / f"{mask}_mask.png")
    codes = (cv2.imread(path)[..., ::-1] > 127) @ [4, 2, 1]
    expected = np.uint8([255, 4, 3, 0, 255, 2, 1, 5])[codes]
    np.testing.assert_array_equal(read_label(path, table), expected)


def test_maps_hold_ids_whatever_values_labels_hold(rich):
    np.testing.assert_array_equal(decode_values(np.uint8([[0, 1, 255]]), rich.of_maps(), "m"),
                                  [[0, 1, 255]])
    np.testing.assert_array_equal(decode_colours(colour_map(np.uint8([[0, 1, 255]]), rich),
                                                 rich.of_maps(), "m"), [[0, 1, 255]])
