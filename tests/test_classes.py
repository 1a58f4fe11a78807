import numpy as np
import pytest

from utils.classes import (IGNORE, ClassTable, check_labels, colour_map, decode_colours,
                           read_classes)

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
    ("id,name,colour\n0,a,#000000\n0,b,#111111\n", "without gaps"),
    ("id,name,colour\n0,a,#000000\nx,b,#111111\n", "without gaps"),
    ("id,name,colour\n0,a,#000000\n1,,#111111\n", "empty field"),
    ("id,name,colour\n0,a,#000000\n1,b,\n", "empty field"),
    ("id,name,colour\n0,a,#000000\n1,a,#111111\n", "name occurs twice"),
    ("id,name,colour\n0,a,#00aa00\n1,b,#00AA00\n", "#00aa00 is used twice"),
    ("id,name,colour\n0,a,#000000\n1,b,#ff00ff\n", "#ff00ff is used twice"),
    ("id,name,colour\n0,a,#000000\n1,b,red\n", "'red'"),
    ("id,name,colour\n0,a,#000000\n1,b,#12345\n", "'#12345'"),
    ("id,name,colour\n0,a,#000000\n1,b,ff  ff\n", "'ff  ff'"),
    ("id,name,colour\n0,a,#000000\n1,b,#1234gg\n", "'#1234gg'"),
    ("id,name,colour\n0,a,#000000\n1,b,c,d,e\n", "not a class table"),
    ("id,name,colour\n" + "".join(f"{i},c{i},#{i:06x}\n" for i in range(256)), "reserved"),
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
    check_labels(labels, table, "x")
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
    check_labels(labels, table, "label.png")
    labels[2, 2] = 3
    with pytest.raises(ValueError, match=r"label\.png: label value 3 "):
        check_labels(labels, table, "label.png")


def test_settings_bring_the_table_back(table):
    again = ClassTable.from_settings(table.to_settings())
    assert again.names == table.names
    np.testing.assert_array_equal(again.colours, table.colours)


def test_a_folder_in_place_of_the_table_is_named(tmp_path):
    with pytest.raises(OSError, match=f"{tmp_path}: could not be read .* with --classes"):
        read_classes(str(tmp_path))
