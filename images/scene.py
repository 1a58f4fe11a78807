"""The little scene of the diagrams, as it looks from above and as a class map."""

import os

from images.svg import LINE, element
from utils.classes import read_classes

CLASSES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "dataset", "classes.csv")
# Of land, plants, roads, houses and water; the map has the class table's.
SCENE_COLOURS = ("#e6ddc9", "#8fae74", "#77787c", "#b98f78", "#5d8fb3")


def both_scenes():
    """Definitions of 'scene' and 'map', which `show` refers to."""
    table = [row["colour"] for row in read_classes(CLASSES).to_settings()]
    return [_definition("scene", SCENE_COLOURS), _definition("map", table)]


def show(name, x, y, side, turns=0):
    """A little scene at (x, y), turned counter-clockwise by quarters."""
    turned = f" rotate({-90 * turns} 50 50)" if turns else ""
    place = f"translate({x:g} {y:g}) scale({side / 100:g}){turned}"
    return (element("use", href=f"#{name}", transform=place)
            + element("rect", x=x, y=y, width=side, height=side, fill="none", stroke=LINE))


def _definition(name, colours):
    """<defs> of a scene of 100 x 100, in colours of land, plants, roads, houses and water."""
    land, plants, roads, houses, water = (colours[i % len(colours)] for i in range(5))
    parts = [element("rect", width=100, height=100, fill=land),
             element("path", d="M0 60C18 54 34 66 40 80C44 90 40 98 38 100L0 100Z", fill=water),
             element("path", d="M64 0L100 0L100 32C86 40 70 30 64 0Z", fill=plants),
             element("path", d="M46 100C50 88 62 86 78 100Z", fill=plants),
             element("path", d="M-5 45C30 40 60 53 105 46M51 -5C49 40 56 70 86 105", fill="none",
                     stroke=roads, stroke_width=6.5)]
    parts += [element("rect", x=x, y=y, width=width, height=height, fill=houses)
              for x, y, width, height in ((8, 9, 14, 12), (29, 8, 11, 17), (9, 28, 14, 9),
                                          (30, 31, 13, 7), (68, 57, 15, 10), (88, 57, 9, 14),
                                          (79, 75, 12, 11))]
    clip = element("clipPath", element("rect", width=100, height=100), id=f"{name}-frame")
    return element("defs", clip + element("g", "".join(parts), id=name,
                                          clip_path=f"url(#{name}-frame)"))
