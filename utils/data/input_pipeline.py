"""Tiles -> batches in TensorFlow. The order is a function of seed and step alone."""

import tensorflow.compat.v1 as tf

from utils.classes import IGNORE
from utils.data.rasters import RGB


def training_batches(tile_set, batch_size, seed, first_step, part=(0, 1), augment=None):
    """Tensors (images uint8 [batch, size, size, channels], labels uint8 [batch, size, size]).

    Every epoch visits each tile of the TileSet once in an order drawn from `seed` and the epoch's
    number; batch `step` is the same whether the run began at 0 or resumed at `first_step`, an int64
    tensor that is read when the returned initializer runs. part: (host, hosts); each of the hosts,
    which `batch_size` must be divisible by, reads its own part of the same batch. augment: function
    of an image, its label and a seed (int64 [2]: `seed` and the tile's position in the stream) to
    another image and label. Returns (images, labels, initializer).
    """
    host, hosts = part
    share = batch_size // hosts
    count, shape = len(tile_set.training), tile_set.shape
    image_paths, label_paths = (tf.constant(tile_set.training[column].values)
                                for column in ("image", "label"))

    def paths(number):
        position = number // share * batch_size + host * share + number % share
        epoch, place = position // count, position % count
        key = tf.stack([tf.constant(seed, tf.int64), epoch])
        place = tf.random.experimental.index_shuffle(place, key, tf.constant(count - 1, tf.int64))
        return tf.gather(image_paths, place), tf.gather(label_paths, place), position

    def decode(image_path, label_path, position):
        image = decode_tile_image(tf.io.read_file(image_path), shape[2])
        # With as many bands as it has: a colour mask would be turned to greys, not to ids.
        label = tf.io.decode_png(tf.io.read_file(label_path))
        # On a GPU the loss of a label outside the table is a silent NaN: tensorflow#8484.
        known = tf.reduce_all((label < len(tile_set.table)) | tf.equal(label, IGNORE))
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


def decode_tile_image(data, channels):
    """Bytes of a tile's PNG -> uint8 [size, size, channels], as utils.data.tiles.read_tile_image.
    """
    if channels == len(RGB):
        return tf.io.decode_png(data, len(RGB))
    return tf.stack(tf.split(tf.io.decode_png(data, 1)[..., 0], channels), axis=-1)
