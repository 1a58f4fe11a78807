"""The whole chain on scenes of other bands and classes, with separable convolutions and a decoder,
and a run that starts from that one."""

import os

import numpy as np
import pandas as pd
import pytest
import rasterio
import tensorflow as tf2
import tensorflow.compat.v1 as tf

from conftest import draw_scene, read_settings
from test_end_to_end import RECIPE, call, read_checkpoint, read_events
from utils.data.image import Image
from utils.data.scenes import write_png
from utils.training.checkpoints import BEST, LATEST


def test_other_bands_and_classes_and_a_start_from_that_run(tmp_path, trains_in_bfloat16):
    """GeoTIFFs of four bands of 16 bits and three classes through the whole chain, in bfloat16
    where it can be, with the decoder, separable convolutions and all that helps unbalanced data;
    what is missing is noted, not fatal. Then their weights, batch norm frozen, for seven classes.
    """
    classes = {count: tmp_path / f"{count}.csv" for count in (3, 7)}
    for count, path in classes.items():
        path.write_text("id,name,colour\n" + "".join(f"{i},c{i},#0000{i}0\n" for i in range(count)))
    for name in ("1", "5"):
        image, label = draw_scene(150, 170, num_classes=3, seed=int(name))
        write_png(str(tmp_path / "origin" / f"{name}_class.png"), label)
        samples = np.concatenate([image, image[..., :1] // 2], axis=-1).astype(np.uint16) * 9
        with rasterio.open(tmp_path / "origin" / f"{name}.tif", "w", driver="GTiff", count=4,
                           height=150, width=170, dtype="uint16") as scene:
            scene.write(np.moveaxis(samples, -1, 0))
    call("preprocess.py", "--dataset", tmp_path, "--classes", classes[3], "--tiles", 4,
         "--tile_size", 64, "--bands", 4, 3, 2, 1, "--validation_fraction", 0)
    for name in ("5.tif", "5_class.png"):
        os.rename(tmp_path / "origin" / name, tmp_path / name)
    logs = ("--logs", tmp_path / "logs")
    shared = ("--dataset", tmp_path, *logs)
    output, errors = call(
        "train.py", *shared, "--run", "four", "--classes", classes[3], "--steps", 2, "--precision",
        "bfloat16" if trains_in_bfloat16 else "float32", "--ema", .9, "--loss",
        "dice_cross_entropy", "--class_weights", "inverse_log", "--hard_pixels", .5,
        "--label_smoothing", .1, "--decoder", "--separable", *RECIPE)
    assert errors == "" and "no labelled scene 5; training without watching it" in output
    run = str(tmp_path / "logs" / "four")
    settings = read_settings(run)
    assert settings["model"]["bands"] == 4
    assert [row["name"] for row in settings["classes"]] == ["c0", "c1", "c2"]
    assert np.isfinite(list(read_events(run)["loss/dice_cross_entropy"].values())).all()
    for which in (LATEST, BEST):
        weights, _ = read_checkpoint(run, which)
        types = weights.get_variable_to_dtype_map()
        assert {kind for name, kind in types.items() if name != "global_step"} == {tf.float32}
        assert weights.get_tensor("logits/weights").shape[-1] == 3
        assert weights.get_tensor("resnet_v2_50/postnorm/gamma").shape == (256,)
        assert weights.get_tensor("resnet_v2_50/conv1/weights").shape == (7, 7, 4, 8)
        for scope, channels in (("aspp3", 256), ("decoder/decoder_conv0", 304)):
            name = f"{scope}_depthwise/depthwise_weights"
            assert weights.get_tensor(name).shape == (3, 3, channels, 1)

    call("predict.py", *logs, "--image", tmp_path / "5.tif", "--label", tmp_path / "5_class.png",
         "--out", tmp_path / "out", "--rotations", 1, "--overlap", 0, "--precision", "float32")
    scores = pd.read_csv(tmp_path / "out" / "5_scores.csv", index_col="class")
    assert scores.index.tolist() == ["c0", "c1", "c2", "all"]
    output, _ = call("predict.py", *logs, "--export", tmp_path / "exported")
    assert "it takes images of bands 4 3 2 1" in output
    with Image(str(tmp_path / "5.tif"), (4, 3, 2, 1), settings["stretch"]) as image:
        window = image.read(0, 0, 64, 64)
    model = tf2.saved_model.load(str(tmp_path / "exported")).signatures["serving_default"]
    probabilities = model(images=tf2.constant(window[None]))["probabilities"].numpy()
    with rasterio.open(tmp_path / "out" / "5_class.tif") as scene:
        assert (scene.read(1)[:64, :64] == probabilities[0].argmax(-1)).mean() > .999

    output, _ = call("train.py", *shared, "--run", "seven", "--steps", 1, "--classes", classes[7],
                     "--freeze_batch_norm", "--backbone_lr_factor", .1, "--decoder", "--separable",
                     "--pretrained", run, *RECIPE[2:])
    assert "re-initialised for another number of classes: logits/weights, logits/biases" in output
    trained, _ = read_checkpoint(tmp_path / "logs" / "seven", BEST)
    assert trained.get_tensor("logits/biases").shape == (7,)
    for name in {*weights.get_variable_to_shape_map()} - {"logits/weights", "logits/biases"}:
        change = np.abs(trained.get_tensor(name) - weights.get_tensor(name)).max()
        if name.startswith("resnet_v2_50/") and not name.endswith(("/weights", "/biases")):
            assert change == 0, name
        elif "/moving_" not in name:  # Adam's first step is the learning rate: 2e-4, a tenth of it
            rate = 2e-5 if name.startswith("resnet_v2_50/") else 2e-4  # in the backbone
            # The depthwise convolutions after these have batch norm, which takes each channel's
            # scale out again: next to no gradient is left.
            scaled_out = name.removesuffix("/BatchNorm/gamma") in (
                "concat_projection", "decoder/feature_projection0",
                "decoder/decoder_conv0_pointwise")
            assert change == pytest.approx(rate, rel=.05) or scaled_out and change < rate, name
