"""Speed of other engines and of PyTorch, for benchmarks.engines; it runs in their environment.

    python -m benchmarks.engine_peers images onnx|openvino|torch|compiled PRECISION MODEL BATCH SIDE
    python -m benchmarks.engine_peers scene ROTATIONS SCENE MAP SIDE

It needs onnxruntime and openvino (MODEL: an ONNX file), torch and torchvision, monai and rasterio.
The first prints images per second of a network whose input is float32 [batch, side, side, 3]; of
PyTorch, whose MODEL is not read, that is torchvision's deeplabv3_resnet50 at output stride 16. The
second maps a GeoTIFF with the same network as a user of MONAI would: half-overlapping windows,
blended by a Gaussian, each in 1 or 4 turns; and writes the class map.
"""

import sys
import time

import numpy as np

SECONDS = 5  # that are timed, at least
CLASSES = 5


def main():
    if sys.argv[1] == "scene":
        map_scene(int(sys.argv[2]), *sys.argv[3:5], int(sys.argv[5]))
        return
    engine, precision, model = sys.argv[2:5]
    batch, side = map(int, sys.argv[5:7])
    call = {"onnx": onnx, "openvino": openvino, "torch": torch_eager,
            "compiled": torch_compiled}[engine](model, precision)
    print(images_per_second(call, batch, side))


def images_per_second(call, batch, side):
    """Of call(float32 [batch, side, side, 3] in 0 to 255), its first two calls apart."""
    images = np.random.default_rng(0).uniform(0, 255, (batch, side, side, 3)).astype(np.float32)
    call(images)
    call(images)
    calls, began = 0, time.perf_counter()
    while (seconds := time.perf_counter() - began) < SECONDS:
        call(images)
        calls += 1
    return calls * batch / seconds


def onnx(model, precision):
    import onnxruntime
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def openvino(model, precision):
    import openvino
    compiled = openvino.compile_model(model, "CPU", {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "PERFORMANCE_HINT": "LATENCY"})
    return lambda images: compiled([images])[0]


def torch_eager(_, precision, compiled=False):
    import torch

    from benchmarks.torch_peer import build
    model = build(CLASSES).to(memory_format=torch.channels_last).eval()
    if compiled:
        model = torch.compile(model)

    def call(images):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16,
                                                    enabled=precision == "bfloat16"):
            # channels_last: a view of the same memory
            logits = model(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)["out"]
            return torch.softmax(logits.float(), 1)
    return call


def torch_compiled(_, precision):
    return torch_eager(_, precision, compiled=True)


def map_scene(rotations, scene, path, side):
    """The class map of a GeoTIFF, held in memory."""
    import rasterio
    import torch
    from monai.inferers import sliding_window_inference
    network = torch_eager(None, "float32")

    def probabilities(windows):
        images = windows.permute(0, 2, 3, 1).contiguous()
        turned = [torch.rot90(images, turns, (1, 2)) for turns in range(0, 4, 4 // rotations)]
        answers = [torch.rot90(network(one.numpy()), -turns * (4 // rotations), (2, 3))
                   for turns, one in enumerate(turned)]
        return sum(answers) / rotations

    with rasterio.open(scene) as file:
        profile, samples = file.profile, file.read().astype(np.float32)
    found = sliding_window_inference(torch.from_numpy(samples[None]), (side, side), 4,
                                     probabilities, overlap=.5, mode="gaussian")
    profile.update(count=1, dtype="uint8", compress="deflate")
    with rasterio.open(path, "w", **profile) as file:
        file.write(found[0].argmax(0).numpy().astype(np.uint8), 1)


if __name__ == "__main__":
    main()
