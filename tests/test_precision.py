"""utils/precision.py: which precision --precision auto takes, and that a run keeps it."""

import json
import types

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import train
from deeplab_v3 import ModelConfig
from utils import precision
from utils.classes import read_classes
from utils.distributed.devices import Devices
from utils.inference.sliding_window import InferenceOptions
from utils.precision import AUTO, BFLOAT16, FLOAT32, faster
from utils.training import run as runs
from utils.training.evaluation import HeldOut
from utils.training.optimizer import repeatable_config


class Clock:
    """A timer that only trial calls move."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def call(self, *seconds):
        """A function for `faster` whose calls take so long, the last number ever after."""
        left = list(seconds)

        def call(limit):
            own = left.pop(0) if len(left) > 1 else left[0]
            self.now += min(own, limit or own)
            if limit and own > limit:
                raise tf.errors.DeadlineExceededError(None, None, "")
        return call


@pytest.mark.parametrize("float32, bfloat16, expected", [
    ([9, 2], [9, 1], BFLOAT16), ([9, 1], [9, 2], FLOAT32), ([9, 1], [9, 1], FLOAT32),
    ([9, 1], [9, .95], FLOAT32),      # too little saved
    ([9, 1, 9], [9, 3, 2], FLOAT32),  # the fastest call counts
    ([1, 9], [2.1, 1], FLOAT32)])     # given up: only emulated
def test_the_faster_precision_is_taken(float32, bfloat16, expected):
    clock = Clock()
    calls = {FLOAT32: clock.call(*float32), BFLOAT16: clock.call(*bfloat16)}
    assert faster(calls, clock)[0] == expected
    assert clock.now < 9 + 18 + 30


def test_a_precision_that_the_processor_does_not_know_is_not_taken():
    clock = Clock()

    def unknown(limit):
        raise tf.errors.InvalidArgumentError(None, None, "")

    assert faster({FLOAT32: clock.call(9, 1), BFLOAT16: unknown}, clock)[0] == FLOAT32
    with pytest.raises(tf.errors.InvalidArgumentError):
        faster({FLOAT32: unknown, BFLOAT16: clock.call(9, 1)}, clock)


def test_what_does_not_fit_into_memory_is_not_taken():
    clock = Clock()

    def too_large(limit):
        raise tf.errors.ResourceExhaustedError(None, None, "")

    assert faster({FLOAT32: too_large, BFLOAT16: clock.call(1)}, clock)[0] == BFLOAT16
    assert faster({FLOAT32: clock.call(1), BFLOAT16: too_large}, clock)[0] == FLOAT32


@pytest.fixture
def settings(repository):
    table = read_classes(str(repository / "dataset" / "classes.csv"))
    return runs.RunSettings(ModelConfig(len(table), width=.1), table, 32, "5", {"precision": AUTO})


@pytest.fixture
def tiny(monkeypatch):
    """A network of one factor, for tests that are not about the trial's own graph."""
    def network(images, config, norm=None, precision=FLOAT32):
        assert precision in (FLOAT32, BFLOAT16)
        factor = tf.get_variable("factor", [config.num_classes])
        return tf.cast(images, tf.float32)[..., :1] * factor, {}
    monkeypatch.setattr(precision, "deeplab_v3", network)


@pytest.fixture
def chosen(monkeypatch):
    """Lets trials run, both precisions once, and choose bfloat16; returns the list of trials."""
    trials = []

    def choose(calls):
        for call in calls.values():
            call(100)
        trials.append(calls)
        return BFLOAT16, dict.fromkeys(calls, 1.0)
    monkeypatch.setattr(precision, "faster", choose)
    return trials


def test_a_trial_leaves_no_trace_in_the_run_s_graph_and_random_numbers(
        settings, chosen, capsys, trains_in_bfloat16):
    if not trains_in_bfloat16:
        pytest.skip("this processor cannot train in bfloat16")
    def numbers(tried):
        with tf.Graph().as_default() as graph, tf.Session(config=repeatable_config()) as session:
            tf.set_random_seed(3)
            first = tf.random.uniform([4])
            if tried:
                assert precision.precision_of_training(
                    settings, 2, 100, Devices(config=repeatable_config())) == BFLOAT16
            values = session.run([first, tf.random.uniform([4])])
            return np.concatenate(values), len(graph.get_operations())

    before = np.random.get_state()[1].copy()
    (tried, operations), (untried, expected) = numbers(True), numbers(False)
    np.testing.assert_array_equal(tried, untried)
    assert operations == expected and len(chosen) == 1
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert capsys.readouterr().out.startswith("precision bfloat16, by trial: float32 1000 ms, ")


@pytest.mark.parametrize("error, told", [
    (tf.errors.InvalidArgumentError(None, None, "no dilation rates"), "no dilation rates"),
    (tf.errors.UnknownError(None, None, "of the driver"), "of the driver")])
