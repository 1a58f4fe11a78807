"""Trains a network of PyTorch on stored batches, for benchmarks.peer_accuracy, in its environment.

    python -m benchmarks.torch_training NETWORK BATCHES STEPS SEED CLASSES LEARNING_RATE \\
        WEIGHT_DECAY TILES IDS

It needs torch, torchvision and, for smp's, segmentation_models_pytorch. BATCHES: a folder with
images.npy (uint8 [steps, batch, size, size, 3]) and labels.npy (255: ignored). TILES: a .npy of
images, whose class ids it writes to IDS. Prints the median seconds of a step.
"""

import statistics
import sys
import time

import numpy as np

TORCHVISION, TORCHVISION_16, SMP = "torchvision", "torchvision, stride 16", "smp"
NETWORKS = (TORCHVISION, TORCHVISION_16, SMP)
IGNORE, POWER, BATCH = 255, 0.9, 16
# Of ImageNet, as both libraries' documentation scales images.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(network, classes):
    """The module of one of NETWORKS, from images [batch, 3, size, size] to logits of that size."""
    from benchmarks.torch_peer import build as build_stride_16, torchvision  # before smp, see there
    if network == SMP:
        from segmentation_models_pytorch import DeepLabV3Plus
        return DeepLabV3Plus("resnet50", encoder_weights=None, classes=classes)
    if network == TORCHVISION_16:
        return build_stride_16(classes)
    return torchvision.models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=classes)


def main():
    import torch

    network, batches = sys.argv[1:3]
    steps, seed, classes = map(int, sys.argv[3:6])
    rate, decay = map(float, sys.argv[6:8])
    tiles, ids = sys.argv[8:10]
    torch.manual_seed(seed)
    model = build(network, classes).to(memory_format=torch.channels_last).train()

    def logits_of(images):
        scaled = (torch.from_numpy(images) / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
        logits = model(scaled.permute(0, 3, 1, 2))  # channels_last: a view of the same memory
        return logits["out"] if isinstance(logits, dict) else logits

    kernels = [p for p in model.parameters() if p.ndim == 4]
    others = [p for p in model.parameters() if p.ndim != 4]
    optimizer = torch.optim.Adam([{"params": kernels, "weight_decay": decay}, {"params": others}],
                                 lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer,
                                                 lambda step: (1 - step / steps) ** POWER)
    images, labels = (np.load(f"{batches}/{name}.npy", mmap_mode="r")
                      for name in ("images", "labels"))
    seconds = []
    for step in range(steps):
        began = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(
            logits_of(np.array(images[step])), torch.from_numpy(labels[step].astype(np.int64)),
            ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        seconds.append(time.perf_counter() - began)
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    model.eval()
    images = np.load(tiles)
    with torch.inference_mode():
        np.save(ids, np.concatenate([
            logits_of(images[first:first + BATCH]).argmax(1).numpy().astype(np.uint8)
            for first in range(0, len(images), BATCH)]))
    print(f"{statistics.median(seconds):.4f} seconds a step")


if __name__ == "__main__":
    main()
