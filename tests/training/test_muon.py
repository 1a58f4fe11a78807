"""utils/training/muon.py against Keras's Muon, numpy's SVD and TensorFlow's Adam."""

import keras
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from utils.training import optimizer
from utils.training.muon import Muon, is_matrix, orthogonalised

SHAPES = [(3, 3, 8, 5), (1, 1, 4, 12), (1, 1, 6, 6)]  # tall, wide and square matrices
STEPS = 4
KERAS = keras.optimizers.Muon()


@pytest.fixture
def session():
    with tf.Graph().as_default(), tf.Session() as session:
        yield session


def orthogonalised_by_keras(matrix):
    with tf.Graph().as_default(), tf.Session() as session:
        return session.run(KERAS.zeropower_via_newtonschulz5(tf.constant(matrix), 5))


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(40, 5), (5, 40), (16, 16)])
@pytest.mark.parametrize("precision, tolerance", [("float32", 1e-5), ("bfloat16", .06)])
def test_matrices_are_orthogonalised_as_keras_does(session, shape, precision, tolerance):
    matrix = 100 * random(*shape)
    result = session.run(orthogonalised(tf.constant(matrix), precision))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, orthogonalised_by_keras(matrix), atol=tolerance)


def test_orthogonalised_is_nearly_u_vt(session):
    matrix = random(60, 20)
    u, _, v = np.linalg.svd(matrix, full_matrices=False)
    result = session.run(orthogonalised(tf.constant(matrix)))
    assert np.corrcoef(result.ravel(), (u @ v).ravel())[0, 1] > .98
    values = np.linalg.svd(result, compute_uv=False)
    assert .65 < values.min() and values.max() < 1.25


def test_a_zero_gradient_moves_nothing(session):
    np.testing.assert_array_equal(session.run(orthogonalised(tf.zeros([4, 3]))), np.zeros([4, 3]))


def trained(session, method, name, shape):
    """The values of a variable at the start and after each of STEPS, of a loss whose gradient
    turns: sum(scale w^2 + step direction w)."""
    variable = tf.get_variable(name, shape, initializer=tf.constant_initializer(random(*shape)))
    step = tf.train.get_or_create_global_step()
    loss = tf.reduce_sum(tf.square(variable) * np.abs(random(*shape, seed=1)) +
                         tf.cast(step, tf.float32) * random(*shape, seed=2) * variable)
    update = optimizer.train_op(loss, method, tf.constant(.02), .9, step)
    session.run(tf.global_variables_initializer())
    values = [session.run(variable)]
    for _ in range(STEPS):
        session.run(update)
        values.append(session.run(variable))
    return values


@pytest.mark.parametrize("shape", SHAPES)
def test_steps_of_a_convolution_are_those_of_keras(session, shape):
    values = trained(session, "muon", "net/conv/weights", shape)
    rows, columns = np.prod(shape[:-1]), shape[-1]
    matrix, momentum = values[0].reshape(rows, columns), 0
    scale, direction = (random(*shape, seed=seed).reshape(rows, columns) for seed in (1, 2))
    for number, value in enumerate(values[1:]):
        gradient = 2 * matrix * np.abs(scale) + number * direction
        # As _muon_update_step and lr_adjust of Keras, which need eager execution.
        momentum = KERAS.momentum * momentum + gradient
        step = orthogonalised_by_keras(gradient + KERAS.momentum * momentum)
        matrix = matrix - .02 * step * KERAS.rms_rate * max(rows, columns) ** .5
        np.testing.assert_allclose(value.reshape(rows, columns), matrix, atol=1e-5)


@pytest.mark.parametrize("name, shape", [
    ("net/conv/biases", (5,)), ("net/BatchNorm/gamma", (5,)), ("logits/weights", (1, 1, 4, 5)),
    ("aspp1_depthwise/depthwise_weights", (3, 3, 4, 1))])
def test_all_else_takes_adams_steps(name, shape):
    values = {}
    for method in ("muon", "adam"):
        with tf.Graph().as_default(), tf.Session() as session:
            values[method] = trained(session, method, name, shape)
    np.testing.assert_array_equal(values["muon"], values["adam"])


def test_a_matrix_has_one_slot_and_every_other_variable_two(session):
    variables = [tf.get_variable(name, shape) for name, shape in {
        "conv/weights": SHAPES[0], "logits/weights": SHAPES[1]}.items()]
    Muon(.1).apply_gradients([(tf.ones_like(v), v) for v in variables])
    assert {v.op.name for v in tf.global_variables()} >= {
        "conv/weights/Muon", "logits/weights/Muon", "logits/weights/Muon_1"}
    assert "conv/weights/Muon_1" not in {v.op.name for v in tf.global_variables()}
    assert [is_matrix(v) for v in variables] == [True, False]


def test_it_goes_on_from_a_checkpoint_bit_for_bit(session, tmp_path):
    for name, shape in {"conv/weights": SHAPES[0], "logits/weights": SHAPES[1]}.items():
        tf.get_variable(name, shape, initializer=tf.constant_initializer(random(*shape)))
    weights = tf.trainable_variables()
    step = tf.train.get_or_create_global_step()
    loss = tf.add_n([tf.reduce_sum(tf.sin(v * tf.cast(step + 1, tf.float32))) for v in weights])
    update = optimizer.train_op(loss, "muon", tf.constant(.02), .9, step)
    session.run(tf.global_variables_initializer())
    saver = tf.train.Saver()

    def after_steps():
        for _ in range(STEPS):
            session.run(update)
        return session.run(weights)

    after_steps()
    path = saver.save(session, str(tmp_path / "step"))
    expected = after_steps()
    session.run(tf.global_variables_initializer())
    saver.restore(session, path)
    for value, other in zip(after_steps(), expected):
        np.testing.assert_array_equal(value, other)
