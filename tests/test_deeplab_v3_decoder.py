"""The decoder of Deeplab-v3+: alignment with the pixels, names and shapes."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from deeplab_v3 import BACKBONES, ModelConfig, deeplab_v3
from random_model import Model, random_images, relative_error
from utils.layers import BatchNorm
from utils.training.checkpoints import model_variables


@pytest.fixture(scope="module")
def decoder_model():
    """A Model with a decoder, whose kernels look alike from all 8 sides."""
    model = Model(symmetric=True, decoder=True)
    yield model
    model.session.close()


def test_with_the_decoder_the_turned_scene_gives_the_turned_map(decoder_model):
    images = random_images(1, 65, 97, 3)
    expected = decoder_model.run(images)
    assert expected.shape == (1, 65, 97, 3) and expected.std(axis=(1, 2)).min() > 1e-3
    for move in (lambda array: np.rot90(array, 1, (1, 2)), lambda array: array[:, :, ::-1]):
        assert relative_error(decoder_model.run(move(images)), move(expected)) < 1e-4


def test_low_level_features_are_block1_s_at_stride_4_normalised(decoder_model):
    scope = "resnet_v2_50/block1/unit_3/bottleneck_v2/preact"
    end_points = decoder_model.call()[1]
    low, unit, beta, gamma, mean, variance = decoder_model.session.run(
        [end_points["low_level"], end_points["block1/unit_2"]]
        + [decoder_model.variables[f"{scope}/{kind}"] for kind in (
            "beta", "gamma", "moving_mean", "moving_variance")],
        {decoder_model.images: random_images(1, 40, 70, 3)})
    assert low.shape == (1, 17, 25, 64)  # padded to 65 x 97
    expected = np.maximum((unit - mean) / np.sqrt(variance + 1e-5) * gamma + beta, 0)
    np.testing.assert_allclose(low, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_the_decoder_puts_pyramid_and_low_level_features_over_each_other(decoder_model,
                                                                         output_stride):
    """Kernels that copy: places that the pyramid and the low-level features tell agree."""
    end_points = decoder_model.call()[1]
    copies = {"feature_projection0": (1, [0, 1], [0, 1]),
              "decoder_conv0": (3, [0, 1, 2, 256, 257], range(5)),  # the pyramid's 256 come first
              "decoder_conv1": (3, range(5), range(5))}
    weights = {}
    for scope, (size, sources, targets) in copies.items():
        kernel = np.zeros(decoder_model.variables[f"decoder/{scope}/weights"].shape, np.float32)
        kernel[size // 2, size // 2, list(sources), list(targets)] = 1
        filters = kernel.shape[-1]
        weights |= {f"decoder/{scope}/weights": kernel,
                    f"decoder/{scope}/BatchNorm/gamma": np.ones(filters),
                    f"decoder/{scope}/BatchNorm/beta": np.zeros(filters),
                    f"decoder/{scope}/BatchNorm/moving_mean": np.zeros(filters),
                    f"decoder/{scope}/BatchNorm/moving_variance": np.full(filters, 1 - 1e-5)}
    height, width = 97, 65

    def places(stride, channels):
        row, column = np.mgrid[:height:stride, :width:stride].astype(np.float32)
        values = np.zeros((1, *row.shape, channels), np.float32)
        values[0, ..., 0], values[0, ..., 1], values[0, ..., 2] = row, column, row * column
        return values

    with decoder_model.loaded(weights):
        decoded = decoder_model.session.run(end_points["decoder"], {
            end_points["aspp"]: places(output_stride, 256), end_points["low_level"]: places(4, 64)})
    expected = places(4, 256)
    np.testing.assert_allclose(decoded[..., :3], expected[..., :3], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(decoded[..., 3:5], expected[..., :2], rtol=1e-5, atol=1e-3)
    assert not decoded[..., 5:].any()


@pytest.mark.parametrize("backbone, separable", [
    ("resnet_v2_50", False), ("resnet_v2_50", True), ("xception_65", False)])
def test_the_decoder_is_named_and_shaped_as_deeplab_s(monkeypatch, backbone, separable):
    """On a stand-in for the backbone, in training and bfloat16. Batch norm's epsilon is Xception's
    own in Xception only (test_xception.py), as in deeplab/model.py."""
    def stand_in(net, *_, **__):
        return net[:, ::16, ::16], {"low_level": net[:, ::4, ::4]}

    monkeypatch.setitem(BACKBONES, backbone, stand_in)
    with tf.Graph().as_default() as graph:
        logits, end_points = deeplab_v3(
            tf.zeros([1, 90, 33, 3]), ModelConfig(5, backbone, decoder=True, separable=separable),
            BatchNorm(True), precision="bfloat16")
        epsilons = [round(op.get_attr("epsilon"), 7) for op in graph.get_operations()
                    if op.type.startswith("FusedBatchNorm")]
        gradients = tf.gradients(logits, tf.trainable_variables())
        shapes = {v.op.name: v.shape.as_list() for v in model_variables()
                  if v.op.name.startswith("decoder/") and v.op.name.endswith("weights")}
        norms = {v.op.name.rsplit("/BatchNorm/")[0] for v in model_variables()
                 if v.op.name.startswith("decoder/") and "/BatchNorm/" in v.op.name}
    assert logits.shape == [1, 90, 33, 5] and end_points["logits"].shape == [1, 25, 9, 5]
    assert end_points["decoder"].shape == [1, 25, 9, 256]
    assert end_points["decoder"].dtype == tf.bfloat16 and logits.dtype == tf.float32
    assert all(gradient is not None for gradient in gradients)
    expected = {"feature_projection0/weights": [1, 1, 3, 48]}
    for scope, channels in (("decoder_conv0", 304), ("decoder_conv1", 256)):
        expected |= {
            f"{scope}_depthwise/depthwise_weights": [3, 3, channels, 1],
            f"{scope}_pointwise/weights": [1, 1, channels, 256]} if separable or backbone == "xception_65" else {
            f"{scope}/weights": [3, 3, channels, 256]}
    assert shapes == {f"decoder/{name}": shape for name, shape in expected.items()}
    assert norms == {name.rsplit("/", 1)[0] for name in shapes}
    # The pyramid has six, separable three more.
    assert epsilons == [1e-5] * (6 + 3 * separable + len(norms))
