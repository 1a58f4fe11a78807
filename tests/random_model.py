"""A Deeplab-v3 with random weights, for the tests of deeplab_v3.py."""

import contextlib
import dataclasses

import numpy as np
import tensorflow.compat.v1 as tf

from deeplab_v3 import Dropout, ModelConfig, deeplab_v3
from random_networks import random_weights
from utils.layers import BatchNorm
from utils.training.checkpoints import model_variables

WIDTH, FEATURES = .25, 512


class Model:
    """A graph of its own with images of any size, one set of random weights, any settings.

    config: of the ModelConfig. The backbone is narrow: most of it behaves alike at any width.
    """

    def __init__(self, num_classes=3, symmetric=False, **config):
        self.graph, self.calls = tf.Graph(), {}
        self.config = ModelConfig(num_classes, width=WIDTH, **config)
        with self.graph.as_default():
            self.images = tf.placeholder(tf.float32, [None, None, None, 3])
            self.seed = tf.placeholder_with_default(np.zeros(2, np.int32), [2])
            self.session = tf.Session()
        self.call()
        with self.graph.as_default():
            self.variables = {v.op.name: v for v in model_variables()}
        self.shapes = {name: v.shape.as_list() for name, v in self.variables.items()}
        self.load(random_weights(self.shapes, symmetric=symmetric))

    def load(self, weights):
        """Puts `weights`, name -> value, in place of those variables' values."""
        variables = [self.variables[name] for name in weights]
        self.session.run([v.initializer for v in variables],
                         {v.initializer.inputs[1]: weights[v.op.name] for v in variables})

    @contextlib.contextmanager
    def loaded(self, weights):
        """`load` for the length of a with block."""
        before = self.session.run({name: self.variables[name] for name in weights})
        self.load(weights)
        try:
            yield
        finally:
            self.load(before)

    def call(self, is_training=False, images=None, output_stride=16, **options):
        """(logits, end_points) of deeplab_v3 with these `options`, built once."""
        key = (is_training, images if images is None else images.ref(), output_stride,
               *options.items())
        if key not in self.calls:
            config = dataclasses.replace(self.config, output_stride=output_stride)
            with self.graph.as_default(), tf.variable_scope("", reuse=tf.AUTO_REUSE):
                self.calls[key] = deeplab_v3(
                    self.images if images is None else images, config, BatchNorm(is_training),
                    dropout=Dropout(self.seed), **options)
        return self.calls[key]

    def run(self, images, **options):
        """Logits of `images` as numpy array."""
        return self.session.run(self.call(**options)[0], {self.images: images})

    def gradient(self, outputs, place, inputs, values):
        """[height, width]: |gradient| of `outputs` at `place` by `inputs`, which are fed `values`.

        Summed over the batch and the channels.
        """
        with self.graph.as_default():
            gradient, = tf.gradients(outputs[:, place[0], place[1]], inputs)
        return np.abs(self.session.run(gradient, {inputs: values})).sum(axis=(0, -1))


def random_images(*shape, seed=1):
    """RGB in 0..255, float32."""
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)


def relative_error(values, reference):
    """Largest difference over the reference's largest deviation from its mean."""
    assert values.shape == reference.shape
    return np.abs(values - reference).max() / np.abs(reference - reference.mean()).max()
