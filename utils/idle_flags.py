"""Flags that have no effect unless another one is given, and a warning where they have none."""


def _without(flag):
    return lambda args: not getattr(args, flag), f"without --{flag}"


def _unless(flag, value):
    return lambda args: value not in getattr(args, flag), f"unless --{flag} is {value}"


def _with(flag):
    return lambda args: getattr(args, flag), f"with --{flag}"


# Of each script: {flag: (function of the flags that says whether it is idle, and when that is)}.
PREPROCESS = {
    "gamma_range": (lambda args: not args.gamma, "where --gamma is 0 (as with --no_augment)"),
    "origin": (lambda args: args.images or args.scene_table, "with --images or --scene_table")}
TRAIN = {
    "colour_jitter": _without("augment_online"),
    "focal_gamma": _unless("loss", "focal"),
    "power": _unless("schedule", "poly"),
    "momentum": _unless("optimizer", "momentum")}
PREDICT = {
    **dict.fromkeys(("origin", "test_scene"), _with("image")),
    **dict.fromkeys(("overlap", "blend", "batch_size", "rotations", "flips", "scales"),
                    _with("export")),
    **dict.fromkeys(("image", "label", "part", "out"), (
        lambda args: args.export or args.export_onnx, "with --export or --export_onnx")),
    **dict.fromkeys(("overwrite", "probabilities", "confidence", "polygons", "min_area", "simplify",
                     "cog"), (lambda args: args.export or args.export_onnx or args.compare,
                              "with --export, --export_onnx or --compare"))}


def tell_idle_flags(parser, args, idle):
    """Prints a warning for each flag that differs from its default and is idle, by one of the dicts
    above."""
    for flag, (is_idle, when) in idle.items():
        if getattr(args, flag) != parser.get_default(flag) and is_idle(args):
            print(f"warning: --{flag} has no effect {when}")
