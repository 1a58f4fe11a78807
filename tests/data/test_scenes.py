import struct

import cv2
import numpy as np
import pytest

from utils.classes import colour_map, read_classes
from utils.data.scenes import (choose_scenes, encode_png, find_scenes, read_image, read_label,
                               read_scene, write_png)


@pytest.fixture(name="table", scope="module")
def table_fixture(repository):
    return read_classes(str(repository / "dataset" / "classes.csv"))


def touch(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"")


def test_finds_scenes_in_natural_order_with_their_labels(tmp_path):
    touch(tmp_path, "10.png", "2.JPG", "2_class.png", "north.tif", "north_class.tiff", "notes.txt",
          ".hidden.png", "1.png", "10_class.tif")
    scenes = find_scenes(str(tmp_path))
    assert list(scenes) == ["1", "2", "10", "north"]
    assert scenes["1"].label_path is None
    assert scenes["2"].label_path == str(tmp_path / "2_class.png")
    assert scenes["north"].label_path == str(tmp_path / "north_class.tiff")
    assert [scene.name for scene in choose_scenes(scenes, ["10", "1"], "f")] == ["10", "1"]
    with pytest.raises(ValueError, match="no scene 7; there are 1, 2, 10, north"):
        choose_scenes(scenes, ["1", "7"], "f")


def test_no_scenes_names_both_ways_on(tmp_path):
    touch(tmp_path, "readme.txt", "1_class.png")
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match="README.md.*utils.data.demo_scenes"):
            find_scenes(str(folder))


def test_two_files_of_one_scene_are_refused(tmp_path):
    touch(tmp_path, "1.png", "1.jpg")
    with pytest.raises(ValueError, match="1.jpg and 1.png are both scene 1"):
        find_scenes(str(tmp_path))


@pytest.mark.parametrize("photo", [False, True])
def test_png_keeps_every_pixel_and_is_rgb_on_disk(tmp_path, draw_scene, photo):
    image, label = draw_scene(61, 83)
    (tmp_path / "1.png").write_bytes(encode_png(image, photo=photo))
    np.testing.assert_array_equal(read_image(str(tmp_path / "1.png")), image)
    # OpenCV gives BGR, so the file itself is in the usual order.
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "1.png"))[..., ::-1], image)
    write_png(str(tmp_path / "new" / "l.png"), label)
    np.testing.assert_array_equal(
        cv2.imread(str(tmp_path / "new" / "l.png"), cv2.IMREAD_UNCHANGED), label)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["l.png"]


def test_label_as_ids_as_colours_and_as_16_bit_are_the_same(tmp_path, draw_scene, table):
    _, label = draw_scene(50, 70)
    write_png(str(tmp_path / "ids.png"), label)
    write_png(str(tmp_path / "colours.png"), colour_map(label, table))
    with_alpha = cv2.cvtColor(colour_map(label, table), cv2.COLOR_RGB2BGRA)
    cv2.imwrite(str(tmp_path / "alpha.png"), with_alpha)
    cv2.imwrite(str(tmp_path / "wide.tif"), label.astype(np.uint16))
    cv2.imwrite(str(tmp_path / "float.tif"), label.astype(np.float32))
    for name in ("ids.png", "colours.png", "alpha.png", "wide.tif", "float.tif"):
        read = read_label(str(tmp_path / name), table)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, label, err_msg=name)


@pytest.mark.parametrize("pixels, complaint", [
    (np.full((8, 8), 9, np.uint8), "label value 9 "),
    (np.full((8, 8), 300, np.uint16), "label value 300 is"),
    (np.full((8, 8), 258, np.uint16), "label value 258 is"),  # 2 if cut to a byte
    (np.full((8, 8), 1.5, np.float32), "label value 1.5 is"),
    (np.full((8, 8), np.nan, np.float32), "label value nan is"),
    (np.full((8, 8), -1, np.float32), "label value -1 is"),
    (np.full((8, 8, 3), 77, np.uint8), "#4d4d4d"),
    (np.full((8, 8, 3), 77, np.uint16), "3 bands of uint16"),
])
def test_a_label_that_is_none_is_refused_by_name(tmp_path, table, pixels, complaint):
    path = str(tmp_path / "1_class.tif")
    cv2.imwrite(path, pixels)
    with pytest.raises(ValueError) as error:
        read_label(path, table)
    assert path in str(error.value) and complaint in str(error.value)


