"""Initial weights: ImageNet's, whose foreign names only this module knows, or another run's."""

import contextlib
import os
import re
import warnings
import zipfile

import numpy as np
import tensorflow as tf2
import tensorflow.compat.v1 as tf

from utils.training.checkpoints import (BEST, LATEST, Checkpoints, check_readable_name,
                                        model_variables)
from utils.training.download import fetch_checkpoint
from utils.training.ema import average_name
from utils.training.run import SETTINGS, RunSettings, is_run

SLIM, KERAS = "slim", "keras"
EXPECTED = ("--pretrained is none, imagenet, Keras's .h5 of a ResNet-v2, the prefix of a "
            "checkpoint of TF-slim (resnet_v2_50.ckpt) or Deeplab's model zoo (model.ckpt), or the "
            "folder of a run of train.py")
# The backbones that Keras has too; their pool1 pads as the origin of the weights.
KERAS_MODELS = {"resnet_v2_50": "ResNet50V2", "resnet_v2_101": "ResNet101V2"}
# ImageNet checkpoints of deeplab's model zoo (research/deeplab/g3doc/model_zoo.md).
MODEL_ZOO = {
    "xception_65": "https://download.tensorflow.org/models/deeplabv3_xception_2018_01_04.tar.gz"}
AVERAGE = "/ExponentialMovingAverage"
# Of an optimizer and an average; a zoo's checkpoint has three times as many of them as weights.
SLOTS = ("/Momentum", "/RMSProp", "/RMSProp_1", "/Adam", "/Adam_1", "/Muon", "/Muon_1",
         AVERAGE)
CHECKPOINT_PART = re.compile(r"\.(index|meta|data-\d+-of-\d+)$")
# Names of variables that an error spells out; the rest are counted.
NAMES_SHOWN = 3
# Keras numbers a stage's units from 1 as slim does, and its stages from 2: conv1 is the stem.
KERAS_LAYERS = {
    "preact": "preact_bn", "shortcut": "0_conv",
    "conv1": "1_conv", "conv1/BatchNorm": "1_bn",
    "conv2": "2_conv", "conv2/BatchNorm": "2_bn", "conv3": "3_conv",
}
KERAS_WEIGHTS = {"kernel": "weights", "bias": "biases"}


def pool1_padding(pretrained, backbone):
    """'slim' or 'keras': how a ResNet pads its pool1 with these weights; None for other backbones.

    Raises as `origin_of`.
    """
    origin = origin_of(pretrained, backbone)
    return (origin or SLIM) if backbone in KERAS_MODELS else None


def origin_of(pretrained, backbone="resnet_v2_50"):
    """'slim' or 'keras', the origin of the weights that `--pretrained` names, or None for none.

    A ResNet's pool1 pads as the origin does (resnet_v2.py), so the graph depends on it; a run's
    pads as that run did. Raises FileNotFoundError where a path leads nowhere, ValueError for a
    file that only belongs to or holds a checkpoint.
    """
    if pretrained == "none":
        return None
    if is_run(pretrained):
        return RunSettings.read(pretrained).model.pool1_padding or SLIM
    if pretrained == "imagenet" and backbone in MODEL_ZOO:
        return SLIM
    if pretrained == "imagenet" or pretrained.endswith((".h5", ".hdf5", ".keras")):
        if pretrained != "imagenet" and not os.path.isfile(pretrained):
            raise FileNotFoundError(f"{pretrained}: no such file; {EXPECTED}")
        return KERAS
    check_readable_name(pretrained)
    if os.path.isdir(pretrained) or not tf.train.checkpoint_exists(pretrained):
        what = (f"a folder, but no run (no {SETTINGS})" if os.path.isdir(pretrained)
                else "no checkpoint there")
        raise FileNotFoundError(f"{pretrained}: {what}; {EXPECTED}")
    # TensorFlow takes any file for a checkpoint of its first version.
    if part := CHECKPOINT_PART.search(pretrained):
        raise ValueError(f"{pretrained}: one file of a checkpoint; give the prefix of all: "
                         f"{pretrained[:part.start()]}")
    if pretrained.endswith((".tar.gz", ".tgz")):
        raise ValueError(f"{pretrained}: unpack it first and give the prefix of the checkpoint in "
                         "it")
    return SLIM


