"""--quality: flags of predict.py that go together, and the options that all flags give."""

from utils.inference.sliding_window import WOVEN, InferenceOptions, turned_copies

# {quality: {flag: value}}; docs/prediction.md has what each costs and gives.
QUALITIES = {"fast": {"overlap": 0.125, "rotations": 1},
             "default": {"overlap": 0.5, "rotations": WOVEN},
             "best": {"overlap": 0.5, "rotations": 4}}
IMAGES_A_CALL = 16  # windows with their turned copies: more save no time
FAR_FROM_CROP = 1 / 4  # as a share of the crop's side


def parse_with_quality(parser, arguments):
    """The flags, with those of --quality where they are not given."""
    parser.set_defaults(**QUALITIES[parser.parse_args(arguments).quality])
    return parser.parse_args(arguments)


def options_of(args, crop_size):
    """InferenceOptions of predict.py's flags; warns where --window is far from `crop_size`, the
    side of what the run was trained on."""
    window = args.window or crop_size
    if abs(window - crop_size) > FAR_FROM_CROP * crop_size:
        print(f"warning: --window {window} is far from the {crop_size} pixels that the run was "
              "trained on, and maps get worse with the distance; leave the flag out, or compare "
              "on a labelled scene")
    batch_size = args.batch_size or IMAGES_A_CALL // turned_copies(args.rotations)
    return InferenceOptions(window, args.overlap, args.blend, batch_size, args.rotations,
                            args.flips, tuple(args.scales))
