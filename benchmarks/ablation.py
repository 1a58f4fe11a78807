"""What each of train.py's options gains: equal runs, one option at a time, over several seeds.

Run as: python -m benchmarks.ablation --dataset dataset/dubai --origin ../shared/data/dubai \\
            --steps 600 --seeds 0 1 2 --common '--pretrained none --precision bfloat16 \\
            --batch_size 8 --learning_rate 5e-4 --schedule poly --weight_decay 1e-4'

Each run is a train.py of its own with --common, the option's flags and a seed, evaluated once at
its end. A row is added to --out as each ends, and those that are there already are not run again:
stopped or killed, the same command goes on. --option NAME='FLAGS' adds options, --only chooses.
"""

import utils.quiet  # noqa: F401  (before TensorFlow)

import os
import re
import shlex
import shutil
import subprocess

from benchmarks.shared import ADVICE, add_rows, failure, python, read_table, scalars
from utils.cli import argument_parser, leave_on_signals, natural, positive, run_script
from utils.training.checkpoints import LATEST, checkpoint_folder

BASELINE = "baseline"
OPTIONS = {
    BASELINE: "",
    "focal": "--loss focal",
    "dice_cross_entropy": "--loss dice_cross_entropy",
    "median_frequency": "--class_weights median_frequency",
    "inverse_log": "--class_weights inverse_log",
    "hard_pixels": "--hard_pixels 0.25",
    "label_smoothing": "--label_smoothing 0.1",
    "ema": "--ema 0.99",
    "decoder": "--decoder"}
# What `train` and `main` set for train.py.
OWN_FLAGS = {"--dataset", "--origin", "--classes", "--test_scene", "--logs", "--run", "--seed",
             "--steps", "--test_display", "--list"}
# Columns of the table and the curves of train.py whose last points they are.
SCORES = {"mean-IoU": "held_out/mean_iou", "boundary F1": "held_out/boundary_f1",
          "accuracy": "held_out/accuracy", "validation mean-IoU": "validation/mean_iou"}
# Scores whose differences to the baseline's are shown too, by the columns for these.
GAINS = {"mean-IoU": "gain", "boundary F1": "F1 gain"}


def final_scores(run, step):
    """{column of SCORES: value} at `step` from the event files in folder `run`; ValueError."""
    values = {tag: steps[step][-1] for tag, steps in scalars(run).items() if step in steps}
    missing = set(SCORES.values()) - set(values)
    if missing:
        raise ValueError(f"{run}: no {', '.join(sorted(missing))} of step {step}; the data set "
                         "needs validation tiles and a labelled held-out scene (--origin)")
    return {column: values[tag] for column, tag in SCORES.items()}


def train(arguments, run, flags, seed):
    """Runs train.py to its end, from its latest checkpoint on if it has one; its final scores.

    Its output goes to <logs>/<run>.txt. Raises ValueError with its last line where it fails.
    """
    command = python("train.py", "--dataset", arguments.dataset, "--classes", arguments.classes,
                     "--test_scene", *arguments.test_scene, "--logs", arguments.logs, "--run", run,
                     "--seed", seed, "--test_display", arguments.steps, *shlex.split(flags))
    command += ["--origin", arguments.origin] if arguments.origin else []
    path = os.path.join(arguments.logs, f"{run}.txt")
    os.makedirs(arguments.logs, exist_ok=True)
    with (open(path, "a+", encoding="utf-8") as output,
          subprocess.Popen(command, stdout=output, stderr=output) as process):
        try:
            status = process.wait()
        finally:
            process.terminate()  # where this script is asked to leave: it saves and leaves too
        if status:
            output.seek(0)
            raise ValueError(failure(path, status, output.read()))
    return final_scores(os.path.join(arguments.logs, run), arguments.steps)


def summary(rows):
    """A row an option: mean and standard deviation over its seeds, and by how much its mean-IoU and
    boundary F1 are above the baseline's of the same seeds. rows: option, seed and the columns of
    SCORES."""
    scores = rows.set_index(["option", "seed"])[list(SCORES)].astype(float)
    if BASELINE in rows["option"].values:
        for score, gain in GAINS.items():
            baseline = scores.loc[BASELINE, score]
            scores.insert(scores.columns.get_loc(score) + 1, gain,
                          scores[score].sub(baseline, level="seed"))
    options = scores.groupby("option", sort=False)
    table = options.mean()
    for column in [*GAINS, *GAINS.values()]:
        if column in table:
            table.insert(table.columns.get_loc(column) + 1, f"{column} +-", options[column].std())
    table.insert(0, "seeds", options.size())
    return table


