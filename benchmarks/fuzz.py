"""Random scenes, labels, polygons, tables, runs and flags, good and bad, against one property.

    python -m benchmarks.fuzz --cases 10000
    python -m benchmarks.fuzz --kinds checkpoint --cases 50
    python -m benchmarks.fuzz --first 4711 --cases 1 --keep /tmp/case

A case is a seed: its files and flags are drawn from it, and the script under test runs in a process
of its own. The property: exit status 0 and the result of a plain copy of the same pixels; or exit
status 2, one line that names a file or a flag, and no result. Never a traceback, more than 60
seconds, more than 2 GB, or a file that is not whole under a final name. predict.py runs with a
stand-in for the network (a pixel's class is its brightest band), so what is tried is everything
around it. Cases of the kind `checkpoint` damage a file of a real run: predict.py must map, and
train.py resume, as before, or refuse.
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import argparse
import collections
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback

import cv2
import numpy as np

from benchmarks import fuzz_checkpoints
from benchmarks.fuzz_cases import metrics_case, predict_case, preprocess_case
from benchmarks.fuzz_inputs import write
from benchmarks.fuzz_property import Fault
from utils.cli import natural, positive, progress, run_script

GIGABYTES = 2
SECONDS, SECONDS_WITH_TENSORFLOW = 60, 600  # the latter on a busy machine
FAULT = "FAULT"
CHECKPOINT = "checkpoint"
# {kind: (its function, how often it is drawn)}
KINDS = {"predict": (predict_case, 6), "preprocess": (preprocess_case, 3),
         "metrics": (metrics_case, 1), CHECKPOINT: (fuzz_checkpoints.checkpoint_case, 1)}


def run_case(seed, kinds, folder):
    """What became of the case of this seed, of one of `kinds`: (kind, OK, REFUSED or FAULT, what is
    wrong)."""
    random = np.random.default_rng(seed)
    shares = np.array([KINDS[kind][1] for kind in kinds])
    kind = str(random.choice(kinds, p=shares / shares.sum()))
    try:
        return kind, KINDS[kind][0](random, folder), ""
    except Fault as fault:
        return kind, FAULT, str(fault)
    except BaseException:
        return kind, FAULT, traceback.format_exc()


def run_apart(seed, kinds, folder):
    """`run_case` in a process of its own, whose time and memory are held to the limits."""
    os.makedirs(folder)
    result = os.path.join(folder, "result.json")
    sys.stdout.flush()
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.makedirs(os.path.join(folder, "case"))
        write(result, json.dumps(run_case(seed, kinds, os.path.join(folder, "case"))))
        os._exit(0)
    seconds = SECONDS_WITH_TENSORFLOW if CHECKPOINT in kinds else SECONDS
    until = time.monotonic() + seconds
    while (done := os.wait4(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "?", FAULT, f"more than {seconds} s"
        time.sleep(.002)
    if done[1]:
        return "?", FAULT, f"ended by signal or status {done[1]}"
    if done[2].ru_maxrss * 1024 > GIGABYTES * 1e9:
        return "?", FAULT, f"{done[2].ru_maxrss * 1024 / 1e9:.1f} GB"
    with open(result, encoding="utf-8") as file:
        return json.load(file)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--cases", type=positive, default=1000)
    parser.add_argument("--first", type=natural, default=0, help="seed of the first case")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, metavar="KIND",
                        default=[kind for kind in KINDS if kind != CHECKPOINT],
                        help=", ".join(KINDS))
    parser.add_argument("--keep", metavar="FOLDER", help="for the files of faults")
    args = parser.parse_args()
    cv2.setNumThreads(1)  # a process with threads of OpenCV cannot be forked
    if CHECKPOINT in args.kinds:
        fuzz_checkpoints.trained()  # once, before the first process is forked
    counts, faults = collections.Counter(), []
    with tempfile.TemporaryDirectory() as place, progress(args.cases, " cases", "fuzz") as bar:
        for seed in range(args.first, args.first + args.cases):
            folder = os.path.join(place, str(seed))
            kind, outcome, why = run_apart(seed, args.kinds, folder)
            counts[kind, outcome] += 1
            if outcome == FAULT:
                faults.append(seed)
                print(f"seed {seed}, {kind}: {why}", flush=True)
                if args.keep:
                    shutil.copytree(folder, os.path.join(args.keep, str(seed)), symlinks=True)
            shutil.rmtree(folder)
            bar.update()
    for (kind, outcome), count in sorted(counts.items()):
        print(f"{kind:16} {outcome:8} {count:6}")
    print(f"{len(faults)} faults in {args.cases} cases from seed {args.first}")
    return 1 if faults else 0


if __name__ == "__main__":
    run_script(main)
