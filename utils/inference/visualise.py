"""Pictures for people: a map laid over its scene, and a confusion matrix.

    python -m utils.inference.visualise --image I.png --label L.png --prediction P.png --out strip.png
"""

import argparse

import cv2
import numpy as np

from utils.classes import DEFAULT_TABLE, IGNORE, IGNORE_COLOUR, colour_map, read_classes
from utils.cli import positive, run_script
from utils.data.scenes import read_image, read_label, write_png

FONT = cv2.FONT_HERSHEY_SIMPLEX
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
    classes = len(table)
    names = list(map(_ascii, table.names))
    left = max(_text_width(name) for name in names) + 40
    top, side = 70, classes * CELL
    height, width = top + side + 16, left + side + 16
    picture = np.full((height, width, 3), 255, np.uint8)
    _write(picture, "prediction", (left + side // 2, 24))
    _write(picture, "label (%)", (left // 2, 24))
    totals = matrix.sum(1)
    for row in range(classes):
        y = top + row * CELL
        _write(picture, names[row], (left // 2, y + CELL // 2))
        _write(picture, _shorten(names[row]), (left + row * CELL + CELL // 2, top - 18))
        for column in range(classes):
            x = left + column * CELL
            share = matrix[row, column] / totals[row] if totals[row] else 0
            colour = [round(255 - share * (255 - dark)) for dark in (8, 81, 156)]
            cv2.rectangle(picture, (x, y), (x + CELL - 2, y + CELL - 2), colour, cv2.FILLED)
            text = f"{100 * share:.1f}" if totals[row] else "-"
            _write(picture, text, (x + CELL // 2, y + CELL // 2),
                   (255, 255, 255) if share > .5 else TEXT_COLOUR)
    return picture


def _write(picture, text, centre, colour=TEXT_COLOUR):
    (width, height), _ = cv2.getTextSize(text, FONT, .5, 1)
    corner = (centre[0] - width // 2, centre[1] + height // 2)
    cv2.putText(picture, text, corner, FONT, .5, colour, 1, cv2.LINE_AA)


def _text_width(text):
    return cv2.getTextSize(text, FONT, .5, 1)[0][0]


def _shorten(name):
    """A name that fits above a cell."""
    while len(name) > 2 and _text_width(name) > CELL - 4:
        name = name.rstrip(".")[:-1] + "."
    return name


def _ascii(name):
    """OpenCV's fonts know ASCII only."""
    return name.encode("ascii", "replace").decode()


def legend(labels, table, width):
    """The classes' colours and names in a row, RGB uint8 [LEGEND, width, 3]; cut where too long.

    labels: ids uint8, of any shape. Where 255 is among them, its colour is named too.
    """
    entries = list(zip(map(_ascii, table.names), table.colours.tolist()))
    if (labels == IGNORE).any():
        entries.append(("not labelled", IGNORE_COLOUR))
    # Drawn three times as large and reduced: small letters of OpenCV's fonts are ragged.
    picture = np.full((3 * LEGEND, 3 * width, 3), 255, np.uint8)
    left, middle = 0, 3 * LEGEND // 2 + 6
    for name, colour in entries:
        corners = (left + 3, middle - 24), (left + 75, middle + 24)
        cv2.rectangle(picture, *corners, colour, cv2.FILLED)
        cv2.rectangle(picture, *corners, TEXT_COLOUR, 3)
        cv2.putText(picture, name, (left + 96, middle + 18), FONT, 1.6, TEXT_COLOUR, 4, cv2.LINE_AA)
        left += 96 + cv2.getTextSize(name, FONT, 1.6, 4)[0][0] + 72
    return cv2.resize(picture, (width, LEGEND), interpolation=cv2.INTER_AREA)


def strip(image, label, prediction, table, height):
    """Scene | label | map | map over the scene, of `height` pixels, above a legend: RGB uint8.

    image: RGB uint8 [h, w, 3]. label, prediction: ids uint8 [h, w].
    """
    size = round(image.shape[1] * height / image.shape[0]), height
    row = side_by_side([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in (
        image, colour_map(label, table), colour_map(prediction, table),
        overlay(image, prediction, table))])
    both = np.stack([label, prediction])
    return np.concatenate([row, legend(both, table, row.shape[1])])


def main():
    parser = argparse.ArgumentParser(
        description="Draw scene, label, map and overlay side by side.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--image", required=True, help="the scene")
    parser.add_argument("--label", required=True, help="its label, as class ids or colours")
    parser.add_argument("--prediction", required=True, help="the map to show beside them")
    parser.add_argument("--classes", default=DEFAULT_TABLE, metavar="FILE", help="class table")
    parser.add_argument("--height", type=positive, default=420, help="of the strip, in pixels")
    parser.add_argument("--out", required=True, metavar="PNG", help="the picture to write")
    arguments = parser.parse_args()
    table = read_classes(arguments.classes)
    image = read_image(arguments.image)
    maps = [read_label(path, table) for path in (arguments.label, arguments.prediction)]
    for path, ids in zip((arguments.label, arguments.prediction), maps):
        if ids.shape != image.shape[:2]:
            raise ValueError(f"{path}: not of the size of {arguments.image}")
    write_png(arguments.out, strip(image, *maps, table, arguments.height))


if __name__ == "__main__":
    run_script(main)