def read_rows(path, planned):
    """The finished rows in `path`, see `read_table`; ValueError if one differs from its plan.

    planned: {(option, seed): flags}.
    """
    columns = ["option", "seed", "flags"]
    rows = read_table(path, columns, ["seed", *SCORES])
    if rows[columns].isna().any(axis=None) or rows.duplicated(["option", "seed"]).any():
        raise ValueError(f"{path}: an empty field, or an option twice with one seed; {ADVICE}")
    # A table of before a score was added lacks its column.
    rows = rows.reindex(columns=[*columns, *SCORES])
    for row in rows.itertuples():
        flags = planned.get((row.option, row.seed), row.flags)
        if flags != row.flags:
            raise ValueError(f"{path}: {row.option}, seed {row.seed}, was run with '{row.flags}', "
                             f"not '{flags}'; choose another --out and --logs")
    return rows


def all_options(added):
    """{name: flags} of OPTIONS and of `added`, texts as 'name=flags'; ValueError naming the text.
    """
    for text in added:
        name, equals, _ = text.partition("=")
        if not equals or not re.fullmatch(r"[\w.+-]+", name) or name.startswith((".", "-")):
            raise ValueError(f"--option {text!r}: not NAME=FLAGS, with a NAME for a folder; say "
                             "for example --option 'slow=--learning_rate 1e-5'")
    return OPTIONS | {name: flags for name, _, flags in (text.partition("=") for text in added)}


def check_flags(where, flags):
    """ValueError naming `where` if the text `flags` cannot be split or has a flag of this script's.
    """
    try:
        words = shlex.split(flags)
    except ValueError as error:
        raise ValueError(f"{where} {flags}: cannot be split into flags ({error}); correct it"
                         ) from None
    for word in words:
        if word.split("=")[0] in OWN_FLAGS:
            raise ValueError(f"{where} {flags}: {word.split('=')[0]} is set for each run by this "
                             "script; leave it out and give its own flag")


def main(flags=None, train=train):
    """flags: list of strings; None means the command line. train: what runs train.py, see `train`.
    """
    parser = argument_parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--logs", default="logs/ablation", metavar="FOLDER", help="of the runs")
    add("--out", default="ablation.csv", metavar="FILE", help="table of the finished runs")
    add("--steps", type=positive, default=600, help="of each run")
    add("--seeds", type=natural, nargs="+", default=[0])
    add("--common", default="--pretrained none", metavar="FLAGS", help="of train.py, for all runs")
    add("--option", action="append", default=[], metavar="NAME=FLAGS",
        help="one more option, or other flags for a known one; may be repeated")
    add("--only", nargs="+", metavar="NAME", help="of all options; by default all")
    arguments = parser.parse_args(flags)
    leave_on_signals()
    options = all_options(arguments.option)
    check_flags("--common", arguments.common)
    for text in arguments.option:
        check_flags("--option", text.partition("=")[2])
    unknown = sorted(set(arguments.only or []) - set(options))
    if unknown:
        raise ValueError(f"--only {' '.join(unknown)}: there are {', '.join(options)}")
    # Seed by seed, so that all options can be compared as soon as the first is through.
    planned = {(name, seed): f"--steps {arguments.steps} {arguments.common} {flags}".strip()
               for seed in arguments.seeds for name, flags in options.items()
               if name in (arguments.only or options)}
    rows = read_rows(arguments.out, planned)
    finished = set(zip(rows["option"], rows["seed"]))

    def scores_of(plan):
        run = f"{plan['option']}-seed{plan['seed']}"
        print(f"{run}: {plan['flags']}", flush=True)
        return train(arguments, run, plan["flags"], plan["seed"])

    def finish(rows):
        run = "{option}-seed{seed}".format(**rows.iloc[-1])
        # Half a gigabyte that nobody goes on from.
        shutil.rmtree(checkpoint_folder(os.path.join(arguments.logs, run), LATEST))
        print(summary(rows).round(4).to_string(na_rep=""), flush=True)

    rows, failed = add_rows(
        arguments.out, rows, [dict(zip(("option", "seed", "flags"), (*key, flags)))
                              for key, flags in planned.items() if key not in finished],
        scores_of, finish)
    if failed:
        raise ValueError("; ".join(failed))
    print(f"{arguments.out}: all {len(planned)} runs are there")
    print(summary(rows).round(4).to_string(na_rep=""))


if __name__ == "__main__":
    run_script(main)
