"""Which scenes there are and what each is for: by folder, by patterns, or by a table.

    python -m utils.data.scene_table --images 'train/*_sat.jpg' --labels 'train/*_mask.png' \\
        --validation_images 'validation/*_sat.jpg' --validation_labels 'validation/*_mask.png' \\
        --out scenes.csv
"""

import fnmatch
import os
from dataclasses import replace

import pandas as pd

from utils.cli import TEST_SCENE, plain_parser, run_script
from utils.data.scenes import Scene, choose_scenes, find_scenes, paired_files, partner_of
from utils.files import check_plain, relative_path, write_text

SPLITS = TRAIN, VALIDATION, TEST = ("train", "validation", "test")
COLUMNS = ["name", "image", "label", "split"]
PREFIXES = {TRAIN: "", VALIDATION: "validation_", TEST: "test_"}
TABLE = "scenes.csv"  # the table that is found in --dataset
# Names that a message spells out.
NAMES_SHOWN = 8


def add_scene_flags(add):
    """The flags for patterns; add: add_argument of a parser or a group."""
    for split, prefix in PREFIXES.items():
        add(f"--{prefix}images", metavar="PATTERN",
            help=f"images of the {split} scenes, quoted, as in 'train/*_sat.jpg'; the star stands "
            "for the scene's name")
        add(f"--{prefix}labels", metavar="PATTERN",
            help="their labels, as in 'train/*_mask.png', with the same star")


def scenes_by_split(args):
    """{'train': [Scene], 'validation': [Scene], 'test': [Scene]} that the flags describe.

    args: with --images and so on, --scene_table, --origin, --dataset, --scenes and --test_scene.
    Without a flag that says where, scenes.csv in --dataset is taken if it is there.
    Raises ValueError, OSError naming the file or flag.
    """
    patterns = [f"--{prefix}{kind}" for prefix in PREFIXES.values() for kind in ("images", "labels")
                if getattr(args, f"{prefix}{kind}")]
    if patterns and args.scene_table:
        raise ValueError(f"{patterns[0]} and --scene_table both say which scenes there are; give "
                         "one")
    table = args.scene_table or os.path.join(args.dataset, TABLE)
    if patterns:
        source, scenes = "--images", scenes_of_patterns(args)
    elif args.scene_table or not args.origin and os.path.exists(table):
        source, scenes = table, read_scene_table(table)
        print(f"scenes: those of {table}")
    else:
        source, scenes = "", scenes_of_folder(args)
    if source:
        if args.scenes:
            raise ValueError(f"--scenes chooses among the scenes of --origin, not of {source}; "
                             "leave it out")
        # Checked, since a misspelt name would let the held-out scene into the training tiles.
        names = matching_names(args.test_scene or [], [scene.name for scene in scenes])
        choose_scenes({scene.name: scene for scene in scenes}, names, f"{source} (--test_scene)")
        scenes = [replace(scene, split=TEST) if scene.name in names else scene for scene in scenes]
    by_split = {split: [scene for scene in scenes if scene.split == split] for split in SPLITS}
    if not by_split[TRAIN]:
        raise ValueError(f"{source}: it has no scene of split train")
    return by_split


def scenes_of_folder(args):
    """The labelled scenes of --origin (N.png with N_class.png): --test_scene are held out."""
    folder = args.origin or os.path.join(args.dataset, "origin")
    scenes = find_scenes(folder)
    # Checked, as above.
    held_out = matching_names(args.test_scene or [TEST_SCENE], scenes)
    if args.scenes:
        both = [name for name in held_out if name in args.scenes]
        if both:
            raise ValueError(f"scene {both[0]} is held out (--test_scene) and cannot be trained "
                             "on; take it out of --scenes or hold out another")
        chosen = choose_scenes(scenes, list(dict.fromkeys(args.scenes)), folder)
    else:
        choose_scenes(scenes, held_out, f"{folder} (--test_scene)")
        chosen = [scene for name, scene in scenes.items()
                  if name not in held_out and scene.label_path]
        if not chosen:
            raise FileNotFoundError(f"{folder}: no scene but the held-out {', '.join(held_out)} "
                                    "has a label (N_class.png beside N.png)")
    return ([replace(scene, split=TRAIN) for scene in chosen]
            + [replace(scenes[name], split=TEST) for name in held_out if name in scenes])


def matching_names(patterns, names):
    """`patterns` with each that has wildcards replaced by the `names` that it matches."""
    found = []
    for pattern in patterns:
        found += fnmatch.filter(names, pattern) or [pattern]
    return list(dict.fromkeys(found))


