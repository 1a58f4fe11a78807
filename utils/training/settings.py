"""The settings of a run: what rebuilds the model, and what a resumed run must not change."""

from deeplab_v3 import MULTI_GRID, OTHER_MULTI_GRIDS
from utils.data import tiles
from utils.training import pretrained, runs
from utils.data.rasters import RGB
from utils.data.scenes import read_bands


def run_settings(args, table, tile_size, origin):
    """What is written beside the checkpoint: enough for predict.py to build the model again."""
    noted = read_bands(args.dataset)
    multi_grid = args.multi_grid or OTHER_MULTI_GRIDS.get(args.backbone, MULTI_GRID)
    model = {"num_classes": len(table), "backbone": args.backbone,
             "output_stride": args.output_stride, "multi_grid": list(multi_grid),
             "decoder": args.decoder, "width": args.width}
    if args.backbone in pretrained.KERAS_MODELS:
        model["pool1_padding"] = origin or pretrained.SLIM
    if len(noted.get("bands", RGB)) != len(RGB):
        model["bands"] = len(noted["bands"])
    recipe = {name: getattr(args, name) for name in (
        "seed", "batch_size", "steps", "optimizer", "learning_rate", "schedule", "power",
        "momentum", "weight_decay", "batch_norm_decay", "freeze_batch_norm", "sync_batch_norm",
        "backbone_lr_factor", "augment_online", "scale_range", "colour_jitter", "precision",
        "pretrained", "dataset", "loss", "focal_gamma", "class_weights", "hard_pixels",
        "label_smoothing", "ema")}
    recipe["tiles_checksum"] = tiles.checksum(args.dataset)
    return {"model": model, "classes": table.to_settings(), "tile_size": tile_size,
            "test_scene": args.test_scene, "training": recipe} | noted


def keep_start(run, settings):
    """A resumed run's weights come from where they came from, whatever --pretrained says now."""
    before = runs.read_settings(run)
    settings["model"].pop("pool1_padding", None)
    if "pool1_padding" in before["model"]:
        settings["model"]["pool1_padding"] = before["model"]["pool1_padding"]
    settings["training"]["pretrained"] = before.get("training", {}).get("pretrained")


def check_same_settings(run, settings):
    """Raises ValueError naming the settings in which a resumed run would differ from itself."""
    def flat(value, name=""):
        if not isinstance(value, dict):
            return {name: value}
        return {k: v for key, part in value.items() for k, v in flat(part, f"{name} {key}").items()}

    before, now = flat(runs.read_settings(run)), flat(settings)
    # Those of either: that tiles show other bands than RGB is only noted where they do. The flag for
    # the size that a model is trained on is --crop_size, whose default is the tiles' own.
    shown = {"tile_size": "crop_size"}
    changed = [f"{shown.get(name.strip(), name.split()[-1])} was {before.get(name)}, is {now.get(name)}"
               for name in before | now if before.get(name) != now.get(name)]
    if changed:
        raise ValueError(f"{run}: cannot be resumed with other settings: {'; '.join(changed)}; "
                         "give the same, or another --run")
