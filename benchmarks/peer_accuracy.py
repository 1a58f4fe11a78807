"""What ours, torchvision's Deeplab-v3 and smp's Deeplab-v3+ learn from the same batches.

    python -m benchmarks.peer_accuracy --dataset dataset/deepglobe/watched --peer /path/to/python \\
        --classes dataset/tables/deepglobe.csv --steps 500 --seeds 0 1 --out peers.csv

All are ResNet-50 in full width from random weights, and get train.py's batches in train.py's order
with Adam, the poly schedule, weight decay on the convolutions, cross-entropy and float32; each has
its own initial weights, dropout and scaling of the image. Scores are those of the validation
tiles. First each trains for --steps; then each peer for as many steps as it makes in the time that
ours took. A row is added to --out as each ends, and those that are there are not run again: stopped
or killed, the same command goes on. Times count only on an idle machine.

--peer: a Python that has torch, torchvision and segmentation_models_pytorch (smp).
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import contextlib
import os
import re
import statistics

import numpy as np
import tensorflow.compat.v1 as tf

import train
from benchmarks.shared import add_rows, call, read_table, scalars
from benchmarks.torch_training import NETWORKS
from utils.classes import read_classes
from utils.cli import argument_parser, leave_on_signals, natural, positive, run_script
from utils.data.tiles import TileSet
from utils.files import replacing
from utils.metrics import accuracy, confusion_matrix, mean_iou

OURS = {"ours": "--output_stride 16", "ours, stride 8": "--output_stride 8",
        "ours, decoder": "--decoder", "ours, separable": "--separable"}
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-4
FLAGS = (f"--pretrained none --precision float32 --optimizer adam --learning_rate {LEARNING_RATE} "
         f"--schedule poly --weight_decay {WEIGHT_DECAY} --augment_online --scale_range .7 1.4 "
         "--batch_norm_decay .9")  # PyTorch's
SCORES = ["mean-IoU", "accuracy", "seconds a step"]
KEYS = ["network", "seed", "steps"]


def flags_of_train(args, seed, steps):
    """Those of train.py that all networks share, as a list."""
    return ["--dataset", args.dataset, "--classes", args.classes, "--seed", str(seed), "--steps",
            str(steps), "--batch_size", str(args.batch_size), *FLAGS.split()]


def write_batches(folder, flags, tile_set, steps):
    """Writes the first `steps` batches of train.py with these flags into `folder`, unless they are
    there: images.npy uint8 [steps, batch, size, size, 3], labels.npy uint8 [steps, batch, size,
    size]."""
    paths = [os.path.join(folder, f"{part}.npy") for part in ("images", "labels")]
    if all(os.path.exists(path) and len(np.load(path, mmap_mode="r")) >= steps for path in paths):
        return
    args, _ = train.parse_arguments(flags)
    with contextlib.ExitStack() as stack, tf.Graph().as_default(), tf.Session() as session:
        *batch, start = train.augmented_batches(args, tile_set.tile_size, tile_set,
                                                tf.constant(0, tf.int64))
        arrays = [np.lib.format.open_memmap(stack.enter_context(replacing(path)), "w+", np.uint8,
                                            (steps, *tensor.shape.as_list()))
                  for path, tensor in zip(paths, batch)]
        session.run(start)
        for step in range(steps):
            for array, values in zip(arrays, session.run(batch)):
                array[step] = values
        for array in arrays:
            array.flush()


def train_ours(args, network, seed, steps):
    """The dict of SCORES of a train.py of its own."""
    run = f"{network.replace(', ', '_').replace(' ', '')}-{seed}-{steps}"
    call(run, "train.py", *flags_of_train(args, seed, steps), "--logs", args.work, "--run", run,
         "--test_display", steps, "--save_every", steps, "--summary_every", 5,
         *OURS[network].split())
    curves = scalars(os.path.join(args.work, run))
    rates = [rate[-1] for rate in curves["training/images_per_second"].values()]
    return dict(zip(SCORES, (curves["validation/mean_iou"][steps][-1],
                             curves["validation/accuracy"][steps][-1],
                             args.batch_size / statistics.median(rates))))


def train_peer(args, tile_set, network, seed, steps):
    """The dict of SCORES of a peer, trained by benchmarks.torch_training."""
    batches = os.path.join(args.work, f"batches{seed}")
    write_batches(batches, flags_of_train(args, seed, steps), tile_set, steps)
    images, labels = map(np.stack, zip(*map(tile_set.read_tile, tile_set.validation.itertuples())))
    tiles, ids = (os.path.join(args.work, name) for name in ("validation.npy", "predicted.npy"))
    np.save(tiles, images)
    output = call(network, "-m benchmarks.torch_training", network, batches, steps, seed,
                  len(tile_set.table), LEARNING_RATE, WEIGHT_DECAY, tiles, ids,
                  interpreter=args.peer)
    matrix = confusion_matrix(labels, np.load(ids), len(tile_set.table))
    return dict(zip(SCORES, (mean_iou(matrix), accuracy(matrix),
                             float(re.search(r"([\d.]+) seconds a step", output)[1]))))


def steps_in_equal_time(rows, network, seed, steps):
    """Steps that `network` makes in the time in which ours makes `steps`, by the rows of `seed`."""
    seconds = rows[(rows["steps"] == steps) & (rows["seed"] == seed)].set_index("network")[
        "seconds a step"]
    return round(steps * seconds["ours"] / seconds[network])


def main(flags=None):
    parser = argument_parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--peer", required=True, metavar="PYTHON", help="one that has torch, torchvision and smp")
    add("--work", default="logs/peers", metavar="FOLDER", help="of runs and batches")
    add("--out", default="peers.csv", metavar="FILE", help="table of the finished runs")
    add("--steps", type=positive, default=500)
    add("--batch_size", type=positive, default=8)
    add("--seeds", type=natural, nargs="+", default=[0, 1])
    others = [*NETWORKS, *(name for name in OURS if name != "ours")]
    add("--networks", nargs="+", choices=others, default=NETWORKS, metavar="NAME",
        help=f"beside ours, of {'; '.join(others)}")
    args = parser.parse_args(flags)
    leave_on_signals()
    tile_set = TileSet(args.dataset, read_classes(args.classes))
    os.makedirs(args.work, exist_ok=True)
    rows = read_table(args.out, KEYS + SCORES, KEYS[1:] + SCORES)

    def measure(plan):
        print(", ".join(f"{key} {value}" for key, value in plan.items()), flush=True)
        if plan["network"] in OURS:
            return train_ours(args, *plan.values())
        return train_peer(args, tile_set, *plan.values())

    def run(rows, planned):
        there = set(zip(*(rows[key] for key in KEYS)))
        rows, failed = add_rows(args.out, rows, [dict(zip(KEYS, plan)) for plan in planned
                                                 if plan not in there], measure)
        if failed:
            raise ValueError("; ".join(failed))
        return rows

    rows = run(rows, [(name, seed, args.steps) for seed in args.seeds
                      for name in ("ours", *args.networks)])
    rows = run(rows, [(name, seed, steps_in_equal_time(rows, name, seed, args.steps))
                      for seed in args.seeds for name in args.networks])
    print(rows.sort_values(["steps", "network", "seed"]).round(4).to_string(index=False))


if __name__ == "__main__":
    run_script(main)