def read_pretrained(pretrained, config=None):
    """The weights as a dict from our variable names (resnet_v2_50/...) to float32 arrays.

    pretrained: 'imagenet' or a path, see `origin_of`. config: the ModelConfig that they are
    for; None: any of backbone resnet_v2_50. To be called outside of a graph, since Keras builds its
    own model to read its files. Raises OSError, ValueError naming the source.
    """
    backbone = config.backbone if config else "resnet_v2_50"
    if is_run(pretrained):
        checkpoint = _best_or_latest(pretrained)
        if config:
            _check_fits(pretrained, config)
        weights = _read_checkpoint(checkpoint)
        # A latest checkpoint of a run with --ema has both; predict.py takes the averages too.
        return weights | {name: weights[average_name(name)] for name in weights
                          if average_name(name) in weights}
    if config and config.width != 1:
        raise ValueError(f"--width {config.width:g}: {pretrained} has weights of width 1 only; "
                         "use --pretrained none, or the folder of a run of this width")
    if origin_of(pretrained, backbone) == KERAS:
        return _from_keras(_keras_model(pretrained, backbone), backbone)
    weights = _without_slots(_read_checkpoint(
        _model_zoo(backbone) if pretrained == "imagenet" else pretrained))
    # The zoo has the pyramid's names too, but it and slim call their last layer otherwise.
    if "logits/weights" in weights:
        raise ValueError(f"{pretrained}: a checkpoint of train.py's own; give its run's folder, "
                         f"where {SETTINGS} is")
    return weights


def assign_weights(session, weights, backbone, source):
    """Puts what `read_pretrained` gave into the current graph; returns a line for the log.

    source: what `--pretrained` names. A run's weights fill the whole model, others its `backbone`.
    Raises ValueError as `assign_backbone` and `assign_model`.
    """
    if is_run(source):
        anew = assign_model(session, weights, source)
        return (f"initial weights from {_best_or_latest(source)}"
                + (f"; re-initialised for another number of classes: {', '.join(anew)}"
                   if anew else ""))
    left_out = assign_backbone(session, weights, backbone, source)
    return f"backbone from {source}; not used: {_shortened(left_out) or 'nothing'}"


def assign_backbone(session, weights, backbone, source):
    """Puts `weights` into every variable of `backbone` in the current graph.

    Batch norm's moving statistics come along. A kernel of RGB is adapted to images of other than
    three bands. What the weights have besides (a classifier, a global step) is left out. Raises
    ValueError naming the variables that are missing or differ in shape; then nothing is changed.
    Returns the names of those left out.
    """
    variables = [v for v in model_variables() if v.op.name.startswith(backbone + "/")]
    # A network's first layer is the first that it makes, whatever its name.
    first = next(v for v in variables if v.op.name.endswith("/weights"))
    kernel = weights.get(first.op.name, np.empty(0))
    if kernel.ndim == 4 and kernel.shape[2] == 3:
        weights = weights | {first.op.name: adapt_kernel(kernel, first.shape.as_list()[2])}
    _assign(session, weights, variables, source, f"the weights of {backbone}")
    return sorted(set(weights) - {v.op.name for v in variables})


def assign_model(session, weights, run):
    """Puts the `weights` of a run into all of the current graph's model.

    The last layer keeps its initial values where it has another number of classes. Raises
    ValueError naming the variables that are missing or differ in shape otherwise; then nothing is
    changed.
    Returns the names of those that are re-initialised.
    """
    variables = model_variables()
    anew = [v.op.name for v in variables if v.op.name.startswith("logits/")
            and v.op.name in weights and weights[v.op.name].shape[-1] != v.shape[-1]]
    _assign(session, weights, [v for v in variables if v.op.name not in anew], run, "this model")
    return anew


def adapt_kernel(kernel, bands):
    """The kernel of a first layer for RGB, [height, width, 3, filters] -> [..., bands, filters].

    Band i gets the kernel of band i mod 3, times 3 / bands, so that activations keep their size;
    six bands that are RGB twice give exactly what RGB gave. One band gets the sum of the three: a
    grey scene gives exactly what it gave as RGB (timm, models/_manipulate.py, adapt_input_conv).
    """
    if bands == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(bands) % 3] * np.float32(3 / bands)