def test_a_trial_that_fails_is_one_line(settings, monkeypatch, error, told):
    def fails(*_, **__):
        raise error
    monkeypatch.setattr(tf.Session, "run", fails)
    with pytest.raises(ValueError, match=f"failed in the trial of --precision auto: {told}"):
        precision.precision_of_training(settings, 2, 100, Devices())


def test_variables_that_do_not_fit_are_left_to_the_run_to_tell(settings, tiny, monkeypatch):
    def fails(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "")
    monkeypatch.setattr(tf.Session, "run", fails)
    assert precision.precision_of_training(settings, 2, 100, Devices()) == FLOAT32


@pytest.mark.parametrize("steps, devices", [(99, Devices()), (1000, Devices(count=2, hosts=2))])
def test_short_runs_and_several_hosts_get_float32_without_a_trial(settings, chosen, steps, devices):
    assert precision.precision_of_training(settings, 2, steps, devices) == FLOAT32
    assert not chosen


def choose(settings, run, pixels=32 ** 2, asked=AUTO):
    return precision.precision_of_inference(asked, runs.read_starts(str(run)), settings,
                                            InferenceOptions(32), pixels)


@pytest.mark.parametrize("trained_here, windows, expected, trials", [
    (True, 1000, FLOAT32, 0), (False, 99, FLOAT32, 0), (False, 100, BFLOAT16, 1)])
def test_maps_are_made_as_the_run_was_trained_or_by_trial(settings, tiny, chosen, tmp_path,
                                                          trained_here, windows, expected, trials):
    settings.recipe["precision"] = FLOAT32
    if trained_here:
        runs.append_start(str(tmp_path), 0, precision.machine() | {"time": "now"})
    assert choose(settings, tmp_path, windows * 32 ** 2) == expected
    assert len(chosen) == trials


def test_only_the_machine_of_the_last_start_counts_as_the_run_s(settings, tmp_path):
    settings.recipe["precision"] = BFLOAT16
    assert choose(settings, tmp_path) == FLOAT32
    here = precision.machine()
    runs.append_start(str(tmp_path), 0, here | {"time": "now"})
    assert choose(settings, tmp_path) == BFLOAT16
    assert choose(settings, tmp_path, asked=FLOAT32) == FLOAT32
    runs.append_start(str(tmp_path), 5, here | {"cpu": "another"})
    assert choose(settings, tmp_path) == FLOAT32
    assert choose(settings, tmp_path, asked=BFLOAT16) == BFLOAT16


class Reached(Exception):
    """The run would begin now."""


@pytest.fixture
def start(settings, tiny, chosen, tmp_path, monkeypatch):
    """start(*flags): the precisions, of flags and of settings, with which train.main begins."""
    monkeypatch.setattr(train, "choose_devices", lambda *_: Devices(config=repeatable_config()))
    monkeypatch.setattr(train, "TileSet", lambda *_: types.SimpleNamespace(tile_size=32))
    monkeypatch.setattr(train, "read_held_out", lambda *_: HeldOut(["5"], [], True))
    run, began = tmp_path / "run", []

    def choose_settings(args, tile_set, held_out, before):
        recipe = runs.recipe_of(vars(args), "checksum")
        return runs.RunSettings(settings.model, settings.classes, 32, held_out, recipe)

    def build_graph(args, settings, tile_set, devices):
        settings.write(str(run))
        (run / "latest").mkdir(exist_ok=True)
        (run / "latest" / "checkpoint").touch()
        began.append((args.precision, settings.recipe["precision"]))
        raise Reached

    monkeypatch.setattr(train, "choose_settings", choose_settings)
    monkeypatch.setattr(train, "build_graph", build_graph)

    def start(*flags):
        monkeypatch.setattr("sys.argv", ["train.py", "--logs", str(tmp_path), "--run", "run",
                                         "--pretrained", "none", "--batch_size", "2", *flags])
        with pytest.raises(Reached):
            train.main()
        return began[-1]
    start.settings = run / "settings.json"
    return start


def test_the_choice_is_remembered_and_a_resumed_run_keeps_it(start, chosen, monkeypatch):
    assert start() == (BFLOAT16, BFLOAT16)
    assert json.loads(start.settings.read_text())["training"]["precision"] == BFLOAT16
    monkeypatch.setattr(precision, "faster", lambda calls: pytest.fail("a second trial"))
    assert start() == (BFLOAT16, BFLOAT16)
    assert start("--precision", BFLOAT16) == (BFLOAT16, BFLOAT16)
    with pytest.raises(ValueError, match="precision was bfloat16, is float32"):
        start("--precision", FLOAT32)


@pytest.mark.parametrize("recipe", [{"precision": FLOAT32}, {}])
def test_an_old_run_resumes_in_float32(start, chosen, recipe):
    start("--precision", FLOAT32)
    old = json.loads(start.settings.read_text())
    del old["training"]["precision"]
    old["training"].update(recipe)
    start.settings.write_text(json.dumps(old))
    assert start() == (FLOAT32, FLOAT32)
    assert not chosen
