"""Kills a short training run at random moments, resumes it, and compares it with one left alone.

    python -m benchmarks.kill_and_resume > benchmarks/kill_and_resume.txt

The moments are drawn from --seed, uniformly over the processor time of the run that is left alone,
its start-up, saving and evaluating included (processor time, so that other work on the machine does
not matter): a moment before the first step is counted from the start of a process, any other from
the step before it. After each SIGKILL the latest checkpoint is read whole, and the same command
starts again. Losses are read from the event files, all that were written: also those that a killed
process wrote after its last checkpoint. Needs Linux.
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import contextlib
import glob
import os
import signal
import subprocess
import tempfile
import time

import numpy as np
import tensorflow.compat.v1 as tf

from benchmarks.shared import call, event_files, python, read_events, scalars
from utils.cli import argument_parser, leave_on_signals, positive, run_script
from utils.training.checkpoints import BEST, LATEST, Checkpoints
from utils.training.optimizer import OPTIMIZERS

LOSS = "loss/with_weight_decay"
TAGS = (LOSS, "loss/cross_entropy", "training/learning_rate", "validation/mean_iou",
        "held_out/mean_iou", "best/mean_iou")
SECONDS_BETWEEN_LOOKS = 0.02
SCENE_SIZE, TILES = 300, 40


def parse_arguments():
    parser = argument_parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--kills", type=positive, default=20, help="how often the run is killed")
    add("--steps", type=positive, default=30, help="of the run")
    add("--save_every", type=positive, default=2, help="steps between checkpoints")
    add("--test_display", type=positive, default=6, help="steps between evaluations")
    add("--tile_size", type=positive, default=64, help="side of a tile, pixels")
    add("--batch_size", type=positive, default=2, help="tiles a step")
    add("--optimizer", choices=OPTIMIZERS, default="adam", help="train.py's")
    return parser.parse_args()


def main():
    args = parse_arguments()
    leave_on_signals()
    with tempfile.TemporaryDirectory(prefix="kill_and_resume-") as folder:
        data, logs = os.path.join(folder, "data"), os.path.join(folder, "logs")
        call("scenes", "-m utils.data.demo_scenes", "--out", os.path.join(data, "origin"),
             "--size", SCENE_SIZE)
        call("tiles", "preprocess.py", "--dataset", data, "--tiles", TILES,
             "--tile_size", args.tile_size)
        train = ("train.py", "--dataset", data, "--logs", logs, "--pretrained", "none",
                 "--multi_grid", 1, 1, 1, "--seed", args.seed, "--summary_every", 1,
                 *(part for name in ("steps", "save_every", "test_display", "batch_size",
                                     "optimizer")
                   for part in (f"--{name}", getattr(args, name))))
        print("python", *train[:1], *train[5:])
        whole, killed = os.path.join(logs, "whole"), os.path.join(logs, "killed")
        timeline = run_alone((*train, "--run", "whole"), whole)
        attempts = [kill_and_check(number, moment, (*train, "--run", "killed"), killed)
                    for number, moment in enumerate(draw_moments(args, timeline), start=1)]
        call("the last start", *train, "--run", "killed")
        for sort, count in zip(("kills", "while saving", "before the first checkpoint"),
                               np.sum(attempts, axis=0)):
            print(f"{sort}: {count}")
        compare(whole, killed)


def run_alone(train, run):
    """[(step, processor seconds at which it was written)] of a run that is not killed, with
    (0, 0) before the first step, and its last look at the end."""
    timeline = [(0, 0.0)]
    with started(train) as (process, output):
        for step, seconds in follow(process, run):
            if step > timeline[-1][0]:
                timeline.append((step, seconds))
        if process.returncode:
            raise ValueError(f"train.py ended with status {process.returncode}: {read(output)}")
    timeline.append((timeline[-1][0], seconds))
    print(f"left alone: {timeline[1][1]:.1f} s of processor time to step {timeline[1][0]}, "
          f"{seconds - timeline[1][1]:.1f} s from there to the end", flush=True)
    return timeline


def draw_moments(args, timeline):
    """[(step, processor seconds after it)] for every kill, in the order of the run; step 0 is the
    start of the process, and kills before the first step are strewn among the others."""
    steps, times = zip(*timeline)
    random = np.random.default_rng(args.seed)
    drawn = np.sort(random.uniform(0, times[-1], args.kills))
    places = np.searchsorted(times, drawn, side="right") - 1
    moments = [(steps[place], moment - times[place]) for place, moment in zip(places, drawn)]
    later = [moment for moment in moments if moment[0]]
    for moment in moments[:len(moments) - len(later)]:
        later.insert(random.integers(len(later) + 1), moment)
    return later


@contextlib.contextmanager
def started(train):
    """(process, file of all it says); it is ended in any case."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(python(*train), stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process, output
        finally:
            process.kill()
            process.wait()


