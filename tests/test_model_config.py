"""ModelConfig, and the settings.json that earlier versions of train.py wrote (old_runs/)."""

import json

import pytest

from deeplab_v3 import ModelConfig
from utils.training.run import RunSettings

CONFIG = ModelConfig(3, "resnet_v2_50", width=.25, pool1_padding="keras", in_channels=4)


@pytest.mark.parametrize("run, expected", [
    # Of the first version, with neither decoder nor width nor bands; and of one before ModelConfig.
    ("resnet_v2_50", ModelConfig(5, "resnet_v2_50", 16, (1, 2, 4), decoder=False, width=1,
                                 pool1_padding="keras", in_channels=3)),
    ("xception_65", ModelConfig(5, "xception_65", 8, (1, 1, 1), decoder=True, width=.5,
                                pool1_padding=None, in_channels=3))])
def test_settings_of_earlier_versions_load(repository, tmp_path, run, expected):
    folder = repository / "tests" / "old_runs" / run
    settings = RunSettings.read(str(folder))
    assert settings.model == expected
    assert (settings.crop_size, len(settings.classes), settings.bands) == (256, 5, None)
    # Nothing of an old file is lost when it is written again.
    settings.write(str(tmp_path))
    before, after = (json.loads((path / "settings.json").read_text())
                     for path in (folder, tmp_path))
    assert after["model"] | before["model"] == after["model"]
    assert all(after[name] == before[name] for name in before.keys() - {"model"})


def test_a_config_is_written_under_the_names_of_the_first_version():
    values = json.loads(json.dumps(CONFIG.to_json()))
    assert values == {"num_classes": 3, "backbone": "resnet_v2_50", "output_stride": 16,
                      "multi_grid": [1, 2, 4], "decoder": False, "separable": False, "width": .25,
                      "pool1_padding": "keras", "bands": 4}
    assert ModelConfig.from_json(values, "settings.json") == CONFIG
    # As an earlier version wrote it.
    del values["separable"]
    assert ModelConfig.from_json(values, "settings.json") == CONFIG


@pytest.mark.parametrize("backbone, chosen, expected", [
    ("resnet_v2_50", None, (1, 2, 4)), ("xception_65", None, (1, 1, 1)),
    ("xception_65", [1, 2, 1], (1, 2, 1))])
def test_the_multi_grid_is_the_backbone_s_where_none_is_chosen(backbone, chosen, expected):
    assert ModelConfig(5, backbone, multi_grid=chosen).multi_grid == expected


@pytest.mark.parametrize("name, value", [
    ("num_classes", "3"), ("num_classes", None), ("width", "abc"), ("width", None), ("width", -1),
    ("backbone", ["a"]), ("backbone", "vgg"), ("output_stride", 32), ("multi_grid", 7),
    ("multi_grid", ["1", "2", "4"]), ("multi_grid", [1]), ("multi_grid", None), ("decoder", 1),
    ("separable", "yes"),    ("pool1_padding", "same"), ("bands", "3"), ("bands", 0)])
def test_a_value_that_does_not_fit_is_named_with_its_file(name, value):
    with pytest.raises(ValueError, match=rf"tiny/settings.json: damaged: no model has {name} "
                                         ".*; restore it or train again"):
        ModelConfig.from_json(CONFIG.to_json() | {name: value}, "tiny/settings.json")


def test_an_unknown_setting_asks_for_the_code_that_trained_it():
    with pytest.raises(ValueError, match=r"tiny/settings.json: .* does not know \(attention\); "
                                         "use the code that trained it.*environment.json"):
        ModelConfig.from_json(CONFIG.to_json() | {"attention": True}, "tiny/settings.json")
