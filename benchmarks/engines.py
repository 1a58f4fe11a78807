"""Speed of one network under several engines, and of mapping a whole GeoTIFF beside a peer.

    python train.py --dataset dataset/demo --run engines --pretrained none --steps 1 --batch_size 2
    python -m benchmarks.engines --run engines --peer /path/to/python

The same weights as TensorFlow runs them in predict.py, and exported to ONNX (tf2onnx and onnx must
be importable) under ONNX Runtime and OpenVINO; beside them torchvision's deeplabv3_resnet50 at
output stride 16, eager and under torch.compile. Windows of --side pixels, one pass. --peer is a
Python that has onnxruntime, openvino, torch, torchvision, monai and rasterio, for
benchmarks.engine_peers. All take turns, --rounds times; the table has medians, and the median of
each round's ratio to TensorFlow.
Then a GeoTIFF of --scene pixels a side is mapped by predict.py and by MONAI's sliding windows with
torchvision's network, each a process of its own: megapixels per second, loading and compiling
included, and peak memory.
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import pandas as pd
import rasterio
import tensorflow.compat.v1 as tf

from benchmarks.engine_peers import images_per_second
from benchmarks.shared import call, failure, python
from utils.cli import natural, plain_parser, positive, run_script
from utils.inference.predictor import build_predictor, probabilities_of
from utils.inference.sliding_window import InferenceOptions
from utils.precision import FLOAT32, PRECISIONS
from utils.training.checkpoints import LATEST, Checkpoints, restore_model
from utils.training.run import RunSettings

PEERS = {"ONNX Runtime": "onnx", "OpenVINO": "openvino", "torchvision": "torch",
         "torchvision, torch.compile": "compiled"}
OURS = "TensorFlow (predict.py)"
PEAK_OF_CHILD = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""
SCENE_WAYS = {"predict.py --quality fast": "fast", "predict.py": "default",
              "predict.py --quality best": "best", "MONAI and torchvision": 1,
              "MONAI and torchvision, four turns": 4}


def parse_arguments():
    parser = plain_parser(__doc__)
    add = parser.add_argument
    add("--logs", default="logs", metavar="FOLDER", help="where the runs are")
    add("--run", required=True, help="name of a run of width 1 with three bands")
    add("--peer", required=True, metavar="PYTHON", help="the Python with the other engines")
    add("--batch_sizes", type=positive, nargs="*", default=[1, 4, 16], help="none: only the scene")
    add("--precisions", choices=PRECISIONS, nargs="+", default=[FLOAT32])
    add("--side", type=positive, default=256, help="of a window, pixels")
    add("--rounds", type=positive, default=3)
    add("--scene", type=natural, default=1536, help="side of the GeoTIFF, pixels; 0: none")
    return parser.parse_args()


def main():
    args = parse_arguments()
    run = os.path.join(args.logs, args.run)
    settings, (checkpoint, _) = RunSettings.read(run), Checkpoints(run, LATEST).find()
    with tempfile.TemporaryDirectory() as folder:
        models = {batch: os.path.join(folder, f"{batch}.onnx") for batch in args.batch_sizes}
        for batch, path in models.items():
            write_onnx(path, checkpoint, settings.model, [batch, args.side, args.side, 3])
        for precision in args.precisions if models else ():
            rows = [measure_round(args, precision, models, checkpoint, settings.model)
                    for _ in range(args.rounds)]
            print_table(precision, rows)
        if args.scene:
            map_scenes(args, folder)


def write_onnx(path, checkpoint, config, shape):
    """The network with its weights; input float32 [batch, side, side, 3] in 0 to 255. (Without a
    fixed shape ONNX Runtime cannot pad atrous convolutions.)"""
    import tf2onnx.convert
    with tf.Graph().as_default(), tf.Session() as session:
        images = tf.placeholder(tf.float32, shape, "images")
        tf.identity(probabilities_of(config, FLOAT32)(images), "probabilities")
        restore_model(session, checkpoint)
        graph = tf.graph_util.convert_variables_to_constants(session, session.graph_def,
                                                             ["probabilities"])
    model, _ = tf2onnx.convert.from_graph_def(
        graph, input_names=["images:0"], output_names=["probabilities:0"], opset=17,
        tensors_to_rename={"images:0": "images", "probabilities:0": "probabilities"})
    with open(path, "wb") as file:
        file.write(model.SerializeToString())


def measure_round(args, precision, models, checkpoint, config):
    """{(way, batch size): images per second}, one after the other. models: {batch size: path}."""
    found = {}
    for batch, model in models.items():
        with tf.Graph().as_default(), tf.Session() as session:
            predict = build_predictor(session, config, precision,
                                      InferenceOptions(args.side, batch_size=batch))
            restore_model(session, checkpoint)
            found[OURS, batch] = images_per_second(
                lambda images: predict(images.astype(np.uint8)), batch, args.side)
        for name, engine in PEERS.items():
            if engine == "onnx" and precision != FLOAT32:
                continue  # its CPU kernels have no bfloat16
            output = call(name, "-m benchmarks.engine_peers", "images", engine, precision, model,
                          batch, args.side, interpreter=args.peer)
            found[name, batch] = float(output.split()[-1])
    return found


def print_table(precision, rounds):
    """rounds: of `measure_round`."""
    keys = pd.MultiIndex.from_tuples(rounds[0], names=["engine", "batch size"])
    speeds = np.array([list(found.values()) for found in rounds])
    ratios = np.array([[speed / found[OURS, batch] for (_, batch), speed in found.items()]
                       for found in rounds])
    table = pd.DataFrame({"images/s": np.median(speeds, 0), "ratio": np.median(ratios, 0)}, keys)
    table = table.unstack().loc[[OURS, *(name for name in PEERS if name in keys.levels[0])]]
    print(f"\n{precision}:\n{table.round(2).to_string()}", flush=True)


def map_scenes(args, folder):
    """Prints speed and peak memory of mapping one GeoTIFF in every way, in turns."""
    scene, size = os.path.join(folder, "scene.tif"), args.scene
    samples = np.random.default_rng(0).integers(0, 256, (3, size // 8, size // 8), np.uint8)
    samples = samples.repeat(8, 1).repeat(8, 2)
    with rasterio.open(scene, "w", driver="GTiff", height=samples.shape[1], count=3,
                       width=samples.shape[2], dtype="uint8", crs="EPSG:32640", tiled=True,
                       transform=rasterio.Affine(.5, 0, 325000, 0, -.5, 2785000)) as file:
        file.write(samples)
    rows = {way: [] for way in SCENE_WAYS}
    for _ in range(args.rounds):
        for number, (way, setting) in enumerate(SCENE_WAYS.items()):
            path = os.path.join(folder, f"maps{number}")
            command = ([args.peer, "-m", "benchmarks.engine_peers", "scene", str(setting), scene,
                        f"{path}.tif", str(args.side)] if isinstance(setting, int) else
                       python("predict.py", "--logs", args.logs, "--run", args.run, "--checkpoint",
                              "latest", "--image", scene, "--out", path, "--quality", setting,
                              "--window", args.side, "--precision", FLOAT32, "--overwrite"))
            rows[way].append(timed(way, command))
    table = pd.DataFrame({way: np.median(found, axis=0) for way, found in rows.items()},
                         index=["seconds", "peak memory, GB"]).T
    table.insert(1, "megapixels/s", samples[0].size / 1e6 / table["seconds"])
    print(f"\na GeoTIFF of {size} x {size} pixels, float32:\n{table.round(3).to_string()}")


def timed(name, command):
    """(seconds, peak memory in GB) of a process. A small one starts it, because a process inherits
    its parent's peak."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", PEAK_OF_CHILD, *command], capture_output=True,
                          text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise ValueError(failure(name, done.returncode, done.stdout + done.stderr))
    return seconds, int(done.stdout.split()[-1]) * 1024 / 1e9


if __name__ == "__main__":
    run_script(main)
