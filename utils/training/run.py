"""A run: its folder, its settings, its starts and its best score.

logs/<run>/settings.json      RunSettings: what rebuilds the model, and the recipe
logs/<run>/environment.json   code version, machine and command of each start of the run
logs/<run>/latest/, best/     checkpoints, see utils/training/checkpoints.py
logs/<run>/best/score.json    BestScore
logs/<run>/events.out.*       TensorBoard
"""

import contextlib
import dataclasses
import json
import os
import time
from dataclasses import dataclass

from deeplab_v3 import ModelConfig
from utils import files
from utils.classes import ClassTable, read_classes
from utils.data.pixel_size import Resample
from utils.data.rasters import RGB
from utils.data.scene_table import named
from utils.locks import locked
from utils.training.checkpoints import BEST, LATEST, Checkpoints, check_readable_name
from utils.training.settings_fields import FIELDS

SETTINGS, ENVIRONMENT, SCORE = "settings.json", "environment.json", "score.json"
# Flags of train.py that a resumed run may change. All others are its recipe, or, of a name in
# STATED, are stated elsewhere in its settings.
FREE_FLAGS = {"logs", "list", "run", "devices", "slurm", "origin", "test_display", "save_every",
              "summary_every", "histograms"}
STATED = {"classes", "crop_size", "test_scene"} | {f.name for f in dataclasses.fields(ModelConfig)}
# Names of fields in settings.json where they differ from the flags'.
FLAGS = {"tile_size": "crop_size", "factor": "resample"}


@dataclass(frozen=True)
class RunSettings:
    """What is kept beside the checkpoints.

    crop_size: side of what the model was trained on, pixels. test_scenes: names of held-out scenes.
    bands, stretch, gsd, resample: those of the training tiles (see TileInput), None where they have
    none. recipe: train.py's other flags by name, plain values, and the tiles' checksum.
    """

    model: ModelConfig
    classes: ClassTable
    crop_size: int
    test_scenes: list = None
    recipe: dict = dataclasses.field(default_factory=dict)
    bands: list = None
    stretch: list = None
    gsd: float = None
    resample: Resample = None

    def to_json(self):
        """The plain values of settings.json; `from_json` is the inverse."""
        optional = {"bands": self.bands, "stretch": self.stretch, "gsd": self.gsd,
                    "resample": self.resample and self.resample.to_json()}
        # A single name is written as in the first versions.
        scenes = self.test_scenes[0] if len(self.test_scenes or []) == 1 else self.test_scenes
        return {"model": self.model.to_json(), "classes": self.classes.to_settings(),
                "tile_size": self.crop_size, "test_scene": scenes,
                "training": self.recipe} | {k: v for k, v in optional.items() if v}

    @staticmethod
    def from_json(values, path):
        """Checks the plain values of the file `path`, of any version. Raises ValueError."""
        if not isinstance(values, dict):
            raise ValueError(f"{path}: not the settings of a run; restore it or train again")
        if unknown := sorted(set(values) - set(FIELDS)):
            raise ValueError(f"{path}: it has settings that this code does not know "
                             f"({', '.join(unknown)}); restore it, or use the code that trained it")

        def refuse(name, what):
            found = repr(values[name])[:80] if name in values else "missing"
            raise ValueError(f"{path}: damaged: {name} is {found}, not {what}; restore it or train "
                             "again")

        for name, (what, fits) in FIELDS.items():
            if not fits(values.get(name)):
                refuse(name, what)
        model = ModelConfig.from_json(values["model"], path)
        table = ClassTable.from_settings(values["classes"])
        bands, stretch, scenes = (values.get(name) for name in ("bands", "stretch", "test_scene"))
        if len(table) != model.num_classes:
            refuse("classes", f"a row for each of the model's {model.num_classes}")
        if len(bands or RGB) != model.in_channels:
            refuse("bands", f"one for each of the model's {model.in_channels} channels")
        if stretch is not None and len(stretch) != len(bands or ()):
            refuse("stretch", "a pair for each of the bands")
        return RunSettings(model, table, values["tile_size"],
                           [scenes] if isinstance(scenes, str) else scenes,
                           values.get("training") or {}, bands, stretch, values.get("gsd"),
                           Resample(**values["resample"]) if values.get("resample") else None)

    def class_table(self, path=None):
        """The run's ClassTable, or another of the same length from `path`. Raises ValueError."""
        other = read_classes(path) if path else self.classes
        if len(other) != len(self.classes):
            raise ValueError(f"{path}: {len(other)} classes, but the run was trained on "
                             f"{len(self.classes)}: {', '.join(self.classes.names)}")
        return other

    def write(self, run):
        """Writes settings.json into the folder `run`, whole or not at all."""
        text = json.dumps(self.to_json(), indent=2) + "\n"
        files.write_text(os.path.join(run, SETTINGS), text)

    @staticmethod
    def read(run):
        """The settings of the run in that folder. Raises OSError, ValueError naming the file."""
        path = os.path.join(run, SETTINGS)
        return RunSettings.from_json(_read_json(path), path)


