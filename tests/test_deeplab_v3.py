"""Deeplab-v3: sizes, alignment with the pixels, rates of the pyramid, head, precision."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from deeplab_v3 import ModelConfig, deeplab_v3
from random_model import FEATURES, WIDTH, Model, random_images, relative_error
from random_networks import random_weights
from resnet_v2 import resnet_v2_50
from utils.layers import BatchNorm
from utils.training.checkpoints import model_variables


@pytest.fixture(scope="module")
def model():
    """A Model of 3 classes with random weights; tests that change weights put them back."""
    model = Model()
    yield model
    model.session.close()


@pytest.fixture(scope="module")
def separable_model():
    model = Model(separable=True)
    yield model
    model.session.close()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (37, 50), (32, 33), (65, 64)])
def test_logits_are_of_the_images_own_size(model, size):
    logits = model.run(random_images(2, *size, 3))
    assert logits.shape == (2, *size, 3) and logits.dtype == np.float32
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("size, padded, features", [
    (1, 1, 1), (2, 33, 3), (33, 33, 3), (256, 257, 17), (258, 289, 19)])
def test_static_shapes_and_the_padding_to_32_k_plus_1(size, padded, features):
    """The shapes are read from the graph; nothing is run."""
    with tf.Graph().as_default() as graph:
        logits, end_points = deeplab_v3(tf.zeros([1, size, 37, 3], tf.uint8), ModelConfig(7))
        assert logits.shape.as_list() == [1, size, 37, 7] and logits.dtype == tf.float32
        assert end_points["logits"].shape.as_list() == [1, features, 5, 7]
        assert end_points["aspp"].shape.as_list()[-1] == 256
        resized = [op.outputs[0].shape.as_list() for op in graph.get_operations()
                   if op.type == "ResizeBilinear"]
        assert resized == [[1, padded, 65, 7]]
        weights = {v.op.name: v.shape.as_list() for v in tf.trainable_variables()}
        assert weights["logits/weights"] == [1, 1, 256, 7] and weights["logits/biases"] == [7]


def test_known_and_unknown_sizes_and_types_give_the_same(model):
    """With known sizes the pyramid's far taps are left out (utils/layers.py)."""
    images = random_images(1, 70, 50, 3)
    expected = model.run(images)
    with model.graph.as_default():
        known = tf.constant(images.astype(np.uint8))
    assert relative_error(model.session.run(model.call(images=known)[0]), expected) < 1e-5


