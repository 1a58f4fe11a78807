"""Pictures for people: a map laid over its scene, and a confusion matrix.

    python -m utils.inference.visualise --image I.png --label L.png --prediction P.png --out s.png
"""

import os
import re
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.classes import DEFAULT_TABLE, IGNORE, colour_map, read_classes
from utils.cli import plain_parser, positive, run_script
from utils.data.scenes import read_image, read_label, write_png

# Of Linux, macOS and Windows; those that are not there are passed over.
FONT_FOLDERS = tuple(os.path.expandvars(os.path.expanduser(folder)) for folder in (
    "/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts",
    "/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts",
    "$WINDIR/Fonts", "$LOCALAPPDATA/Microsoft/Windows/Fonts"))
# Taken only where no plain font will do.
STYLED = re.compile("bold|italic|oblique|light|thin|black|serif|mono", re.IGNORECASE)
TEXT_SIZE = 15
CELL = 88
LEGEND = 32
TEXT_COLOUR = (40, 40, 40)


def rgb_of(image):
    """uint8 [height, width, bands] -> RGB: the first three bands, or the first alone as grey."""
    return image[..., :3] if image.shape[2] >= 3 else image[..., :1].repeat(3, axis=2)


def overlay(image, labels, table, opacity=0.5):
    """The scene with its classes' colours over it: RGB uint8 [height, width, 3].

    image: RGB uint8 [height, width, 3]. labels: ids uint8 [height, width]; where they are 255 the
    scene shows unchanged. opacity: 0 shows the scene alone, 1 the colours alone.
    """
    mixed = cv2.addWeighted(colour_map(labels, table), opacity, image, 1 - opacity, 0)
    return np.where((labels == IGNORE)[..., None], image, mixed)


def side_by_side(pictures, gap=4):
    """RGB uint8 pictures of one height in a row, `gap` white pixels between them."""
    white = np.full((pictures[0].shape[0], gap, 3), 255, np.uint8)
    row = [pictures[0]]
    for picture in pictures[1:]:
        row += [white, picture]
    return np.concatenate(row, axis=1)


def confusion_picture(matrix, table):
    """A confusion matrix as RGB uint8: rows are the label, columns the prediction.

    matrix: int64 [classes, classes] of `utils.metrics.confusion_matrix`. Each cell says what share
    of the label's pixels of that class it holds in per cent, and is the bluer the more.
    """
    names, title = _readable(table), "label (%)"
    left = max(map(_text_width, [*names, title])) + 40
    top, side = 70, len(table) * CELL
    picture = Image.new("RGB", (left + side + 16, top + side + 16), "white")
    drawing = ImageDraw.Draw(picture)
    _write(drawing, "prediction", (left + side // 2, 24))
    _write(drawing, title, (left // 2, 24))
    totals = matrix.sum(1)
    for row, name in enumerate(names):
        y = top + row * CELL
        _write(drawing, name, (left // 2, y + CELL // 2))
        _write(drawing, _shorten(name), (left + row * CELL + CELL // 2, top - 18))
        for column in range(len(table)):
            x = left + column * CELL
            share = matrix[row, column] / totals[row] if totals[row] else 0
            colour = tuple(round(255 - share * (255 - dark)) for dark in (8, 81, 156))
            drawing.rectangle((x, y, x + CELL - 2, y + CELL - 2), colour)
            text = f"{100 * share:.1f}" if totals[row] else "-"
            _write(drawing, text, (x + CELL // 2, y + CELL // 2),
                   (255, 255, 255) if share > .5 else TEXT_COLOUR)
    return np.array(picture)


def _readable(table):
    """The name of each class on one line, or its id where no font has the name's characters."""
    names = (" ".join(name.split()) for name in table.names)
    return [name if _font(name, FONT_FOLDERS) else str(number) for number, name in enumerate(names)]


@cache
def _font(text, folders):
    """A font that has all characters of `text`: Pillow's own, or one in `folders`; else None."""
    own = ImageFont.load_default(TEXT_SIZE)
    if _has(own, text):
        return own
    paths = [path for folder in folders for path in Path(folder).rglob("*.*")
             if path.suffix.lower() in (".ttf", ".ttc", ".otf")]
    for path in sorted(paths, key=lambda path: (bool(STYLED.search(path.stem)),
                                                "sans" not in path.stem.lower(), path)):
        try:
            font = ImageFont.truetype(path, TEXT_SIZE)
            if _has(font, text):
                return font
        except OSError:  # damaged, or of another size only
            continue
    return None


def _has(font, text):
    """Whether a font has all characters: it draws those it lacks as U+FFFF, which is none."""
    missing = bytes(font.getmask("\uffff"))
    return all(bytes(font.getmask(character)) != missing for character in set(text) - {" "})


def _write(drawing, text, place, colour=TEXT_COLOUR, anchor="mm"):
    drawing.text(place, text, colour, _font(text, FONT_FOLDERS), anchor)


def _text_width(text):
    return round(_font(text, FONT_FOLDERS).getlength(text))


def _shorten(name):
    """A name that fits above a cell."""
    while len(name) > 2 and _text_width(name) > CELL - 4:
        name = name.rstrip(".")[:-1].rstrip() + "."
    return name


def legend(labels, table, width):
    """The classes' colours and names in a row, RGB uint8 [LEGEND, width, 3]; cut where too long.

    labels: ids uint8, of any shape. Where 255 is among them, its colour is named too.
    """
    entries = list(zip(_readable(table), table.colours.tolist()))
    if (labels == IGNORE).any():
        entries.append(("not labelled", table.ignore_colour))
    picture = Image.new("RGB", (width, LEGEND), "white")
    drawing = ImageDraw.Draw(picture)
    left, middle = 1, LEGEND // 2
    for name, colour in entries:
        drawing.rectangle((left, middle - 8, left + 24, middle + 8), tuple(colour), TEXT_COLOUR)
        _write(drawing, name, (left + 31, middle), anchor="lm")
        left += 31 + _text_width(name) + 24
    return np.array(picture)


def strip(image, label, prediction, table, height):
    """Scene | label | map | map over the scene, of `height` pixels, above a legend: RGB uint8.

    image: RGB uint8 [h, w, 3]. label, prediction: ids uint8 [h, w].
    """
    size = max(1, round(image.shape[1] * height / image.shape[0])), height
    row = side_by_side([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in (
        image, colour_map(label, table), colour_map(prediction, table),
        overlay(image, prediction, table))])
    both = np.stack([label, prediction])
    return np.concatenate([row, legend(both, table, row.shape[1])])


def main():
    parser = plain_parser(__doc__)
    parser.add_argument("--image", required=True, help="the scene")
    parser.add_argument("--label", required=True, help="its label, as class ids or colours")
    parser.add_argument("--prediction", required=True, help="the map to show beside them")
    parser.add_argument("--classes", default=DEFAULT_TABLE, metavar="FILE", help="class table")
    parser.add_argument("--height", type=positive, default=420, help="of the strip, in pixels")
    parser.add_argument("--out", required=True, metavar="PNG", help="the picture to write")
    arguments = parser.parse_args()
    table = read_classes(arguments.classes)
    image = read_image(arguments.image)
    maps = [read_label(arguments.label, table),
            read_label(arguments.prediction, table.of_maps())]
    for path, ids in zip((arguments.label, arguments.prediction), maps):
        if ids.shape != image.shape[:2]:
            raise ValueError(f"{path}: not of the size of {arguments.image}")
    write_png(arguments.out, strip(image, *maps, table, arguments.height))


if __name__ == "__main__":
    run_script(main)
