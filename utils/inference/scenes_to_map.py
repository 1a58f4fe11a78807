"""The scenes that predict.py maps: which ones, and each open for reading."""

import contextlib
import os

from utils.cli import TEST_SCENE
from utils.data.image import Image, black_warning, is_partly_black, range_warning
from utils.data.polygons import open_area, open_label
from utils.data.rasters import RGB
from utils.data.scene_table import matching_names
from utils.data.scenes import choose_scenes, scenes_of, scenes_of_folders
from utils.data.tiles import held_out_scenes

CHECKED_ROWS = 512  # of a label, at a time


def find_scenes_to_map(args, settings):
    """The Scenes that --image names, or those that the run held out, from the data's folders.

    args: predict.py's flags. settings: the run's RunSettings. Raises ValueError, OSError.
    """
    if args.image:
        return scenes_of(args.image, args.label)
    if args.label:
        raise ValueError(f"{args.label[0]}: --label goes with --image; a scene of --origin has "
                         "its label beside it")
    names = args.test_scene or settings.test_scenes or [TEST_SCENE]
    noted = [] if args.origin else held_out_scenes(args.dataset)
    by_name = {scene.name: scene for scene in noted if os.path.exists(scene.image_path)}
    if set(matching := matching_names(names, by_name)) <= set(by_name):
        return [by_name[name] for name in matching]
    folders = [args.origin or os.path.join(args.dataset, "origin")]
    if not args.origin:
        folders.append(os.path.join(args.dataset, "test"))
    found = scenes_of_folders(folders)
    return choose_scenes(found, matching_names(names, found), " and ".join(folders))


def check_bands(run, settings, bands):
    """Raises ValueError where --bands gives the model of the run more or fewer than it takes."""
    trained = settings.model.in_channels
    if bands and len(bands) != trained:
        raise ValueError(f"--bands {' '.join(map(str, bands))}: {len(bands)} band(s), but {run} "
                         f"was trained on {trained}; name as many")


@contextlib.contextmanager
def open_scene(scene, bands, settings, table, reading):
    """Gives (Image, label or None), after checks that would be a pity to fail half-way.

    bands: --bands, or None for those of `settings`, the run's RunSettings. table: ClassTable.
    reading: LabelOptions. Raises ValueError, OSError naming the file.
    """
    bands = tuple(bands or settings.bands or RGB)
    stretch = settings.stretch if bands == tuple(settings.bands or RGB) else None
    with contextlib.ExitStack() as stack:
        image = stack.enter_context(Image(scene.image_path, bands, stretch))
        if warning := range_warning(image, stretch):
            print(warning)
        if is_partly_black(image):
            print(black_warning(image.path))
        image.area = open_area(image, reading)
        label = None
        if scene.label_path:
            label = stack.enter_context(open_label(scene, image, table, reading))
            for top in range(0, label.height, CHECKED_ROWS):
                label.read(top, 0, min(CHECKED_ROWS, label.height - top), label.width)
        yield image, label