def _assign(session, weights, variables, source, what):
    wrong = [v.op.name for v in variables if v.op.name not in weights
             or list(weights[v.op.name].shape) != v.shape.as_list()]
    if wrong:
        there = sorted({name.split("/")[0] for name in weights})[:NAMES_SHOWN]
        raise ValueError(
            f"{source}: not {what}: {len(wrong)} of {len(variables)} variables are missing or of "
            f"another shape: {_shortened(wrong)}; the file has {', '.join(there) or 'nothing'}")
    # The initialisers, fed with other values: one run, where Variable.load takes one a variable.
    # Of several devices each has a copy of its own.
    copies = [(copy, weights[v.op.name]) for v in variables
              for copy in tf.distribute.get_strategy().experimental_local_results(v)]
    session.run([copy.initializer for copy, _ in copies],
                {copy.initializer.inputs[1]: value for copy, value in copies})


def _shortened(names):
    """The first few of `names`, and how many there are besides."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _without_slots(weights):
    """Without what an optimizer added; a moving average stands in for weights that are not there.

    A checkpoint for evaluation may hold only the averages (tf.train.ExponentialMovingAverage).
    """
    averages = {name.removesuffix(AVERAGE): value for name, value in weights.items()
                if name.endswith(AVERAGE)}
    return averages | {name: value for name, value in weights.items() if not name.endswith(SLOTS)}


def _model_zoo(backbone):
    """Path prefix of the ImageNet checkpoint of `backbone`, kept where Keras keeps its own."""
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    folder = os.path.join(home, "models", f"{backbone}_imagenet")
    try:
        return fetch_checkpoint(MODEL_ZOO[backbone], folder)
    except OSError as error:
        raise OSError(f"imagenet: {error}; or fetch and unpack it where there is a network and "
                      "pass the path of its model.ckpt, or use --pretrained none") from error


def _best_or_latest(run):
    """Path prefix of the run's best checkpoint or, where it was never evaluated, its latest."""
    for which in (BEST, LATEST):
        with contextlib.suppress(FileNotFoundError):
            return Checkpoints(run, which).find()[0]
    raise FileNotFoundError(f"{run}: a run without a complete checkpoint; train it first, or name "
                            "another with --pretrained")


def _check_fits(run, config):
    """Raises ValueError naming the settings for which the run's variables would not fit."""
    before = RunSettings.read(run).model
    changed = [f"{name} was {getattr(before, name)}, is {getattr(config, name)}"
               for name in ("backbone", "in_channels", "decoder", "separable", "width")
               if getattr(before, name) != getattr(config, name)]
    if changed:
        raise ValueError(f"{run}: its weights do not fit: {'; '.join(changed)}; only the number of "
                         "classes may differ; choose another --pretrained")


def _read_checkpoint(path):
    try:
        reader = tf.train.load_checkpoint(path)
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tf.errors.OpError, ValueError, IndexError) as error:  # IndexError: cut short
        raise ValueError(f"{path}: not a checkpoint that TensorFlow reads ({error}); "
                         "fetch it again") from error


def _keras_model(pretrained, backbone):
    """Keras's own model with the weights, whichever of Keras's file formats they are in."""
    if backbone not in KERAS_MODELS:
        raise ValueError(f"{pretrained}: weights of Keras's, which has no {backbone}; give the "
                         "prefix of a checkpoint of it, the folder of a run, or none")
    name = KERAS_MODELS[backbone]
    build = getattr(tf2.keras.applications, name)
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
            # Keras warns of each layer by itself before it raises one error of all.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.load_weights(pretrained)
            return model
        except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
            reason = str(error).strip().splitlines()[0].split(" Example error message")[0]
            errors.append(reason[:200])
    raise ValueError(f"{pretrained}: not the weights of Keras's {name} ({errors[0]})")


def _from_keras(model, backbone):
    """Keras's layers -> a dict from our variable names to float32 arrays."""
    weights = {}
    for layer in model.layers:
        scope = _our_scope(layer.name)
        for variable in layer.weights if scope else []:
            kind = variable.name.split("/")[-1].split(":")[0]
            name = f"{backbone}/{scope}/{KERAS_WEIGHTS.get(kind, kind)}"
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