def read(output):
    output.seek(0)
    return output.read()


def kill_and_check(number, moment, train, run):
    """Starts the run, kills it, reads its checkpoint. Three bools: was it still running, was it
    saving, had it no checkpoint yet."""
    latest = Checkpoints(run, LATEST)
    expected = latest.find()[1] if latest.exist else None
    began = time.time()
    with started(train) as (process, output):
        reached = None if moment[0] else 0.0
        for step, seconds in follow(process, run):
            if reached is None and step >= moment[0]:
                reached = seconds
            if reached is not None and seconds >= reached + moment[1]:
                break
        was_running = process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        said = read(output)
    if not was_running and process.returncode:
        raise ValueError(f"attempt {number} ended with status {process.returncode}: {said}")
    if ": resumed at" in said or ": random weights" in said:
        line = ": random weights\n" if expected is None else f": resumed at step {expected}\n"
        if line not in said:
            raise ValueError(f"attempt {number} did not begin with {line!r}: {said}")
    saving = is_half_saved(run, began)
    step = read_latest(run)
    place = f"step {moment[0]}" if moment[0] else "the start"
    print(f"kill {number:2}: {moment[1]:5.2f} s after {place:9} "
          f"{'no checkpoint yet' if step is None else f'checkpoint of step {step} whole'}"
          f"{', killed while saving' if saving else ''}"
          f"{'' if was_running else ', had ended before'}", flush=True)
    return was_running, saving, step is None


def follow(process, run):
    """Until the process ends: the last step it has written (0: none yet) and its processor seconds
    so far, every few milliseconds."""
    old, size, step, seconds = event_files(run), 0, 0, 0.0
    while process.poll() is None:
        new = [path for path in event_files(run) if path not in old]
        if new and os.path.getsize(new[0]) != size:
            size = os.path.getsize(new[0])
            step = max([event.step for event in read_events(new[:1]) if is_loss(event)], default=0)
        with contextlib.suppress(OSError), open(f"/proc/{process.pid}/stat") as file:
            # After the name in brackets: fields 14 and 15 of proc(5), user and system time.
            fields = file.read().rpartition(")")[2].split()
            seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        yield step, seconds
        time.sleep(SECONDS_BETWEEN_LOOKS)


def is_loss(event):
    return any(value.tag == LOSS for value in event.summary.value)


def is_half_saved(run, since):
    """Whether a checkpoint was begun after `since` that its folder's list does not name yet."""
    for folder in (os.path.join(run, which) for which in (LATEST, BEST)):
        state = tf.train.get_checkpoint_state(folder)
        named = [os.path.basename(path) for path in state.all_model_checkpoint_paths
                 ] if state else []
        for path in glob.glob(os.path.join(folder, "step-*")):
            if (os.path.getmtime(path) >= since
                    and (".tempstate" in path
                         or os.path.basename(path).split(".")[0] not in named)):
                return True
    return False


def read_latest(run):
    """Step of the latest checkpoint, all of whose tensors were read; None where there is none."""
    latest = Checkpoints(run, LATEST)
    if not latest.exist:
        return None
    path, step = latest.find()
    reader = tf.train.load_checkpoint(path)
    for name in reader.get_variable_to_shape_map():
        reader.get_tensor(name)
    return step


def compare(whole, killed):
    """Prints how far the two runs lie apart. Raises ValueError where that is more than 1e-5."""
    largest, of_whole, of_killed = 0.0, scalars(whole), scalars(killed)
    for tag in TAGS:
        alone, often = of_whole[tag], of_killed[tag]
        if set(alone) != set(often):
            raise ValueError(f"{tag}: not the same steps: {sorted(set(alone) ^ set(often))}")
        apart = max(abs(value - alone[step][0]) for step in alone for value in often[step])
        largest = max(largest, apart)
        print(f"{tag}: {len(alone)} steps, {sum(map(len, often.values()))} values of the killed "
              f"run; largest difference {apart:g}")
    one, other = (tf.train.load_checkpoint(Checkpoints(run, LATEST).find()[0])
                  for run in (whole, killed))
    names = one.get_variable_to_shape_map()
    equal = sum(np.array_equal(one.get_tensor(name), other.get_tensor(name)) for name in names)
    print(f"last checkpoints: {equal} of {len(names)} variables are equal bit for bit")
    if largest > 1e-5:
        raise ValueError(f"the killed run differs by {largest:g} from the one left alone")


if __name__ == "__main__":
    run_script(main)
