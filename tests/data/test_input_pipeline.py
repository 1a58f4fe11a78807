"""utils/data/input_pipeline.py: order of the tiles, resuming, and tiles that cannot be used."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from conftest import class_table, write_tile_set

from utils.data.input_pipeline import training_batches
from utils.data.scenes import write_png
from utils.data.tile_writer import encode_tile
from utils.data.tiles import TileSet

COUNT, BATCH = 7, 3
CLASSES = 5


@pytest.fixture
def dataset(tmp_path):
    """COUNT tiles of 16x16 whose red band is the tile's number."""
    tiles = []
    for number in range(COUNT):
        image = np.full((16, 16, 3), number, np.uint8)
        image[..., 1] = 50
        label = np.full((16, 16), number % CLASSES, np.uint8)
        label[0, 0] = 255
        tiles.append((image, label))
    write_tile_set(tmp_path, tiles)
    return tmp_path


def tile_set_in(folder, num_classes=CLASSES):
    return TileSet(str(folder), class_table(num_classes))


def read_batches(folder, seed, first_step, steps, num_classes=CLASSES):
    """(images, labels) of `steps` batches from `first_step` on."""
    with tf.Graph().as_default(), tf.Session() as session:
        images, labels, start = training_batches(
            tile_set_in(folder, num_classes), BATCH, seed, tf.constant(first_step, tf.int64))
        assert images.shape.as_list() == [BATCH, 16, 16, 3]
        assert labels.shape.as_list() == [BATCH, 16, 16]
        session.run(start)
        return [session.run((images, labels)) for _ in range(steps)]


def numbers(batches):
    return np.concatenate([images[:, 8, 8, 0] for images, _ in batches])


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 7])
def test_tiles_of_any_number_of_bands_come_out_as_they_went_in(tmp_path, bands):
    random = np.random.default_rng(0)
    written = random.integers(0, 256, (4, 16, 16, bands)).astype(np.uint8)
    write_tile_set(tmp_path, [(image, np.full((16, 16), number, np.uint8))
                              for number, image in enumerate(written)])
    tile_set = tile_set_in(tmp_path)
    assert (tile_set.tile_size, tile_set.channels) == (16, bands)
    for row, image in zip(tile_set.training.itertuples(), written):
        np.testing.assert_array_equal(tile_set.read_tile(row)[0], image)
    with tf.Graph().as_default(), tf.Session() as session:
        images, labels, start = training_batches(tile_set, 4, 0, tf.constant(0))
        assert images.shape.as_list() == [4, 16, 16, bands]
        session.run(start)
        images, labels = session.run((images, labels))
    np.testing.assert_array_equal(images, written[labels[:, 0, 0]])


def test_a_tile_of_other_bands_than_the_first_is_named(dataset):
    (dataset / "images" / "3.png").write_bytes(encode_tile(np.zeros((16, 16, 4), np.uint8)))
    with pytest.raises(tf.errors.OpError):
        read_batches(dataset, 0, 0, COUNT)
    with pytest.raises(ValueError, match="images/3.png: 16 x 16 pixels of 4 .*not .* of 3"):
        tile_set_in(dataset).name_faulty_tile()


def test_an_epoch_visits_each_tile_once_in_an_order_of_its_own(dataset):
    order = numbers(read_batches(dataset, 0, 0, COUNT * 2)).reshape(-1, COUNT)  # six epochs
    assert (np.sort(order, axis=1) == np.arange(COUNT)).all()
    assert len({tuple(epoch) for epoch in order}) > 3
    other = numbers(read_batches(dataset, 1, 0, COUNT * 2)).reshape(-1, COUNT)
    assert (order != other).any()


def test_a_label_stays_with_its_image(dataset):
    for images, labels in read_batches(dataset, 0, 0, 5):
        assert (labels[:, 8, 8] == images[:, 8, 8, 0] % CLASSES).all()
        assert (labels[:, 0, 0] == 255).all()
        assert (images[..., 1] == 50).all()  # RGB as written


def test_batches_are_the_same_from_the_start_and_resumed(dataset):
    whole = read_batches(dataset, 4, 0, 9)
    for first in (1, 5):
        for (images, labels), (images_again, labels_again) in zip(
                whole[first:], read_batches(dataset, 4, first, 9 - first)):
            np.testing.assert_array_equal(images, images_again)
            np.testing.assert_array_equal(labels, labels_again)


def truncate(folder):
    data = (folder / "images" / "3.png").read_bytes()
    (folder / "images" / "3.png").write_bytes(data[:len(data) // 2])
    return "images/3.png"


def truncate_label(folder):
    data = (folder / "labels" / "3.png").read_bytes()
    (folder / "labels" / "3.png").write_bytes(data[:len(data) // 2])
    return "labels/3.png"


def remove(folder):
    (folder / "images" / "3.png").unlink()
    return "images/3.png"


def remove_label(folder):
    (folder / "labels" / "3.png").unlink()
    return "labels/3.png"


def label_outside_table(folder):
    write_png(str(folder / "labels" / "3.png"), np.full((16, 16), CLASSES, np.uint8))
    return "labels/3.png"


def label_of_another_size(folder):
    write_png(str(folder / "labels" / "3.png"), np.zeros((16, 15), np.uint8))
    return "labels/3.png"


def label_of_another_shape(folder):
    # As many pixels as the others have.
    write_png(str(folder / "labels" / "3.png"), np.zeros((8, 32), np.uint8))
    return "labels/3.png"


def tile_of_another_size(folder):
    write_png(str(folder / "images" / "3.png"), np.zeros((8, 8, 3), np.uint8))
    write_png(str(folder / "labels" / "3.png"), np.zeros((8, 8), np.uint8))
    return "images/3.png"


def colour_mask(folder):
    # Each of its greys is a class id, so nothing but the number of bands gives it away.
    write_png(str(folder / "labels" / "3.png"), np.full((16, 16, 3), 0, np.uint8))
    return "labels/3.png"


@pytest.mark.parametrize("spoil", [
    truncate, truncate_label, remove, remove_label, label_outside_table, label_of_another_size,
    label_of_another_shape, tile_of_another_size, colour_mask])
def test_a_tile_that_cannot_be_used_stops_reading_and_is_named(dataset, spoil):
    name = spoil(dataset)
    with pytest.raises(tf.errors.OpError):
        read_batches(dataset, 0, 0, COUNT)
    with pytest.raises((ValueError, OSError), match=name):
        tile_set_in(dataset).name_faulty_tile()


def test_no_tile_is_named_where_all_can_be_used(dataset):
    tile_set_in(dataset).name_faulty_tile()


def test_the_class_count_decides_which_labels_are_known(dataset):
    with pytest.raises(tf.errors.InvalidArgumentError):
        read_batches(dataset, 0, 0, COUNT, num_classes=CLASSES - 1)
    read_batches(dataset, 0, 0, COUNT, num_classes=CLASSES + 1)
