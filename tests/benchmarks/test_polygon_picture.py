"""benchmarks/polygon_picture.py: polygons are drawn where they lie, the inner ones over the outer."""

import numpy as np
import shapely

from benchmarks.polygon_picture import GRID, draw, in_part
from utils.classes import ClassTable

TABLE = ClassTable(("grass", "house"), np.array([[0, 200, 0], [200, 0, 0]], np.uint8))


def on_ground(left, top, right, bottom):
    """A rectangle of the scene's pixels in its CRS."""
    return shapely.box(*(GRID * (left, bottom)), *(GRID * (right, top)))


def test_polygons_are_drawn_in_the_part_by_class_and_holes_are_left_to_others():
    grass, house, far = (on_ground(*corners) for corners in (
        (100, 50, 300, 250), (150, 100, 190, 140), (900, 900, 950, 950)))
    polygons = in_part(np.array([house, grass.difference(house), far]), (50, 100, 200, 200))
    assert polygons[0].bounds == (50, 50, 90, 90) and polygons[2].is_empty
    image = np.full((200, 200, 3), 100, np.uint8)
    classes, hectares = np.array(["house", "grass", "grass"], object), np.array([.04, .96, .06])
    picture = draw(image, polygons, classes, hectares, TABLE)
    red, green, _ = picture[53, 70].astype(int)
    assert red > 120 > green
    red, green, _ = picture[20, 20].astype(int)
    assert green > 120 > red
    assert (picture == 255).all(-1).any()  # the names
