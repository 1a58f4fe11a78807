"""path_list.csv -> batches of tiles. The order is a function of seed and step alone."""

import hashlib
import os

import cv2
import pandas as pd
import tensorflow.compat.v1 as tf

from utils.training.class_weights import FREQUENCIES
from utils.classes import IGNORE
from utils.data.scenes import read_label, read_tile_image

TRAINING_LIST, VALIDATION_LIST = "path_list.csv", "validation_list.csv"


def read_tile_list(dataset, name=TRAINING_LIST):
    """The list of tiles in folder `dataset`, its columns image and label made full paths.

    Raises FileNotFoundError, ValueError where the list is missing, empty or not one of ours.
    """
    path = os.path.join(dataset, name)
    try:
        tiles = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no list of tiles there; run 'python preprocess.py "
                                f"--dataset {dataset}' first") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a list of tiles ({error}); "
                         "run preprocess.py again") from None
    if not {"image", "label"} <= set(tiles.columns):
        raise ValueError(f"{path}: it has no columns image and label; run preprocess.py again")
    if name == TRAINING_LIST and tiles.empty:
        raise ValueError(f"{path}: it names no tile; run preprocess.py again")
    for column in ("image", "label"):
        tiles[column] = [os.path.join(dataset, file) for file in tiles[column]]
    return tiles


def checksum(dataset):
    """16 hexadecimal digits that change when preprocess.py cuts other tiles into `dataset`.

    Of the list, which tells every crop and its augmentations, and of the labels' statistics where
    they are: reading all tiles instead would take minutes.
    """
    digest = hashlib.sha256()
    for name in (TRAINING_LIST, FREQUENCIES):
        path = os.path.join(dataset, name)
        if os.path.exists(path):
            with open(path, "rb") as file:
                digest.update(file.read())
    return digest.hexdigest()[:16]


def read_tile(row, table, shape=None):
    """(image uint8 [size, size, bands], label uint8 [size, size]) of one row of a list of tiles.

    shape: the image's shape, where it must be that of other tiles. Raises OSError, ValueError
    naming the file.
    """
    image, label = read_tile_image(row.image), read_label(row.label, table)
    if image.shape != (shape or image.shape):
        raise ValueError("{}: {} x {} pixels of {} band(s), not the {} x {} of {} of the first "
                         "tile; run preprocess.py again".format(row.image, *image.shape, *shape))
    if image.shape[:2] != label.shape:
        raise ValueError(f"{row.label}: its size differs from {row.image}; run preprocess.py again")
    return image, label


def training_batches(tiles, batch_size, num_classes, seed, first_step, host=0, hosts=1,
                     augment=None):
    """Tensors (images uint8 [batch, size, size, bands], labels uint8 [batch, size, size]).

    Every epoch visits each tile once in an order drawn from `seed` and the epoch's number; batch
    `step` is the same whether the run began at 0 or resumed at `first_step`, an int64 tensor that
    is read when the returned initializer runs. Of several hosts (which `batch_size` must be
    divisible by) each reads its own part of the same batch. augment: function of an image, its
    label and a seed (int64 [2]: `seed` and the tile's position in the stream) to another image and
    label. Returns (images, labels, initializer).
    """
    share = batch_size // hosts
    count = len(tiles)
    images, labels = tf.constant(tiles["image"].values), tf.constant(tiles["label"].values)
    shape = read_tile_image(tiles["image"].iloc[0]).shape

    def paths(number):
        position = number // share * batch_size + host * share + number % share
        epoch, place = position // count, position % count
        key = tf.stack([tf.constant(seed, tf.int64), epoch])
        place = tf.random.experimental.index_shuffle(place, key, tf.constant(count - 1, tf.int64))
        return tf.gather(images, place), tf.gather(labels, place), position

    def decode(image_path, label_path, position):
        image = decode_tile_image(tf.io.read_file(image_path), shape[2])
        # With as many bands as it has: a colour mask would be turned to greys, not to ids.
        label = tf.io.decode_png(tf.io.read_file(label_path))
        # On a GPU the loss of a label outside the table is a silent NaN: tensorflow#8484.
        known = tf.reduce_all((label < num_classes) | tf.equal(label, IGNORE))
        sized = tf.reduce_all(tf.equal(tf.shape(image), shape)) & tf.reduce_all(
            tf.equal(tf.shape(label), (*shape[:2], 1)))
        checks = [tf.Assert(known & sized, [label_path])]
        with tf.control_dependencies(checks):
            image, label = tf.ensure_shape(image, shape), tf.reshape(label, shape[:2])
        if augment is None:
            return image, label
        return augment(image, label, tf.stack([tf.constant(seed, tf.int64), position]))

    first = tf.cast(first_step, tf.int64) * share
    batches = (tf.data.Dataset.range(first, tf.int64.max)
               .map(paths)
               .map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
               .batch(share, drop_remainder=True)
               .prefetch(tf.data.AUTOTUNE))
    iterator = tf.data.make_initializable_iterator(batches)
    return (*iterator.get_next(), iterator.initializer)


def decode_tile_image(data, bands):
    """Bytes of a tile's PNG -> uint8 [size, size, bands], as utils.data.scenes.read_tile_image."""
    if bands == 3:
        return tf.io.decode_png(data, 3)
    return tf.stack(tf.split(tf.io.decode_png(data, 1)[..., 0], bands), axis=-1)


def name_faulty_tile(tiles, table):
    """Raises the ValueError or OSError of the first tile that can't be used; returns if all can.

    The graph only says that some tile could not be decoded; this looks which.
    """
    shape = None
    for row in tiles.itertuples():
        image, _ = read_tile(row, table, shape)
        shape = shape or image.shape
        if cv2.imread(row.label, cv2.IMREAD_UNCHANGED).ndim != 2:
            raise ValueError(f"{row.label}: a tile's label has one band of class ids; colour masks "
                             "go through preprocess.py")