def settings_to_resume(run):
    """The RunSettings of a run that has a latest checkpoint; None for a new run. Raises ValueError
    where only the best one is left, over which a new run would write."""
    if Checkpoints(run, LATEST).exist:
        return RunSettings.read(run)
    best = Checkpoints(run, BEST)
    if best.exist:
        raise ValueError(f"{best.folder}: a checkpoint, but there is no latest one to go on from; "
                         f"choose another --run (--pretrained {run} takes its weights), or remove "
                         "that folder to begin again")
    return None


def recipe_of(flags, tiles_checksum):
    """The recipe: all of train.py's `flags` (a dict) but those named above."""
    return {name: value for name, value in flags.items()
            if name not in FREE_FLAGS | STATED} | {"tiles_checksum": tiles_checksum}


def check_same_settings(run, settings, defaults):
    """Raises ValueError naming the settings in which a resumed run would differ from itself.

    defaults: train.py's flags as they are when not given: a run from before there was a flag
    resumes with its default.
    """
    def told(values, name):
        value = values.get(name)
        return named(value) if name == ("test_scene",) and isinstance(value, list) else value

    # The pixel size comes with the tiles, and runs from before it was noted have the same tiles.
    before, now = (_flat(dataclasses.replace(one, gsd=None).to_json())
                   for one in (RunSettings.read(run), settings))
    for name in set(now) - set(before):
        if name[:1] == ("training",) and name[1] in defaults:
            before[name] = defaults[name[1]]
    changed = [f"{FLAGS.get(name[-1], name[-1])} was {told(before, name)}, is {told(now, name)}"
               for name in before | now if before.get(name) != now.get(name)]
    if changed:
        raise ValueError(f"{run}: cannot be resumed with other settings: {'; '.join(changed)}; "
                         "give the same, or another --run")


def _flat(values, name=()):
    """Nested dicts as one dict, whose keys are tuples of names."""
    if not isinstance(values, dict):
        return {name: values}
    return {key: value for own, part in values.items()
            for key, value in _flat(part, (*name, own)).items()}


@dataclass
class BestScore:
    """The best checkpoint's step and mean-IoU, None where unknown; and the step evaluated last."""

    step: int = 0
    evaluated: int = 0
    mean_iou: float = None
    held_out_mean_iou: float = None

    def write(self, run):
        """Writes score.json beside the best checkpoint, whole or not at all."""
        text = json.dumps(dataclasses.asdict(self)) + "\n"
        files.write_text(os.path.join(run, BEST, SCORE), text)

    @staticmethod
    def read(run):
        """The run's; None before the first evaluation. Raises OSError, ValueError naming the file.
        """
        path = os.path.join(run, BEST, SCORE)
        if not os.path.exists(path):
            return None
        score = _read_json(path)
        kinds = {"step": int, "evaluated": int, "mean_iou": int | float | None,
                 "held_out_mean_iou": int | float | None}
        if not (isinstance(score, dict) and {"step", "mean_iou", "evaluated"} <= set(score)
                and all(isinstance(score.get(name), kind) for name, kind in kinds.items())):
            raise ValueError(f"{path}: not the scores of a run; restore it or train again")
        return BestScore(**{name: score.get(name) for name in kinds})


