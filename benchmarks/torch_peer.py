"""Training speed of torchvision's deeplabv3_resnet50, for benchmarks/train_speed.py.

Run as: python -m benchmarks.torch_peer PRECISION BATCH_SIZE TILE STEPS

It needs torch and torchvision.

Output stride 8 is torchvision's own; here block 4 alone is dilated, as in ours at 16. Random
weights, momentum, channels_last, autocast for bfloat16. Prints images per second.
"""

import sys
import time
import types

import torch

# Beside a torch without CUDA, PyPI's torchvision lacks operators that no network here uses, and
# fails where it describes them.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("none")
import torchvision
from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3


def build(num_classes):
    """deeplabv3_resnet50 at output stride 16, with the pyramid's rates for it."""
    backbone = torchvision.models.resnet50(
        weights=None, replace_stride_with_dilation=[False, False, True])
    body = torchvision.models._utils.IntermediateLayerGetter(backbone, {"layer4": "out"})
    return DeepLabV3(body, DeepLabHead(2048, num_classes, (6, 12, 18)))


def main():
    precision, batch_size, tile, steps = sys.argv[1], *map(int, sys.argv[2:5])
    torch.manual_seed(0)
    model = build(5).to(memory_format=torch.channels_last).train()
    images = torch.rand(batch_size, 3, tile, tile).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 5, (batch_size, tile, tile))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    for step in range(steps + 2):
        if step == 2:
            started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(images)["out"]
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(steps * batch_size / (time.perf_counter() - started))


if __name__ == "__main__":
    main()