def test_images_are_scaled_to_plus_minus_1_and_padded_with_the_mean(model):
    images = random_images(1, 40, 32, 3)
    padded = np.full((1, 65, 33, 3), 127.5, np.float32)
    padded[:, :40, :32] = images
    end_points = model.call()[1]
    with model.graph.as_default():
        scaled = tf.placeholder(tf.float32, [None, None, None, 3])
        features = resnet_v2_50(scaled, BatchNorm(), 16, (1, 2, 4), width=WIDTH)[0]
    expected = model.session.run(features, {scaled: padded / 127.5 - 1})
    assert relative_error(model.session.run(end_points["postnorm"], {model.images: images}),
                          expected) < 1e-5
    assert relative_error(model.run(images), model.run(padded)[:, :40, :32]) < 1e-5


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("size", [(256, 257), (37, 50), (33, 97)])
def test_low_resolution_logit_i_lies_over_pixel_stride_times_i(model, output_stride, size):
    """Logits that say where they lie, when resized, tell every pixel its own place."""
    logits, end_points = model.call(output_stride=output_stride)
    rows, columns = ((side + 30) // 32 * 32 // output_stride + 1 for side in size)
    row, column = np.mgrid[:rows, :columns] * output_stride
    low = np.stack([row, column, row - column], axis=-1)[None].astype(np.float32)
    images = np.zeros((1, *size, 3), np.float32)
    high = model.session.run(logits, {model.images: images, end_points["logits"]: low})
    row, column = np.mgrid[:size[0], :size[1]]
    np.testing.assert_allclose(high[0], np.stack([row, column, row - column], axis=-1), atol=1e-3)


@pytest.mark.parametrize("size, output_stride", [(64, 16), (65, 16), (58, 8)])
def test_a_feature_sees_its_pixel_and_as_far_on_every_side(model, size, output_stride):
    """With the centre taps alone, feature i sees its own pixel and, through pool1, two each way.

    Any shift, of any strided layer, at even sizes (64 as 256) or odd, moves these places.
    """
    centred = {}
    for name, value in random_weights(model.shapes).items():
        if value.ndim < 4 or value.shape[0] == 1:
            continue
        middle = value.shape[0] // 2
        centred[name] = np.zeros_like(value)
        centred[name][middle, middle] = value[middle, middle]
    features = model.call(output_stride=output_stride)[1]["postnorm"]
    images = random_images(8, size, size, 3)  # in one image a pixel may win no maximum
    with model.loaded(centred):
        for place in ((2, 3), (3, 1)):
            gradient = model.gradient(features, place, model.images, images)
            row, column = (output_stride * index for index in place)
            assert np.argwhere(gradient).tolist() == [
                [y, x] for y in (row - 2, row, row + 2) for x in (column - 2, column, column + 2)
                if y < size and x < size]


@pytest.mark.parametrize("size", [(257, 257), (65, 97)])
def test_the_turned_scene_gives_the_turned_map(model, size):
    """Of kernels that look alike from all 8 sides."""
    images = random_images(1, *size, 3)
    symmetric = random_weights(model.shapes, symmetric=True)
    turned = [(1, False)] if size[0] > 100 else [(turn, flip) for turn in range(4)
                                                 for flip in (False, True)][1:]
    with model.loaded(symmetric):
        expected = model.run(images)
        assert expected.std(axis=(1, 2)).min() > 1e-3
        for turn, flip in turned:
            def move(array):
                return np.rot90(array[:, ::-1] if flip else array, turn, axes=(1, 2))
            assert relative_error(model.run(move(images)), move(expected)) < 1e-4
    if size[0] < 100:  # the weights' symmetry is needed for it
        assert relative_error(model.run(np.rot90(images, 1, (1, 2))),
                              np.rot90(model.run(images), 1, (1, 2))) > 0.01


@pytest.mark.parametrize("output_stride, rates", [(16, (6, 12, 18)), (8, (12, 24, 36))])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kind", ["model", "separable_model"])
def test_the_pyramid_reads_at_the_paper_s_rates(request, kind, output_stride, rates, axis):
    """On one row or column of features, with image pooling, which reads all of it, switched off."""
    model = request.getfixturevalue(kind)
    _, end_points = model.call(output_stride=output_stride)
    silent = {"image_pooling/BatchNorm/gamma": np.zeros(256),
              "image_pooling/BatchNorm/beta": np.full(256, -1)}
    shape, place = [1, 1, 1, FEATURES], [0, 0]
    shape[axis + 1], place[axis] = 81, 40
    with model.loaded(silent):
        gradient = model.gradient(end_points["aspp"], place, end_points["postnorm"],
                                  np.random.default_rng(2).random(shape, np.float32))
    places = np.flatnonzero(gradient.ravel()) - 40
    assert places.tolist() == sorted([0, *rates, *(-rate for rate in rates)])


def test_image_pooling_reads_the_mean_of_all_features(model):
    """With the other four branches silent, only the mean of the features counts."""
    _, end_points = model.call()
    names = [f"aspp{n}/BatchNorm/{kind}" for n in range(4) for kind in ("gamma", "beta")]
    with model.loaded({name: np.zeros(256) for name in names}):
        features = np.random.default_rng(3).random((1, 5, 7, FEATURES), np.float32)
        mean = np.broadcast_to(features.mean((1, 2), keepdims=True), features.shape)
        aspp = [model.session.run(end_points["aspp"], {end_points["postnorm"]: value})
                for value in (features, mean, features + 1)]
    assert aspp[0].std() > 0
    np.testing.assert_allclose(aspp[0], aspp[1], atol=1e-4)
    assert np.abs(aspp[0] - aspp[2]).max() > 0.1


def test_every_branch_and_the_projection_end_in_relu(model):
    """Branches that are -1 before their ReLU reach the projection as 0: no feature passes."""
    _, end_points = model.call()
    branches = ["aspp0", "aspp1", "aspp2", "aspp3", "image_pooling"]
    features = np.random.default_rng(4).random((1, 3, 3, FEATURES), np.float32)
    outputs = model.session.run(end_points["aspp"], {end_points["postnorm"]: features})
    assert outputs.min() == 0 and outputs.max() > 0
    names = [f"{branch}/BatchNorm/{kind}" for branch in branches for kind in ("gamma", "beta")]
    names += ["concat_projection/BatchNorm/moving_mean", "concat_projection/BatchNorm/beta"]
    with model.loaded({name: np.zeros(256) for name in names}):
        for branch in branches:
            model.load({f"{branch}/BatchNorm/beta": np.full(256, -1)})
            aspp = model.session.run(end_points["aspp"], {end_points["postnorm"]: features})
            assert not aspp.any(), branch


def test_dropout_is_a_function_of_its_seed_and_only_in_training():
    """Logits of an identity kernel on ones are the mask itself."""
    model = Model(num_classes=256)
    model.load({"logits/weights": np.eye(256)[None, None], "logits/biases": np.zeros(256)})
    ones = np.ones((2, 9, 9, 256), np.float32)

    def mask(seed, is_training=True):
        end_points = model.call(is_training=is_training)[1]
        return model.session.run(end_points["logits"],
                                 {end_points["aspp"]: ones, model.seed: seed})

    first = mask((0, 1))
    dropped = first == 0
    assert dropped.mean() == pytest.approx(0.1, abs=0.01)
    np.testing.assert_allclose(first[~dropped], 1 / 0.9, rtol=1e-5)
    np.testing.assert_array_equal(mask((0, 1)), first)
    assert ((mask((0, 2)) == 0) != dropped).any() and ((mask((1, 1)) == 0) != dropped).any()
    assert (mask((0, 1), is_training=False) == 1).all()
    model.session.close()


def test_bfloat16_is_near_float32_and_keeps_float32_variables(model):
    images = random_images(1, 65, 65, 3)
    logits, end_points = model.call(precision="bfloat16")
    assert end_points["postnorm"].dtype == end_points["aspp"].dtype == tf.bfloat16
    assert logits.dtype == end_points["logits"].dtype == tf.float32
    assert {v.dtype.base_dtype for v in model.variables.values()} == {tf.float32}
    expected, result = model.run(images), model.run(images, precision="bfloat16")
    assert 0 < relative_error(result, expected) < 0.05


@pytest.mark.parametrize("separable", [False, True])
def test_first_logits_are_small_and_the_head_is_named_as_deeplab_s(separable):
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        deeplab_v3(tf.zeros([1, 33, 33, 3]), ModelConfig(5, separable=separable), BatchNorm(True))
        names = {v.op.name for v in model_variables() if not v.op.name.startswith("resnet_v2_50/")}
        weights = next(v for v in tf.trainable_variables() if v.op.name == "logits/weights")
        session.run(weights.initializer)
        assert session.run(weights).std() == pytest.approx(0.01 * 0.88, rel=0.05)  # truncated at 2
    atrous = ["aspp1", "aspp2", "aspp3"]  # model.py's, with aspp_with_separable_conv or without
    if separable:
        atrous = [f"{scope}_{part}" for scope in atrous for part in ("depthwise", "pointwise")]
    scopes = ["aspp0", *atrous, "image_pooling", "concat_projection"]
    kinds = ["BatchNorm/beta", "BatchNorm/gamma", "BatchNorm/moving_mean",
             "BatchNorm/moving_variance"]
    assert names == {f"{scope}/{kind}" for scope in scopes for kind in kinds} | {
        f"{scope}/{'depthwise_' * scope.endswith('_depthwise')}weights" for scope in scopes} | {
        "logits/weights", "logits/biases"}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_frozen_batch_norm_trains_the_backbone_as_it_is_evaluated(model, precision,
                                                                  trains_in_bfloat16):
    """Features, and their gradient by a kernel, are those of the moving statistics; pyramid and
    head use the batch's."""
    if precision == "bfloat16" and not trains_in_bfloat16:
        pytest.skip("this processor cannot train in bfloat16")
    images = random_images(2, 33, 33, 3)
    name = "resnet_v2_50/block4/unit_3/bottleneck_v2/conv2/weights"
    values = {}
    for frozen, is_training in ((True, True), (False, False)):
        with model.graph.as_default():
            model.graph.clear_collection(tf.GraphKeys.UPDATE_OPS)
            _, end_points = model.call(is_training, precision=precision, freeze_batch_norm=frozen)
            moved = [op.op.inputs[0].op.name for op in tf.get_collection(tf.GraphKeys.UPDATE_OPS)]
            gradient, = tf.gradients(end_points["postnorm"], model.variables[name])
        values[frozen] = model.session.run([end_points["postnorm"], gradient, end_points["aspp"]],
                                           {model.images: images})
        # Five branches and the projection, each with a mean and a variance.
        assert len(moved) == (12 if frozen else 0)
        assert not [name for name in moved if name.startswith("resnet_v2_50/")]
    for ours, expected in zip(values[True][:2], values[False][:2]):
        np.testing.assert_array_equal(ours, expected)
        assert np.abs(ours.astype(np.float32)).max() > 0
    assert (values[True][2] != values[False][2]).any()


@pytest.mark.parametrize("precision, training, by_taps, expected", [
    ("bfloat16", False, None, True), ("bfloat16", True, None, False),
    ("float32", False, None, False), ("bfloat16", False, False, False)])
def test_the_pyramid_is_by_taps_in_bfloat16_and_inference_only(precision, training, by_taps,
                                                               expected):
    with tf.Graph().as_default() as graph:
        deeplab_v3(tf.zeros([1, 128, 128, 3]), ModelConfig(3, width=WIDTH), BatchNorm(training),
                   precision=precision, by_taps=by_taps)
        convolutions = [op for op in graph.get_operations()
                        if op.type == "Conv2D" and op.name.startswith("aspp1/")]
    assert len(convolutions) == (9 if expected else 1)


def test_images_of_other_channels_are_refused():
    with tf.Graph().as_default(), pytest.raises(
            ValueError, match=r"images of 3 channel\(s\), but the model takes 4"):
        deeplab_v3(tf.zeros([1, 33, 33, 3]), ModelConfig(5, in_channels=4))
