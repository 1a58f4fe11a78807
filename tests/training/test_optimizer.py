"""utils/training/optimizer.py against numpy and the published formulas."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from utils.training import optimizer


@pytest.fixture
def session():
    with tf.Graph().as_default(), tf.Session() as session:
        yield session


def test_weight_decay_falls_on_convolution_weights_alone(session):
    values = {"conv/weights": 2., "conv/biases": 3., "conv/BatchNorm/gamma": 5.,
              "conv/BatchNorm/beta": 7., "logits/weights": 11.}
    for name, value in values.items():
        tf.get_variable(name, [3], initializer=tf.constant_initializer(value))
    tf.get_variable("frozen/weights", [3], initializer=tf.constant_initializer(13.),
                    trainable=False)
    loss = optimizer.weight_decay_loss(.1)
    session.run(tf.global_variables_initializer())
    assert session.run(loss) == pytest.approx(.1 / 2 * 3 * (2 ** 2 + 11 ** 2))


def rates(session, steps, schedule, at, base=2e-4, **settings):
    step = tf.placeholder(tf.int64, [])
    rate = optimizer.learning_rate(step, base, steps, schedule, **settings)
    return [session.run(rate, {step: s}) for s in at]


def test_the_step_schedule_divides_by_10_exactly_at_60_and_80_per_cent(session):
    at = [0, 29999, 30000, 39999, 40000, 49999]
    np.testing.assert_allclose(rates(session, 50000, "step", at),
                               [2e-4, 2e-4, 2e-5, 2e-5, 2e-6, 2e-6], rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_step_schedule_of_very_short_runs_begins_at_the_base(session, steps):
    assert rates(session, steps, "step", [0])[0] == pytest.approx(2e-4)


def test_the_poly_schedule_is_the_papers(session):
    at = [0, 1, 500, 999, 1000]
    np.testing.assert_allclose(rates(session, 1000, "poly", at, base=.007, power=.9),
                               [.007 * (1 - s / 1000) ** .9 for s in at], rtol=1e-4, atol=1e-12)


def test_the_constant_schedule_and_an_unknown_one(session):
    np.testing.assert_allclose(rates(session, 10, "constant", [0, 9], base=.5), .5)
    with pytest.raises(ValueError, match="cosine"):
        rates(session, 10, "cosine", [0])


@pytest.fixture
def problem(session):
    """A loss scale * sum(w^2) / 2 with one moving statistic that an update op raises by 1."""
    weights = tf.get_variable("weights", [3], initializer=tf.constant_initializer([1., -2., 3.]))
    moving = tf.get_variable("moving_mean", [], initializer=tf.zeros_initializer(),
                             trainable=False)
    tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, tf.assign_add(moving, 1.))
    scale = tf.placeholder_with_default(1., [])
    return {"weights": weights, "moving": moving, "scale": scale,
            "loss": scale * tf.nn.l2_loss(weights), "step": tf.train.get_or_create_global_step()}


def build(session, problem, method, rate=.1, momentum=.9):
    update = optimizer.train_op(problem["loss"], method, rate, momentum, problem["step"])
    session.run(tf.global_variables_initializer())
    return update


def test_momentum_updates_as_its_formula(session, problem):
    update = build(session, problem, "momentum")
    weights, speed = np.array([1., -2., 3.]), 0
    for _ in range(3):
        session.run(update)
        speed = .9 * speed + weights
        weights = weights - .1 * speed
    np.testing.assert_allclose(session.run(problem["weights"]), weights, rtol=1e-5)


def test_adam_updates_as_its_formula(session, problem):
    update = build(session, problem, "adam")
    weights, first, second = np.array([1., -2., 3.]), 0, 0
    for t in range(1, 4):
        session.run(update)
        first, second = .9 * first + .1 * weights, .999 * second + .001 * weights ** 2
        weights = weights - .1 * (first / (1 - .9 ** t)) / (
            np.sqrt(second / (1 - .999 ** t)) + 1e-8)
    np.testing.assert_allclose(session.run(problem["weights"]), weights, rtol=1e-4)


def trained_in_groups(session, method, factor, freeze_batch_norm=False, steps=3):
    """Name -> value before and after some steps of the loss sum(variable^2) / 2."""
    for name, value in {"net/conv/weights": 1., "net/conv/BatchNorm/gamma": 2.,
                        "net/conv/BatchNorm/beta": 3., "network/weights": -1.,
                        "logits/weights": 1., "logits/BatchNorm/gamma": 2.}.items():
        tf.get_variable(name, [], initializer=tf.constant_initializer(value))
    variables = {v.op.name: v for v in tf.trainable_variables()}
    step = tf.train.get_or_create_global_step()
    groups = optimizer.variable_groups("net", factor, freeze_batch_norm)
    loss = tf.add_n([tf.nn.l2_loss(v) for v in variables.values()])
    # The rate depends on the step, as a schedule's does: all groups must see the same step.
    update = optimizer.train_op(loss, method, .1 / tf.cast(step + 1, tf.float32), .9, step,
                                groups)
    session.run(tf.global_variables_initializer())
    before = session.run(variables)
    for _ in range(steps):
        session.run(update)
    assert session.run(step) == steps
    return before, session.run(variables)


def numpy_steps(method, value, factor, steps=3):
    """A variable after some steps of the loss value^2 / 2 at the rate factor * .1 / step."""
    speed = first = second = 0.
    for t in range(1, steps + 1):
        rate, gradient = factor * .1 / t, value
        speed = .9 * speed + gradient
        first, second = .9 * first + .1 * gradient, .999 * second + .001 * gradient ** 2
        adam = first / (1 - .9 ** t) / (np.sqrt(second / (1 - .999 ** t)) + 1e-8)
        value = value - rate * (speed if method == "momentum" else adam)
    return value


@pytest.mark.parametrize("method", optimizer.OPTIMIZERS)
@pytest.mark.parametrize("factor", [1, .1])
def test_the_backbone_learns_at_its_own_rate_under_any_optimizer(session, method, factor):
    before, after = trained_in_groups(session, method, factor)
    for name, value in before.items():
        inside = name.startswith("net/")
        expected = numpy_steps(method, float(value), factor if inside else 1)
        assert after[name] == pytest.approx(expected, rel=1e-5), name


@pytest.mark.parametrize("factor", [1, .5])
def test_frozen_batch_norm_is_the_backbone_s_alone(session, factor):
    before, after = trained_in_groups(session, "adam", factor, freeze_batch_norm=True)
    assert {name for name in before if before[name] == after[name]} == {
        "net/conv/BatchNorm/gamma", "net/conv/BatchNorm/beta"}


@pytest.mark.parametrize("method", optimizer.OPTIMIZERS)
def test_histograms_show_gradients_and_the_updated_weights_and_change_nothing(
        session, problem, method):
    update = optimizer.train_op(problem["loss"], method, .1, .9, problem["step"],
                                histograms=True)
    summary = tf.summary.merge_all()
    session.run(tf.global_variables_initializer())
    shown = {value.tag: value.histo for value in tf.Summary.FromString(
        session.run((update, summary))[1]).value}
    assert set(shown) == {"gradients/weights", "weights/weights"}
    after = session.run(problem["weights"])
    assert not np.array_equal(after, [1, -2, 3])
    for tag, values in (("gradients/weights", np.array([1, -2, 3])), ("weights/weights", after)):
        assert (shown[tag].num, shown[tag].min, shown[tag].max) == (3, values.min(), values.max())
        np.testing.assert_allclose(shown[tag].sum, values.sum(), rtol=1e-6)
    session.run(tf.global_variables_initializer())
    session.run(update)
    np.testing.assert_array_equal(session.run(problem["weights"]), after)


def test_without_histograms_there_is_nothing_to_summarise(session, problem):
    build(session, problem, "adam")
    assert tf.summary.merge_all() is None


def test_an_update_moves_the_statistics_and_counts_the_step(session, problem):
    update = build(session, problem, "adam")
    session.run(update)
    session.run(update)
    assert session.run((problem["moving"], problem["step"])) == (2, 2)


@pytest.mark.parametrize("method", optimizer.OPTIMIZERS)
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_raises_and_changes_no_weight_slot_or_step(
        session, problem, method, scale):
    update = build(session, problem, method)
    session.run(update)
    kept = [v for v in tf.global_variables() if v is not problem["moving"]]
    before = session.run(kept)
    with pytest.raises(tf.errors.InvalidArgumentError, match=optimizer.NOT_FINITE):
        session.run(update, {problem["scale"]: scale})
    for old, new in zip(before, session.run(kept)):
        np.testing.assert_array_equal(old, new)
    session.run(update)
    assert np.isfinite(session.run(problem["weights"])).all()


def test_a_gradient_that_is_not_finite_raises_though_the_loss_is_finite(session, problem):
    weights = problem["weights"]
    # sqrt has an infinite slope at 0.
    problem["loss"] = tf.reduce_sum(tf.sqrt(weights - tf.stop_gradient(weights)))
    update = build(session, problem, "momentum")
    assert np.isfinite(session.run(problem["loss"]))
    with pytest.raises(tf.errors.InvalidArgumentError, match=optimizer.NOT_FINITE):
        session.run(update)
    np.testing.assert_array_equal(session.run(weights), [1, -2, 3])


def test_an_unknown_optimizer_is_named(session, problem):
    with pytest.raises(ValueError, match="sgd"):
        build(session, problem, "sgd")
