"""The optimizer Muon (Keller Jordan, https://kellerjordan.github.io/posts/muon)."""

import re

import tensorflow.compat.v1 as tf

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of x, x^3 and x^5
ITERATIONS = 5
SMALLEST_NORM = 1e-7


class Muon(tf.train.AdamOptimizer):
    """Steps along the orthogonalised momentum of convolution weights; Adam for all else.

    A kernel [height, width, in, out] is a matrix [height * width * in, out]. Its step is `rate` *
    RMS * sqrt(the longer side) * `orthogonalised`(Nesterov's momentum): so an element moves by some
    RMS * rate, as under Adam, and Adam's rates serve (Liu et al., arXiv 2502.16982, 2.2). Biases,
    batch norm, depthwise weights and the last layer are Adam's, as the author advises.

    precision: 'float32' or 'bfloat16', in which it multiplies matrices.
    """

    MOMENTUM = 0.95
    RMS = 0.2

    def __init__(self, rate, precision="float32"):
        super().__init__(rate, name="Muon")
        self._precision = precision

    def _zeros_slot(self, var, slot_name, op_name):
        # Adam's second moment, 'v', would stay unused.
        return None if slot_name == "v" and is_matrix(var) else super()._zeros_slot(
            var, slot_name, op_name)

    def _resource_apply_dense(self, grad, var):
        if not is_matrix(var):
            return super()._resource_apply_dense(grad, var)
        old = self.get_slot(var, "m")
        momentum = self.MOMENTUM * old.read_value() + (1 - self.MOMENTUM) * grad
        matrix = tf.reshape(self.MOMENTUM * momentum + (1 - self.MOMENTUM) * grad,
                            [-1, var.shape[-1]])
        scale = self.RMS * max(matrix.shape.as_list()) ** 0.5
        step = self._lr_t * scale * orthogonalised(matrix, self._precision)
        return tf.group(old.assign(momentum), var.assign_sub(tf.reshape(step, var.shape)))


def is_matrix(variable):
    """Whether Muon treats `variable` as a matrix: of convolutions but depthwise ones and the last.

    On a second device variables have that device's name at the end.
    """
    name = re.sub(r"(/replica_\d+)?:0$", "", variable.name)
    return len(variable.shape) == 4 and name.endswith("/weights") and name != "logits/weights"


def orthogonalised(matrix, precision="float32"):
    """About U V^T of the singular value decomposition U S V^T of `matrix`, float32 [rows, columns].

    Five quintic Newton-Schulz iterations: all but the smallest singular values become 0.7 to 1.2.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = tf.cast(matrix / (tf.norm(matrix) + SMALLEST_NORM), precision)
    identity = tf.eye(min(matrix.shape.as_list()), dtype=precision)
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        square = tf.matmul(x, x, transpose_a=is_tall, transpose_b=not is_tall)
        polynomial = tf.matmul(square, b * identity + c * square) + a * identity
        x = tf.matmul(x, polynomial) if is_tall else tf.matmul(polynomial, x)
    return tf.cast(x, tf.float32)
