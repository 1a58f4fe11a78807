"""utils/training/ema.py against the formula, through checkpoints, and in the model."""

import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from utils.training import ema, optimizer
from utils.training.checkpoints import (BEST, LATEST, Checkpoints, best_checkpoints,
                                        latest_checkpoints, model_variables, restore_model)
from utils.layers import BatchNorm, conv2d, conv2d_bn_relu

DECAY, RATE = .5, .1


@pytest.fixture
def session():
    with tf.Graph().as_default(), tf.Session() as session:
        yield session


def build(session, decay=DECAY):
    """A loss scale * |w|^2 / 2, momentum's first step of which is w -= RATE * scale * w, with a
    moving statistic that grows by 1 a step; and the op that also keeps their averages."""
    weights = tf.get_variable("weights", [2], initializer=tf.constant_initializer([1., -2.]))
    moving = tf.get_variable("bn/moving_mean", [], initializer=tf.zeros_initializer(),
                             trainable=False)
    tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, tf.assign_add(moving, 1.))
    scale = tf.placeholder_with_default(1., [])
    step = tf.train.get_or_create_global_step()
    update = optimizer.train_op(scale * tf.nn.l2_loss(weights), "momentum", RATE, 0., step)
    op, averaged, start = ema.keep_averages(update, model_variables(), decay, step)
    session.run(tf.global_variables_initializer())
    session.run(start)
    return {"weights": weights, "moving": moving, "scale": scale, "op": op, "averaged": averaged,
            "start": start, "step": step}


def test_the_averages_are_those_of_the_formula_with_its_warm_up(session):
    graph = build(session)
    assert set(graph["averaged"]) == {"weights", "bn/moving_mean"}
    weights, moving = np.array([1., -2.]), 0.
    expected = {"weights": weights, "bn/moving_mean": moving}
    for t in range(1, 15):  # the warm-up's (1 + t) / (10 + t) reaches .5 at t = 8
        session.run(graph["op"])
        weights, moving = weights * (1 - RATE), moving + 1
        decay = min(DECAY, (1 + t) / (10 + t))
        for name, value in (("weights", weights), ("bn/moving_mean", moving)):
            expected[name] = decay * expected[name] + (1 - decay) * value
        values = session.run(graph["averaged"])
        for name in expected:
            np.testing.assert_allclose(values[name], expected[name], rtol=1e-5)
    np.testing.assert_allclose(session.run(graph["weights"]), weights, rtol=1e-5)


def test_a_step_that_is_not_finite_does_not_enter(session):
    graph = build(session)
    session.run(graph["op"])
    before = session.run(graph["averaged"])
    with pytest.raises(tf.errors.InvalidArgumentError, match=optimizer.NOT_FINITE):
        session.run(graph["op"], {graph["scale"]: np.nan})
    after = session.run(graph["averaged"])
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])


def test_started_once_more_they_begin_at_the_variables_values(session):
    """As after the pretrained weights were assigned."""
    graph = build(session)
    np.testing.assert_array_equal(session.run(graph["averaged"]["weights"]), [1, -2])
    graph["weights"].load([5., 6.], session)
    session.run(graph["start"])
    np.testing.assert_array_equal(session.run(graph["averaged"]["weights"]), [5, 6])


def read_model(run, which):
    """(weights, moving) as predict.py would get them."""
    with tf.Graph().as_default(), tf.Session() as session:
        variables = (tf.get_variable("weights", [2]),
                     tf.get_variable("bn/moving_mean", [], trainable=False))
        restore_model(session, Checkpoints(run, which).find()[0])
        return [value.tolist() for value in session.run(variables)]


def test_best_and_newest_give_the_averages_and_newest_resumes_exactly(session, tmp_path):
    run = os.path.join(str(tmp_path), "run")
    graph = build(session)
    latest, best = latest_checkpoints(run), best_checkpoints(run, graph["averaged"])
    for _ in range(3):
        session.run(graph["op"])
    latest.save(session, 3)
    best.save(session, 3)
    expected = [session.run(graph["averaged"][name]).tolist()
                for name in ("weights", "bn/moving_mean")]
    assert expected[1] not in (0, 3)
    assert read_model(run, BEST) == expected
    assert read_model(run, LATEST) == expected
    stored = dict(tf.train.list_variables(Checkpoints(run, BEST).find()[0]))
    assert set(stored) == {"weights", "bn/moving_mean"}

    session.run(graph["op"])
    whole = session.run(tf.global_variables())
    with tf.Graph().as_default(), tf.Session() as resumed:
        graph = build(resumed)
        latest_checkpoints(run).restore(resumed)
        resumed.run(graph["op"])
        for value, again in zip(whole, resumed.run(tf.global_variables())):
            np.testing.assert_array_equal(value, again)


def test_a_checkpoint_that_lacks_a_variables_average_is_refused(session, tmp_path):
    run = os.path.join(str(tmp_path), "run")
    build(session)
    latest_checkpoints(run).save(session, 1)
    with tf.Graph().as_default(), tf.Session() as session:
        for name in ("weights", "logits/weights"):
            tf.get_variable(name, [2])
        with pytest.raises(ValueError, match="logits/weights/ExponentialMovingAverage is missing"):
            restore_model(session, Checkpoints(run, LATEST).find()[0])


def small_model(images):
    """Scopes by name, by object and within one another, as deeplab_v3 has them."""
    with tf.variable_scope("net", reuse=tf.AUTO_REUSE):
        net = conv2d_bn_relu(images, 4, 3, "unit", BatchNorm())
        with tf.variable_scope("logits") as scope:
            return conv2d(net, 3, 1, scope, use_bias=True)


def test_the_model_of_the_averages_is_the_model_with_their_values(session):
    images = tf.constant(np.random.default_rng(0).normal(0, 1, (1, 8, 8, 3)), tf.float32)
    own = small_model(images)
    _, averaged, _ = ema.keep_averages(tf.no_op(), model_variables(), .9,
                                            tf.train.get_or_create_global_step())
    count = len(tf.global_variables())
    with ema.using_averages(averaged):
        logits = small_model(images)
    with ema.using_averages({}):
        plain = small_model(images)
    assert len(tf.global_variables()) == count
    session.run(tf.global_variables_initializer())
    variables = {variable.op.name: variable for variable in model_variables()}
    assert set(averaged) == set(variables) and len(variables) == 7
    before = session.run(own)
    session.run(tf.group(*(tf.assign(average, 1.1 * average + .1)
                           for average in averaged.values())))
    shown = session.run(logits)
    np.testing.assert_array_equal(session.run(plain), before)
    assert np.abs(shown - before).max() > .01
    session.run(tf.group(*(tf.assign(variables[name], averaged[name]) for name in variables)))
    np.testing.assert_allclose(session.run(own), shown, rtol=1e-5, atol=1e-6)
