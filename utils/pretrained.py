"""ImageNet weights -> this graph's variables. The only room that knows foreign names."""

import os
import zipfile

import numpy as np
import tensorflow as tf2
import tensorflow.compat.v1 as tf

from utils.runs import model_variables

SLIM, KERAS = "slim", "keras"
# Keras numbers a stage's units from 1 as slim does, and its stages from 2: conv1 is the stem.
KERAS_LAYERS = {
    "preact": "preact_bn", "shortcut": "0_conv",
    "conv1": "1_conv", "conv1/BatchNorm": "1_bn",
    "conv2": "2_conv", "conv2/BatchNorm": "2_bn", "conv3": "3_conv",
}
KERAS_WEIGHTS = {"kernel": "weights", "bias": "biases"}


def origin_of(pretrained):
    """'slim' or 'keras', the origin of the weights that `--pretrained` names, or None for none.

    pool1 pads as the origin does (resnet_v2.py), so the graph depends on it. Raises
    FileNotFoundError where a path leads nowhere.
    """
    if pretrained == "none":
        return None
    if pretrained == "imagenet" or pretrained.endswith((".h5", ".hdf5", ".keras")):
        if pretrained != "imagenet" and not os.path.isfile(pretrained):
            raise FileNotFoundError(f"{pretrained}: no such file; --pretrained is none, imagenet, "
                                    "a Keras ResNet50V2 .h5, or a TF-slim checkpoint")
        return KERAS
    if os.path.isdir(pretrained) or not tf.train.checkpoint_exists(pretrained):
        raise FileNotFoundError(
            f"{pretrained}: no checkpoint there; --pretrained is none, imagenet, a Keras "
            "ResNet50V2 .h5, or the prefix of a TF-slim checkpoint (resnet_v2_50.ckpt), "
            "not its folder")
    return SLIM


def read_pretrained(pretrained):
    """The weights as a dict from our variable names (resnet_v2_50/...) to float32 arrays.

    pretrained: 'imagenet' or a path, see `origin_of`. To be called outside of a graph, since Keras
    builds its own model to read its files. Raises OSError, ValueError naming the source.
    """
    if origin_of(pretrained) == KERAS:
        return _from_keras(_keras_model(pretrained))
    try:
        reader = tf.train.load_checkpoint(pretrained)
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tf.errors.OpError, ValueError, IndexError) as error:  # IndexError: cut short
        raise ValueError(f"{pretrained}: not a checkpoint that TensorFlow reads ({error}); "
                         "fetch it again") from error


def assign_backbone(session, weights, backbone, source):
    """Puts `weights` into every variable of `backbone` in the current graph.

    Batch norm's moving statistics come along. What the weights have besides (a classifier, a
    global step) is left out. Raises ValueError naming the variables that are missing or differ in
    shape; then nothing is changed. Returns the names of those left out.
    """
    variables = [v for v in model_variables() if v.op.name.startswith(backbone + "/")]
    wrong = [v.op.name for v in variables if v.op.name not in weights
             or list(weights[v.op.name].shape) != v.shape.as_list()]
    if wrong:
        raise ValueError(f"{source}: not the weights of {backbone}: {len(wrong)} of "
                         f"{len(variables)} variables could not be restored: {', '.join(wrong)}")
    # The initialisers, fed with other values: one run, where Variable.load takes one a variable.
    # Of several devices each has a copy of its own.
    copies = [(copy, weights[v.op.name]) for v in variables
              for copy in tf.distribute.get_strategy().experimental_local_results(v)]
    session.run([copy.initializer for copy, _ in copies],
                {copy.initializer.inputs[1]: value for copy, value in copies})
    return sorted(set(weights) - {v.op.name for v in variables})


def _keras_model(pretrained):
    """Keras's own ResNet50V2 with the weights, whichever of Keras's file formats they are in."""
    build = tf2.keras.applications.ResNet50V2
    if pretrained == "imagenet":
        try:
            return build(weights="imagenet", include_top=False)
        except Exception as error:  # Keras raises a bare Exception where a download fails.
            raise OSError(f"imagenet: Keras could not fetch its weights ({error}); fetch the file "
                          "where there is a network and pass its path, or use --pretrained none"
                          ) from error
    errors = []
    for include_top in (False, True):
        model = build(weights=None, include_top=include_top)
        try:
            model.load_weights(pretrained)
            return model
        except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
            errors.append(str(error).strip().splitlines()[0][:200])
    raise ValueError(f"{pretrained}: not the weights of Keras's ResNet50V2 ({errors[0]})")


def _from_keras(model):
    """Keras's layers -> a dict from our variable names to float32 arrays."""
    weights = {}
    for layer in model.layers:
        scope = _our_scope(layer.name)
        for variable in layer.weights if scope else []:
            kind = variable.name.split("/")[-1].split(":")[0]
            name = f"resnet_v2_50/{scope}/{KERAS_WEIGHTS.get(kind, kind)}"
            weights[name] = np.asarray(variable, np.float32)
    return weights


def _our_scope(layer):
    """'conv3_block2_1_bn' -> 'block2/unit_2/bottleneck_v2/conv1/BatchNorm'; None if not ours."""
    if layer in ("conv1_conv", "post_bn"):
        return {"conv1_conv": "conv1", "post_bn": "postnorm"}[layer]
    stage, _, rest = layer.partition("_block")
    unit, _, part = rest.partition("_")
    scope = next((ours for ours, theirs in KERAS_LAYERS.items() if theirs == part), None)
    return scope and f"block{int(stage[-1]) - 1}/unit_{unit}/bottleneck_v2/{scope}"
