"""EMA: the exponential moving average of each of the model's variables (--ema)."""

import tensorflow.compat.v1 as tf

AVERAGE = "ExponentialMovingAverage"


def average_name(name):
    """Name under which a checkpoint holds the average of the variable `name`."""
    return f"{name}/{AVERAGE}"


def keep_averages(update, variables, decay, step):
    """(op, averages, start): `update` followed by that of the averages of `variables`.

    averages: {name of a variable: the variable that holds its average}. After update number t (the
    value of `step`, which `update` raises) an average becomes d * average + (1 - d) * variable,
    d = min(decay, (1 + t) / (10 + t)), so that early ones do not hang on the initial weights (as
    tf.train.ExponentialMovingAverage, whose own variables were seen to hang two hosts, since each
    asks for a variable's first value before all have it). Where `update` fails, the averages stay
    as they are. `start` lets the averages begin at the variables' values.

    Batch norm's moving statistics belong among `variables`: those of the averaged weights lag as
    the averaged weights do.
    """
    averages = {variable.op.name: tf.get_variable(
        average_name(variable.op.name), variable.shape, trainable=False,
        initializer=tf.zeros_initializer()) for variable in variables}
    start = tf.group([tf.assign(averages[variable.op.name], variable.read_value())
                      for variable in variables])
    with tf.control_dependencies([update]):
        number = tf.cast(step.read_value(), tf.float32)
        kept = tf.minimum(decay, (1 + number) / (10 + number))
        op = tf.group([tf.assign(average, average.read_value() - (1 - kept) * (
            average.read_value() - variable.read_value()))
            for variable, average in ((v, averages[v.op.name]) for v in variables)])
    return op, averages, start


def using_averages(averages):
    """A variable scope in which tf.get_variable gives a variable's average in its place.

    The variables must be there already. Without averages ({}) it changes nothing.
    """
    def get_average(getter, *args, **kwargs):
        variable = getter(*args, **kwargs)
        return averages.get(variable.op.name, variable)

    return tf.variable_scope(tf.get_variable_scope(), custom_getter=get_average)
