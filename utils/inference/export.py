"""A trained run as a SavedModel, and what a user of it may want to know of the run."""

import dataclasses
import json
import os
import shutil

import tensorflow.compat.v1 as tf

from utils.files import remedy, replacing, write_text
from utils.inference.predictor import probabilities_of
from utils.training.checkpoints import error_reason, restore_model
from utils.training.environment import code_version
from utils.training.run import BestScore, read_starts

FACTS = "model.json"


def model_facts(run, settings, checkpoint, step):
    """Of the exported checkpoint ('best' or 'latest') of the run in that folder, as plain values.

    pixel_size: metres, and training_scenes: names; None where the run does not know them.
    best_score: of the best checkpoint, see BestScore. trained_by, exported_by: versions of this
    code, the first of the run's last start.
    """
    started, score = (read_starts(run) or [{}])[-1], BestScore.read(run)
    return {"run": os.path.basename(run), "checkpoint": checkpoint, "step": int(step),
            "pixel_size": settings.to_json().get("gsd"),
            "training_scenes": started.get("training_scenes"),
            "held_out_scenes": settings.test_scenes,
            "best_score": score and dataclasses.asdict(score),
            "trained_by": started.get("code"), "exported_by": code_version()}


def export_model(folder, checkpoint, settings, precision, facts):
    """Writes the run's model as a SavedModel to `folder`, which must not exist or be empty.

    Its signature serving_default takes `images`, uint8 [batch, height, width, channels] of any
    size, RGB unless the run was trained on other bands, and gives `probabilities`, float32 [batch,
    height, width, classes]. The run's settings lie beside it: the class table, and where the tiles
    were cut with --bands the scenes' band numbers in the order of the last axis (`bands`) and, for
    samples of other than 8 bits, the limits that became 0 and 255 (`stretch`), and the pixel size
    that the model knows (`gsd`, `resample`); and `facts` (of `model_facts`) as model.json. Raises
    OSError and ValueError.
    """
    folder = os.path.normpath(folder)
    if os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise ValueError(f"{folder}: there is something already; export to a new folder")
    with tf.Graph().as_default(), tf.Session() as session:
        images = tf.placeholder(tf.uint8, [None, None, None, settings.model.in_channels], "images")
        probabilities = probabilities_of(settings.model, precision)(images)
        restore_model(session, checkpoint)
        with replacing(folder) as temporary:
            try:
                tf.saved_model.simple_save(session, temporary, {"images": images},
                                           {"probabilities": probabilities})
                settings.write(temporary)
                write_text(os.path.join(temporary, FACTS), json.dumps(facts, indent=2) + "\n")
            except BaseException as error:
                shutil.rmtree(temporary, ignore_errors=True)
                if not isinstance(error, tf.errors.OpError):
                    raise
                reason = error_reason(error)
                raise OSError(f"{folder}: the model could not be written ({reason}); "
                              f"{remedy(reason)} or choose another folder") from None
