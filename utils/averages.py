"""Exponential moving averages of the model's variables (--ema)."""

import tensorflow.compat.v1 as tf

AVERAGE = "ExponentialMovingAverage"


def average_name(name):
    """Name under which a checkpoint holds the average of the variable `name`."""
    return f"{name}/{AVERAGE}"


def keep_averages(update, variables, decay, step):
    """(op, averages): `update` followed by that of the averages of `variables`.

    averages: {name of a variable: the variable that holds its average}. After update number t (the
    value of `step`, which `update` raises) an average becomes d * average + (1 - d) * variable,
    d = min(decay, (1 + t) / (10 + t)), so that early ones do not hang on the first weights
    (tf.train.ExponentialMovingAverage). Where `update` fails, the averages stay as they are.

    Batch norm's moving statistics belong among `variables`: those of the averaged weights lag as
    the averaged weights do. The averages begin at the variables' values by the time that the
    averages are initialized.
    """
    method = tf.train.ExponentialMovingAverage(decay, num_updates=step, name=AVERAGE)
    with tf.control_dependencies([update]):
        op = method.apply(variables)
    return op, {variable.op.name: method.average(variable) for variable in variables}


def using_averages(averages):
    """A variable scope in which tf.get_variable gives a variable's average in its place.

    The variables must be there already. Without averages ({}) it changes nothing.
    """
    def get_average(getter, *args, **kwargs):
        variable = getter(*args, **kwargs)
        return averages.get(variable.op.name, variable)

    return tf.variable_scope(tf.get_variable_scope(), custom_getter=get_average)
