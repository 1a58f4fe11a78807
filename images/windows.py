"""The diagram of the sliding window; places and weights are those of utils/inference/sliding_window.py."""

import inspect
import itertools

from images.scene import both_scenes, show
from images.svg import (ATROUS, INK, LINE, MARGIN, MUTED, PANEL, PLAIN, STRIDED, WIDTH, arrow, box,
                        curve, document, element, panel, text)
from utils.inference.sliding_window import predict_bands, window_starts, window_weights

WINDOW, SCENE = 256, 768  # pixels
SIDE = 228  # of the scene in the picture
SCALE = SIDE / SCENE
TOP = 68


def draw_windows():
    """How a scene becomes a map, as an SVG text: windows, turns, weights, bands."""
    overlap, blend = (inspect.signature(predict_bands).parameters[name].default
                      for name in ("overlap", "blend"))
    starts = window_starts(SCENE, WINDOW, overlap)
    steps = (("1  Overlapping windows", lambda x: draw_grid(x, starts),
              (f"of {WINDOW} pixels; the next one", f"covers {overlap:.0%} of it again")),
             ("2  Four turns, averaged", draw_turns,
              ("of every window, in one batch;", "probabilities are turned back")),
             ("3  Smooth weights", lambda x: draw_weights(x, starts, blend),
              ("that add up to 1 at every pixel,", "at the scene's edge too")),
             ("4  Bands of the map", lambda x: draw_bands(x, starts),
              ("are written once no window to", "come can touch them")))
    parts = both_scenes()
    pitch = (WIDTH - 2 * MARGIN + 16) / len(steps)
    for number, (title, draw, words) in enumerate(steps):
        left = MARGIN + number * pitch
        parts += [panel(left, MARGIN, pitch - 16, 350, title),
                  *draw(left + (pitch - 16 - SIDE) / 2),
                  text(left + (pitch - 16) / 2, TOP + SIDE + 32, *words, colour=MUTED)]
    return document(WIDTH, 398, "From a scene to its map by overlapping windows", parts)


def window_at(x, row, column, starts, **style):
    """The outline of a window on the scene at (x, TOP)."""
    return element("rect", x=x + SCALE * starts[column], y=TOP + SCALE * starts[row],
                   width=SCALE * WINDOW, height=SCALE * WINDOW, **style)


def draw_grid(x, starts):
    parts = [show("scene", x, TOP, SIDE)]
    for row, column in itertools.product(range(len(starts)), repeat=2):
        parts.append(window_at(x, row, column, starts, fill="none", stroke="#ffffff",
                               stroke_width=1.2, opacity="0.75"))
    for column, style in ((1, STRIDED), (2, ATROUS)):
        parts.append(window_at(x, 1, column, starts, fill=style[0], fill_opacity="0.45",
                               stroke=style[1], stroke_width=2.4))
    return parts


def draw_turns(x):
    side, pitch, middle = 42, 62, TOP + SIDE / 2
    net, maps, mean = x + 62, x + 116, x + SIDE - side
    parts = [box(net, TOP, 34, SIDE, PLAIN),
             text(net + 22, middle, "Deeplab-v3, softmax", weight="bold",
                  transform=f"rotate(-90 {net + 22:g} {middle:g})")]
    for turns in range(4):
        y = TOP + turns * pitch
        centre = y + side / 2
        parts += [show("scene", x, y, side, turns),
                  arrow((x + side + 2, centre), (net - 2, centre)),
                  arrow((net + 36, centre), (maps - 2, centre)),
                  show("map", maps, y, side, turns),
                  curve([(maps + side + 2, centre), (maps + side + 12, centre),
                         (maps + side + 12, middle)], LINE, 1.8)]
    return parts + [arrow((maps + side + 12, middle), (mean - 2, middle)),
                    show("map", mean, middle - side / 2, side)]


def draw_weights(x, starts, blend):
    weights = window_weights(starts, WINDOW, blend)
    bottom, height = TOP + SIDE - 24, 164
    parts = [curve([(x, bottom), (x + SIDE, bottom)], LINE, 1.4),
             text(x + SIDE / 2, bottom - height - 11, "sum: 1", size=14, weight="bold")]
    for number, (start, row) in enumerate(zip(starts, weights)):
        points = [(x + SCALE * (start + place + 0.5), bottom - height * float(row[place]))
                  for place in range(0, WINDOW, 5)]
        colour = {1: STRIDED[1], 2: ATROUS[1]}.get(number, PLAIN[1])
        parts.append(curve(points, colour, 2.6 if number in (1, 2) else 1.6))
    parts.append(curve([(x, bottom - height), (x + SIDE, bottom - height)], INK, 2.4))
    for pixel in range(0, SCENE + 1, WINDOW):
        place = x + SCALE * pixel
        parts += [curve([(place, bottom), (place, bottom + 5)], LINE, 1.4),
                  text(place, bottom + 21, str(pixel), size=13, colour=MUTED)]
    return parts


def draw_bands(x, starts):
    row = 3
    closed, opened = SCALE * starts[row], SCALE * WINDOW
    parts = [show("map", x, TOP, SIDE),
             element("rect", x=x, y=TOP + closed, width=SIDE, height=SIDE - closed, fill=PANEL,
                     opacity="0.9")]
    for column in (0, 1):
        parts.append(window_at(x, row, column, starts, fill=ATROUS[0], fill_opacity="0.5",
                               stroke=ATROUS[1], stroke_width=2))
    for start in starts[1:row + 1]:
        parts.append(curve([(x, TOP + SCALE * start), (x + SIDE, TOP + SCALE * start)], STRIDED[1]))
    return parts + [text(x + SIDE / 2, TOP + closed + opened + 22, "still to come", size=14)]
