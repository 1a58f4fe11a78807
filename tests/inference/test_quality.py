"""--quality and the other flags that say how a map is put together."""

import pytest

from predict import parse_arguments
from utils.inference.quality import options_of
from utils.inference.sliding_window import InferenceOptions


def _options(*flags):
    return options_of(parse_arguments([str(flag) for flag in flags]), crop_size=64)


def test_a_quality_sets_what_is_not_given():
    told = {name: _options("--quality", name) for name in ("fast", "default", "best")}
    assert told == {"fast": InferenceOptions(64, .125, "cosine", 16, 1),
                    "default": InferenceOptions(64, .5, "cosine", 16, "woven"),
                    "best": InferenceOptions(64, .5, "cosine", 4, 4)}
    assert _options() == told["default"]
    # What was asked for by its flag before there was --quality is what it was.
    assert _options("--rotations", 4) == told["best"]
    assert _options("--rotations", 2) == InferenceOptions(64, .5, "cosine", 8, 2)


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_given_wins_over_the_quality(order):
    given = [("--quality", "fast"), ("--overlap", .25), ("--rotations", "woven"),
             ("--blend", "cosine"), ("--batch_size", 3)][::order]
    assert _options(*sum(given, ())) == InferenceOptions(64, .25, "cosine", 3, "woven")


@pytest.mark.parametrize("flags, message", [
    (("--rotations", 3), "invalid choice: 3"), (("--rotations", "wove"), "invalid choice: 'wove'"),
    (("--quality", "worst"), "invalid choice: 'worst'")])
def test_what_does_not_exist_is_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        _options(*flags)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("window, far", [(48, False), (80, False), (47, True), (81, True)])
def test_windows_far_from_the_training_crop_are_warned_of(window, far, capsys):
    assert _options("--window", window).window == window
    printed = capsys.readouterr().out
    assert printed.count("\n") == far
    assert not far or f"--window {window} is far from the 64 pixels" in printed