@pytest.mark.parametrize("pixels", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.uint16)])
def test_an_image_needs_three_bands_of_8_bits(tmp_path, pixels):
    cv2.imwrite(str(tmp_path / "1.png"), pixels)
    with pytest.raises(ValueError, match="1.png.*needs three bands"):
        read_image(str(tmp_path / "1.png"))


def tiff_with_leading_directory(pixels, strips=4):
    """RGB uint8 -> bytes of an uncompressed TIFF, directory first as GDAL and cameras write it
    (OpenCV writes it last, where any cut is noticed)."""
    height, width = pixels.shape[:2]
    count = pixels.nbytes // strips
    bits = 8 + 2 + 10 * 12 + 4
    offsets, counts = bits + 6, bits + 6 + 4 * strips
    start = counts + 4 * strips
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, bits), (259, 3, 1, 1),
            (262, 3, 1, 2), (273, 4, strips, offsets), (277, 3, 1, 3),
            (278, 4, 1, height // strips), (279, 4, strips, counts), (284, 3, 1, 1)]
    return (b"II*\0" + struct.pack("<IH", 8, len(tags))
            + b"".join(struct.pack("<HHII", *tag) for tag in tags)
            + struct.pack("<I3H", 0, 8, 8, 8)
            + struct.pack(f"<{strips}I", *(start + count * i for i in range(strips)))
            + struct.pack(f"<{strips}I", *[count] * strips) + pixels.tobytes())


@pytest.mark.parametrize("extension", [".png", ".jpg", ".tif", "gdal.tif"])
def test_a_truncated_file_is_refused_and_never_filled_up(tmp_path, draw_scene, extension, capfd):
    image, _ = draw_scene(120, 160)
    if extension == "gdal.tif":
        data = tiff_with_leading_directory(image)
    else:
        data = cv2.imencode(extension, image[..., ::-1])[1].tobytes()
    path = tmp_path / f"1{extension}"
    path.write_bytes(data)
    read = read_image(str(path))
    assert np.abs(read.astype(int) - image).mean() < (12 if extension == ".jpg" else 1e-9)
    for kept in (0, 3, 20, len(data) // 2, len(data) - 500, len(data) - 6, len(data) - 2):
        path.write_bytes(data[:kept])
        with pytest.raises(ValueError, match="truncated") as error:
            read_image(str(path))
        assert str(path) in str(error.value)
    assert capfd.readouterr().err == ""


def test_a_missing_file_or_a_folder_is_an_oserror_with_its_name(tmp_path):
    for path in (tmp_path, tmp_path / "none.png"):
        with pytest.raises(OSError, match="could not be read") as error:
            read_image(str(path))
        assert str(path) in str(error.value)


def test_read_scene_checks_label_and_size(small_dataset, table):
    scene = find_scenes(str(small_dataset / "origin"))["1"]
    image, label = read_scene(scene, table)
    assert image.shape == (300, 340, 3) and label.shape == (300, 340)
    write_png(scene.label_path, label[:-1])
    with pytest.raises(ValueError, match="1_class.png: 299 x 340 .*1.png has 300 x 340"):
        read_scene(scene, table)
    (small_dataset / "origin" / "1_class.png").unlink()
    with pytest.raises(FileNotFoundError, match="1_class.png is missing"):
        read_scene(find_scenes(str(small_dataset / "origin"))["1"], table)