def new_run_name(backbone, seed):
    """A name that tells the experiment, the seed and the time: resnet_v2_50-seed0-20260131-1200."""
    return f"{backbone}-seed{seed}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_writable(run):
    """Raises OSError where the folder `run` could not be made or written to; leaves no trace."""
    files.check_writable(run, "a run", "change its permissions, or choose another --logs or --run")


def run_folder(logs, name):
    """The folder of run `name` in `logs`. Raises ValueError for a name that leads out of it."""
    run = os.path.normpath(os.path.join(logs, name))
    inside = os.path.relpath(run, logs)
    if os.path.isabs(name) or inside.split(os.sep)[0] in (os.curdir, os.pardir):
        raise ValueError(f"--run {name}: not the name of a folder in --logs ({logs}); give a plain "
                         "name, and another place with --logs")
    return os.path.join(logs, name)


@contextlib.contextmanager
def held_run(logs, name, is_chief):
    """Gives the folder of run `name`, to write to. Of its hosts the chief holds its lock. Raises
    ValueError, OSError."""
    run = run_folder(logs, name)
    check_readable_name(run)
    if os.path.dirname(name) and not is_run(run):  # earlier versions took it, and did not list it
        raise ValueError(f"--run {name}: a folder in a folder; give a plain name, and another "
                         "place with --logs")
    check_writable(run)
    with contextlib.ExitStack() as stack:
        if is_chief:
            stack.enter_context(locked(run, "wait until it is done, or choose another --run"))
        yield run


def find_run(logs, name=None):
    """The folder of run `name`, or of the run in `logs` that saved a checkpoint last."""
    if name is not None:
        run = run_folder(logs, name)
        if not is_run(run):
            raise FileNotFoundError(f"{run}: no run there (no {SETTINGS}); "
                                    f"there are: {', '.join(run_names(logs)) or 'none'}")
        return run
    runs = [os.path.join(logs, name) for name in run_names(logs)]
    dated = [(changed, run) for run in runs if (changed := Checkpoints(run, LATEST).changed)]
    if not dated:
        raise FileNotFoundError(f"{logs}: no trained run there; run 'python train.py' first, "
                                "or say where with --logs")
    return max(dated)[1]


def is_run(folder):
    """True for a folder that train.py made: it holds settings."""
    return os.path.isfile(os.path.join(folder, SETTINGS))


def run_names(logs, known_by=(SETTINGS,)):
    """Names of the runs in `logs`, sorted: of the folders that hold anything of `known_by`."""
    if not os.path.isdir(logs):
        return []
    return sorted(name for name in os.listdir(logs) if any(
        os.path.exists(os.path.join(logs, name, part)) for part in known_by))


def append_start(run, step, environment):
    """Notes in the run's folder that it was started at `step` in `environment` (plain values)."""
    starts = read_starts(run) + [{"step": step, **environment}]
    files.write_text(os.path.join(run, ENVIRONMENT), json.dumps(starts, indent=2) + "\n")


def read_starts(run):
    """What `append_start` noted, oldest first: a list of dicts. A damaged file counts as none."""
    try:
        starts = _read_json(os.path.join(run, ENVIRONMENT))
    except (OSError, ValueError):
        return []
    return starts if isinstance(starts, list) else []


def _read_json(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise OSError(f"{path}: could not be read ({error.strerror}); "
                      "a run folder is made by train.py") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); restore it or train again") from None
