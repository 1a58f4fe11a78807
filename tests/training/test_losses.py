"""utils/training/losses.py against scikit-learn, TensorFlow's own losses, and the papers' formulas."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from sklearn.metrics import log_loss

from utils.training.losses import LOSSES, LossOptions, segmentation_loss

CLASSES = 6
WEIGHTS = [.5, 3, 0, 1, 2, .25]
EVERYTHING = {"class_weights": WEIGHTS, "hard_pixels": .3, "label_smoothing": .1}


@pytest.fixture
def session():
    with tf.Graph().as_default(), tf.Session() as session:
        yield session


@pytest.fixture
def batch():
    """(logits, labels, counted, probabilities), four tenths of the pixels ignored."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (4, 5, 4, CLASSES)).astype(np.float32)
    labels = random.integers(0, CLASSES, (4, 5, 4)).astype(np.uint8)
    labels[random.random(labels.shape) < .4] = 255
    return logits, labels, labels != 255, softmax(logits)


def softmax(logits):
    exponentials = np.exp(logits.astype(float) - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def loss_and_gradient(session, logits, labels, *arguments, **options):
    tensor = tf.constant(logits, tf.float32)
    loss = segmentation_loss(tensor, tf.constant(labels), LossOptions(*arguments, **options))
    return session.run((loss, tf.gradients(loss, tensor)[0]))


def of_labels(probabilities, labels):
    """Each pixel's probability of its label; ignored ones have any."""
    return np.take_along_axis(probabilities, np.minimum(labels, CLASSES - 1)[..., None], -1)[..., 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_cross_entropy_is_scikit_learns_over_the_counted_pixels(session, batch, dtype):
    logits, labels, counted, probabilities = batch
    expected = log_loss(labels[counted], probabilities[counted], labels=range(CLASSES))
    loss, gradient = loss_and_gradient(session, logits, labels.astype(dtype))
    assert loss == pytest.approx(expected, rel=1e-5)
    expected_gradient = (probabilities - np.eye(CLASSES)[labels * counted]) / counted.sum()
    np.testing.assert_allclose(gradient, expected_gradient * counted[..., None], atol=1e-6)


def test_class_weights_are_scikit_learns_sample_weights(session, batch):
    logits, labels, counted, probabilities = batch
    expected = log_loss(labels[counted], probabilities[counted], labels=range(CLASSES),
                        sample_weight=np.array(WEIGHTS)[labels[counted]])
    loss, gradient = loss_and_gradient(session, logits, labels, class_weights=WEIGHTS)
    assert loss == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(gradient[labels == 2], 0)


def test_label_smoothing_is_tensorflows(session, batch):
    logits, labels, counted, _ = batch
    expected = tf.losses.softmax_cross_entropy(np.eye(CLASSES)[labels[counted]], logits[counted],
                                               label_smoothing=.1)
    loss, _ = loss_and_gradient(session, logits, labels, label_smoothing=.1)
    assert loss == pytest.approx(session.run(expected), rel=1e-5)


@pytest.mark.parametrize("gamma", [.5, 2, 5])
def test_the_focal_loss_is_the_papers(session, batch, gamma):
    logits, labels, counted, probabilities = batch
    right = of_labels(probabilities, labels)[counted]
    loss, _ = loss_and_gradient(session, logits, labels, "focal", focal_gamma=gamma)
    assert loss == pytest.approx((-(1 - right) ** gamma * np.log(right)).mean(), rel=1e-4)


@pytest.mark.parametrize("gamma", [.5, 1, 2])
def test_the_focal_loss_of_certain_pixels_has_a_finite_gradient(session, gamma):
    logits, labels = np.zeros((1, 1, 2, 3)), np.zeros((1, 1, 2), np.uint8)
    logits[0, 0, 0, 0], logits[0, 0, 1, 1] = 200, 200  # certainly right, certainly wrong
    loss, gradient = loss_and_gradient(session, logits, labels, "focal", focal_gamma=gamma)
    assert loss == pytest.approx(100)
    np.testing.assert_allclose(gradient[0, 0], [[0, 0, 0], [-.5, .5, 0]], atol=1e-4)


def test_dice_is_the_papers_over_the_classes_that_occur(session, batch):
    logits, labels, counted, probabilities = batch
    labels[labels == 3] = 1
    expected = []
    for number in set(range(CLASSES)) - {3}:
        truth, soft = labels[counted] == number, probabilities[counted][:, number]
        expected.append(1 - 2 * soft[truth].sum() / ((soft ** 2).sum() + truth.sum()))
    alone, _ = loss_and_gradient(session, logits, labels)
    loss, gradient = loss_and_gradient(session, logits, labels, "dice_cross_entropy")
    assert loss - alone == pytest.approx(np.mean(expected), rel=1e-4)
    np.testing.assert_array_equal(gradient[~counted], 0)


def test_a_perfect_map_has_no_loss(session):
    labels = np.array([[[0, 1], [2, 255]]], np.uint8)
    logits = 100. * np.eye(CLASSES)[np.minimum(labels, 5)]
    for loss in LOSSES:
        assert loss_and_gradient(session, logits, labels, loss)[0] == pytest.approx(0, abs=1e-6)


def test_hard_pixels_are_the_hardest_of_each_image(session, batch):
    logits, labels, counted, probabilities = batch
    losses = -np.log(of_labels(probabilities, labels))
    hardest = [np.sort(image[used])[::-1][:int(np.ceil(.25 * used.sum()))]
               for image, used in zip(losses, counted)]
    loss, gradient = loss_and_gradient(session, logits, labels, hard_pixels=.25)
    assert loss == pytest.approx(np.concatenate(hardest).mean(), rel=1e-5)
    moved = np.abs(gradient).sum(-1) > 0
    assert moved.sum(axis=(1, 2)).tolist() == [len(image) for image in hardest]
    assert not moved[~counted].any()


def test_hard_pixels_have_their_class_weights_and_none_is_spent_on_weight_0(session, batch):
    logits, labels, counted, probabilities = batch
    weights = np.where(counted, np.array(WEIGHTS)[labels * counted], 0)
    losses = -np.log(of_labels(probabilities, labels))
    above = below = 0
    for image, weight in zip(losses, weights):
        used = np.flatnonzero(weight)
        hardest = used[np.argsort(-image.flat[used])[:int(np.ceil(.5 * len(used)))]]
        above += (image.flat[hardest] * weight.flat[hardest]).sum()
        below += weight.flat[hardest].sum()
    loss, _ = loss_and_gradient(session, logits, labels, class_weights=WEIGHTS, hard_pixels=.5)
    assert loss == pytest.approx(above / below, rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"hard_pixels": .1}, EVERYTHING])