def scenes_of_patterns(args):
    """The scenes that --images, --labels and their like name. A scene's name is what the stars of
    its pattern stand for."""
    if not args.images:
        raise ValueError("--images and --labels are missing: they say which scenes to train on")
    scenes = []
    for split, prefix in PREFIXES.items():
        images, labels = (getattr(args, prefix + kind) for kind in ("images", "labels"))
        flags = f"--{prefix}images", f"--{prefix}labels"
        if labels and not images or images and not labels and split != TEST:
            raise ValueError(f"{flags[0]} and {flags[1]} go together; give both")
        if images:
            pairs = paired_files([images], [labels] if labels else [], flags)
            masks = {os.path.normpath(label) for label in pairs.values() if label}
            # 'scenes/*.png' matches the labels 'scenes/*_mask.png' too.
            scenes += [Scene(partner_of(path, images, "*"), path, label, split)
                       for path, label in pairs.items() if os.path.normpath(path) not in masks]
    return checked(scenes, "--images")


def read_scene_table(path, check=True):
    """The scenes of a table (csv: image, label, split and, if they are not the images' names,
    name); paths are relative to it. A test scene may lack its label. check=False: whether or not
    the files are there. Raises ValueError, OSError."""
    check_plain(path)
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except OSError as error:
        raise OSError(f"{path}: could not be read ({error.strerror}); check "
                      "--scene_table") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{path}: not a table of scenes ({error}); it has the columns image, "
                         "label, split") from None
    missing = {"image", "label", "split"} - set(rows.columns)
    if missing:
        raise ValueError(f"{path}: column {', '.join(sorted(missing))} is missing; a table of "
                         "scenes has the columns image, label, split")
    folder, scenes = os.path.dirname(path), []
    for row in rows.itertuples():
        if row.split not in SPLITS or not row.image:
            raise ValueError(f"{path}: split {row.split!r} of image {row.image!r}; each row has an "
                             f"image, and a split that is {', '.join(SPLITS)}")
        scenes.append(Scene(
            getattr(row, "name", "") or os.path.splitext(os.path.basename(row.image))[0],
            os.path.join(folder, row.image), row.label and os.path.join(folder, row.label) or None,
            row.split))
    return checked(scenes, path) if check else scenes


def checked(scenes, source):
    """`scenes`, whose files are there and which are in one split each, under names of their own: a
    name that another split has too gets its split before it. Raises ValueError, OSError."""
    files, names, result = {}, {}, []
    for scene in scenes:
        for path in filter(None, (scene.image_path, scene.label_path)):
            if not os.path.isfile(path):
                what = "image" if path == scene.image_path else f"label of {scene.image_path}"
                raise FileNotFoundError(f"{path}: the {what} is missing; check {source}")
        if not scene.label_path and scene.split != TEST:
            raise FileNotFoundError(f"{scene.image_path}: it has no label, and split {scene.split} "
                                    f"needs one; check {source}")
        file = os.path.realpath(scene.image_path)
        if file in files:
            raise ValueError(f"{scene.image_path}: it is there twice, in split {files[file]} and "
                             f"{scene.split}; check {source}")
        files[file] = scene.split
        if scene.name in names and names[scene.name] != scene.split:
            scene = replace(scene, name=f"{scene.split}_{scene.name}")
        if scene.name in names:
            raise ValueError(f"{scene.image_path}: another scene is called {scene.name} too; give "
                             f"them names of their own in a table (column name)")
        names[scene.name] = scene.split
        result.append(scene)
    return result


def write_scene_table(path, scenes, folder=None):
    """Writes scenes as `read_scene_table` reads them, with paths relative to `folder`, by default
    the table's own."""
    folder = folder or os.path.dirname(path) or os.curdir

    rows = pd.DataFrame([(scene.name, *(path and relative_path(path, folder) for path in (
        scene.image_path, scene.label_path)), scene.split) for scene in scenes], columns=COLUMNS)
    write_text(path, rows.to_csv(index=False, lineterminator="\n"))


def named(names):
    """'scene 1', 'scenes 1, 2', or of many '2,000 scenes (0000, 0001, ... 1999)'."""
    names = list(names)
    if len(names) <= NAMES_SHOWN:
        return f"scene{'s' * (len(names) != 1)} {', '.join(names)}"
    return f"{len(names):,} scenes ({names[0]}, {names[1]}, ... {names[-1]})"


def main():
    parser = plain_parser(__doc__)
    add_scene_flags(parser.add_argument)
    parser.add_argument("--out", required=True, metavar="CSV", help="the table to write")
    args = parser.parse_args()
    if not args.images:
        parser.error("--images and --labels are needed")
    scenes = scenes_of_patterns(args)
    write_scene_table(args.out, scenes)
    for split in SPLITS:
        if names := [scene.name for scene in scenes if scene.split == split]:
            print(f"{split}: {named(names)}")
    print(f"written: {args.out}")


if __name__ == "__main__":
    run_script(main)
