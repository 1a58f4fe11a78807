"""Our ResNet-v2-50 beside the real TF-slim network, with the same random weights from a checkpoint.

TF-slim does not work with Keras 3, so this runs in an environment of its own:
    python -m venv /tmp/slim_venv
    /tmp/slim_venv/bin/pip install tensorflow==2.21.0 tf_slim==1.1.0 tf_keras==2.21.0
    TF_USE_LEGACY_KERAS=1 /tmp/slim_venv/bin/python -m benchmarks.slim_parity
"""

import argparse
import os
import sys
import tempfile
from importlib.metadata import version

import numpy as np
import tensorflow.compat.v1 as tf
from tf_keras.src import legacy_tf_layers
from tf_keras.src.legacy_tf_layers import normalization

# TensorFlow looks for tf_keras's batch norm where it lay before 2.16.
sys.modules["tf_keras.legacy_tf_layers"] = legacy_tf_layers
sys.modules["tf_keras.legacy_tf_layers.normalization"] = normalization

import tf_slim  # noqa: E402
from tf_slim.nets import resnet_v2 as slim_resnet_v2  # noqa: E402

from resnet_v2 import resnet_v2_50  # noqa: E402
from utils.cli import natural  # noqa: E402
from utils.layers import BatchNorm  # noqa: E402
from utils.training.pretrained import assign_backbone, read_pretrained  # noqa: E402
from utils.training.checkpoints import model_variables  # noqa: E402

DECAY = 0.997


def random_values(variables, seed):
    """A value for each variable, by name: float32 of a size that keeps the features in range."""
    random = np.random.default_rng(seed)
    values = {}
    for variable in variables:
        name, shape = variable.op.name, variable.shape.as_list()
        if name.endswith("weights"):
            value = random.normal(0, (2 / np.prod(shape[:3])) ** 0.5, shape)
        elif name.endswith(("gamma", "moving_variance")):
            value = random.uniform(0.5, 1.5, shape)
        else:
            value = random.normal(0, 0.3, shape)
        values[name] = value.astype(np.float32)
    return values


def run_slim(images, output_stride, is_training, checkpoint, seed):
    """(features, moving statistics after one update) of slim; writes its weights to a checkpoint.

    The checkpoint is in TensorFlow's first format, one file, as slim's published ones are, and
    has a classifier and a global step as they have.
    """
    with tf.Graph().as_default(), tf.Session() as session:
        tf.train.create_global_step()
        with tf_slim.arg_scope(slim_resnet_v2.resnet_arg_scope(batch_norm_decay=DECAY)):
            features, _ = slim_resnet_v2.resnet_v2_50(
                tf.constant(images), None, is_training, global_pool=False,
                output_stride=output_stride)
        backbone = model_variables()
        tf.get_variable("resnet_v2_50/logits/weights", [1, 1, 2048, 1001])
        session.run(tf.global_variables_initializer())
        for name, value in random_values(backbone, seed).items():
            next(v for v in backbone if v.op.name == name).load(value, session)
        saver = tf.train.Saver(write_version=tf.train.SaverDef.V1)
        saver.save(session, checkpoint, write_meta_graph=False)
        return run_once(session, features)


def run_ours(images, output_stride, is_training, checkpoint):
    """The same of our network, restored from slim's checkpoint as train.py does."""
    weights = read_pretrained(checkpoint)
    with tf.Graph().as_default(), tf.Session() as session:
        features, _ = resnet_v2_50(tf.constant(images), BatchNorm(is_training, DECAY),
                                   output_stride or 32)
        session.run(tf.global_variables_initializer())
        left_out = assign_backbone(session, weights, "resnet_v2_50", checkpoint)
        assert left_out == ["global_step", "resnet_v2_50/logits/weights"], left_out
        return run_once(session, features)


def run_once(session, features):
    """One run together with the updates of the moving statistics; both as numpy arrays."""
    values = session.run([features, tf.get_collection(tf.GraphKeys.UPDATE_OPS)])[0]
    moving = [v for v in model_variables() if "/moving_" in v.op.name]
    moving = sorted(moving, key=lambda v: v.op.name)
    return values, np.concatenate(session.run(moving))


def relative_error(ours, theirs):
    """Largest absolute difference over the largest absolute value of the reference."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seed", type=natural, default=0)
    args = parser.parse_args()

    tf.disable_v2_behavior()
    tf.logging.set_verbosity(tf.logging.ERROR)
    print(f"TensorFlow {tf.__version__}, tf_slim {version('tf_slim')}, seed {args.seed}; "
          "relative error = largest difference / largest value")
    print("mode       images        stride  features           "
          "error of features, moving statistics")
    random = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = os.path.join(folder, "resnet_v2_50.ckpt")
        for is_training in (False, True):
            for size in ((129, 97), (128, 90)):
                images = random.uniform(-1, 1, (2, *size, 3)).astype(np.float32)
                for output_stride in (None, 32, 16, 8):
                    theirs = run_slim(images, output_stride, is_training, checkpoint, args.seed)
                    ours = run_ours(images, output_stride, is_training, checkpoint)
                    errors = [relative_error(*pair) for pair in zip(ours, theirs)]
                    print(f"{'training' if is_training else 'inference':<10} "
                          f"2 x {size[0]} x {size[1]:<4} {output_stride!s:<7} "
                          f"{' x '.join(map(str, ours[0].shape)):<18} "
                          + "  ".join(f"{error:.1e}" for error in errors), flush=True)


if __name__ == "__main__":
    main()