@pytest.mark.parametrize("loss", LOSSES)
def test_ignored_images_add_nothing_and_ignored_batches_give_0(session, batch, loss, options):
    logits, labels, _, _ = batch
    ignored = np.full_like(labels[:1], 255)
    value, gradient = loss_and_gradient(session, logits[:1], ignored, loss, **options)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
    alone, alone_gradient = loss_and_gradient(session, logits[1:], labels[1:], loss, **options)
    value, gradient = loss_and_gradient(
        session, logits, np.concatenate([ignored, labels[1:]]), loss, **options)
    assert value == pytest.approx(alone, rel=1e-6)
    np.testing.assert_allclose(gradient[1:], alone_gradient, atol=1e-7)
    np.testing.assert_array_equal(gradient[0], 0)


def two_devices(logits, labels, options):
    """The losses that two devices with half of the batch each compute, in one graph.

    A first pass with a sum that notes collects what they would exchange, in order; the second
    adds up.
    """
    halves = [(logits[:1], labels[:1]), (logits[1:], labels[1:])]
    noted = [[], []]
    for own, half in zip(noted, halves):
        segmentation_loss(*half, options, lambda t, own=own: own.append(t) or t)
    assert len(noted[0]) == len(noted[1])
    losses = []
    for half in halves:
        sums = iter([first + second for first, second in zip(*noted)])
        losses.append(segmentation_loss(*half, options, lambda _: next(sums)))
    return losses


@pytest.mark.parametrize("options", [{}, EVERYTHING])
@pytest.mark.parametrize("loss", LOSSES)
def test_each_device_has_the_loss_of_the_whole_batch(session, batch, loss, options):
    """Though one has one image, the other three, and classes differ."""
    logits, labels = tf.constant(batch[0]), tf.constant(np.maximum(batch[1], [[[2]]]))
    chosen = LossOptions(loss, **options)
    whole = segmentation_loss(logits, labels, chosen)
    expected, gradient = session.run((whole, tf.gradients(whole, logits)[0]))
    for own in two_devices(logits, labels, chosen):
        value, own_gradient = session.run((own, tf.gradients(own, logits)[0]))
        assert value == pytest.approx(expected, rel=1e-5)
        np.testing.assert_allclose(own_gradient, gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("options", [{}, EVERYTHING])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_show(session, batch, loss, options, bad):
    """In the loss or its gradient, which is where train_op looks."""
    logits, labels, _, _ = batch
    logits[:] = bad
    value, gradient = loss_and_gradient(session, logits, labels, loss, **options)
    assert not (np.isfinite(value) and np.isfinite(gradient).all())


@pytest.mark.parametrize("loss", LOSSES)
def test_a_label_that_is_no_class_raises(session, batch, loss):
    logits, labels, _, _ = batch
    labels[0, 0, 0] = CLASSES
    with pytest.raises(tf.errors.InvalidArgumentError, match="a label that is no class"):
        loss_and_gradient(session, logits, labels, loss)


def test_an_unknown_loss_is_named():
    with pytest.raises(ValueError, match="hinge"):
        segmentation_loss(None, None, LossOptions("hinge"))
