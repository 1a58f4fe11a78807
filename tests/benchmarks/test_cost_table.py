"""benchmarks/cost_table.py: what it counts, what it measures again, the table."""

import pandas as pd
import pytest
import tensorflow.compat.v1 as tf

from benchmarks import cost_table
from utils.layers import conv2d, depthwise_conv2d

COST = {"parameters": 39_055_749, "operations": 23_058_000_000, "training": 2.5, "inference": 7.25,
        "memory": 4_321_000_000}


def test_operations_are_those_counted_by_hand():
    """Two for each weight and place that it is used at; the initial values' do not count."""
    with tf.Graph().as_default() as graph:
        net = conv2d(tf.zeros([1, 9, 9, 3]), 8, 3, "plain", stride=2)
        assert cost_table.count_operations(graph) == 2 * 3 * 3 * 3 * 8 * 5 * 5
        net = conv2d(net, 16, 3, "atrous", rate=2)
        atrous = 2 * 3 * 3 * 8 * 16 * 5 * 5
        assert cost_table.count_operations(graph) == 2 * 3 * 3 * 3 * 8 * 5 * 5 + atrous
    with tf.Graph().as_default() as graph:
        depthwise_conv2d(tf.zeros([1, 9, 7, 6]), 3)
        assert cost_table.count_operations(graph) == 2 * 3 * 3 * 6 * 9 * 7


@pytest.fixture
def run_main(monkeypatch, tmp_path, capsys):
    """Function(*flags) -> [settings that a stand-in measured]; `printed` is what it showed."""
    monkeypatch.chdir(tmp_path)

    def run(*flags, fails=lambda settings: False):
        measured = []

        def measure_alone(settings):
            measured.append(settings)
            if fails(settings):
                raise ValueError(f"{settings['backbone']}: ended with status -9: ")
            return COST | {"training": float(len(measured))}

        try:
            cost_table.main(["--backbones", "resnet_v2_50", *flags], measure_alone)
        finally:
            run.printed = capsys.readouterr().out
        return measured
    return run


def test_rounds_take_turns_and_go_on_where_they_stopped(run_main, tmp_path):
    with pytest.raises(ValueError, match="resnet_v2_50: ended with status -9"):
        run_main("--rounds", "1", fails=lambda settings: True)
    with pytest.raises(ValueError, match="resnet_v2_50: ended with status -9"):
        run_main("--rounds", "2", fails=lambda settings: settings["decoder"])
    rows = pd.read_csv(tmp_path / "cost_table.csv")
    assert rows["round"].tolist() == [0] * 8 + [1] * 8 and not rows["decoder"].any()
    measured = run_main("--rounds", "3")
    assert len(measured) == 32 and [settings["decoder"] for settings in measured] == [
        True] * 16 + [False, True] * 8
    assert run_main("--rounds", "3") == []
    assert len(run_main("--rounds", "1", "--batch_size", "4")) == 16
    assert len(pd.read_csv(tmp_path / "cost_table.csv")) == 64


def test_the_table_has_the_medians_of_the_rounds(run_main):
    run_main("--rounds", "3")  # the first network is measured 1st, 17th and 33rd
    lines = [line for line in run_main.printed.splitlines() if line.startswith("|")]
    assert len(lines) == 18 and len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| resnet_v2_50 | 16 | no | 39.1 | 23.1 | 17.00 | 7.25 | 4.32 |"
    assert lines[-1].startswith("| resnet_v2_50 `--width 0.5 --separable` | 8 | yes |")


def test_another_table_is_refused(run_main, tmp_path):
    (tmp_path / "cost_table.csv").write_text("backbone,score\nresnet_v2_50,1\n")
    with pytest.raises(ValueError, match="cost_table.csv: no table of this script .no column"):
        run_main()


@pytest.mark.parametrize("old, new", [("39055749", "many"), ("39055749", ""), ("False", "Fal")])
def test_a_damaged_row_is_refused_before_anything_is_measured(run_main, tmp_path, old, new):
    run_main("--rounds", "1")
    path = tmp_path / "cost_table.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match="cost_table.csv: .*choose another --out"):
        run_main("--rounds", "2")
