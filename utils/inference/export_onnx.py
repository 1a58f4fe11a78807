"""A trained run as an ONNX model that the QGIS plugin Deepness opens."""

import json

import tensorflow.compat.v1 as tf

from utils.files import write_bytes
from utils.inference.predictor import probabilities_of
from utils.precision import FLOAT32
from utils.training.checkpoints import restore_model

OPSET = 17


def export_onnx(path, checkpoint, settings, options, facts):
    """Writes the run's model to `path`, with the metadata that Deepness reads.

    Its input `images`, float32 [1, channels, window, window], holds samples divided by 255, as
    Deepness does it; its output `probabilities` is float32 [1, classes, window, window]. options:
    InferenceOptions, for window and overlap. facts: plain values (of `model_facts`); `pixel_size`,
    in metres, becomes Deepness's resolution, and is left out where it is not known. Raises
    ValueError and OSError, also where tf2onnx, which is not among the requirements, is not
    installed.
    """
    try:
        import tf2onnx.convert
    except ImportError as error:
        raise ValueError(f"--export_onnx {path}: needs a package that is not installed ({error}); "
                         "pip install tf2onnx onnx") from None
    window = options.window
    with tf.Graph().as_default(), tf.Session() as session:
        images = tf.placeholder(tf.float32, [1, window, window, settings.model.in_channels],
                                "images")
        tf.identity(probabilities_of(settings.model, FLOAT32)(images * 255), "probabilities")
        restore_model(session, checkpoint)
        graph = tf.graph_util.convert_variables_to_constants(session, session.graph_def,
                                                             ["probabilities"])
    names = {"images:0": "images", "probabilities:0": "probabilities"}
    model, _ = tf2onnx.convert.from_graph_def(
        graph, input_names=["images:0"], output_names=["probabilities:0"], opset=OPSET,
        inputs_as_nchw=["images:0"], outputs_as_nchw=["probabilities:0"], tensors_to_rename=names)
    metadata = {
        "model_type": "Segmentor", "class_names": dict(enumerate(settings.classes.names)),
        # The plugin's documents and its code spell it differently.
        "tile_size": window, "tiles_size": window,
        "tiles_overlap": round(100 * options.overlap),
        # The most probable class wins, however probable it is.
        "seg_thresh": 0.0, "facts": facts}
    if facts["pixel_size"]:
        metadata["resolution"] = 100 * facts["pixel_size"]  # cm
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    write_bytes(path, model.SerializeToString())
