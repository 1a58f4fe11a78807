"""The street plan of a synthetic scene: where roads run, and what each block between them is."""

import cv2
import numpy as np

BLOCK_AREA = 52000  # pixels, about
WIDTHS = (38, 34, 30, 26, 22)  # pixels; of the first cuts, then narrower
USES = {"built": .66, "park": .11, "pond": .12, "bare": .11}


def split_blocks(rng, height, width):
    """Cuts the plane into convex blocks by roads that meet at any angle.

    Returns blocks (list of float [corners, 2]; x, y in pixels; they may reach over the edge) and
    roads (list of (start, end, width, surface); side roads first, to be drawn over by wider ones).
    """
    side = 1.05 * np.hypot(height, width)
    square = cv2.boxPoints(((width / 2, height / 2), (side, side), rng.uniform(0, 90)))
    blocks, roads, queue = [], [], [(square, 0)]
    while queue:
        polygon, depth = queue.pop()
        if cv2.contourArea(polygon) < BLOCK_AREA * rng.uniform(.9, 1.8):
            blocks.append(polygon)
            continue
        parts, (start, end) = cut_polygon(rng, polygon)
        queue += [(part, depth + 1) for part in parts]
        surface = "asphalt" if depth < 2 else str(rng.choice(["asphalt", "concrete", "dirt"]))
        roads.append((depth, (start, end, WIDTHS[min(depth, len(WIDTHS) - 1)], surface)))
    roads.sort(key=lambda road: -road[0])
    return blocks, [road for _, road in roads]


def cut_polygon(rng, polygon):
    """Cuts a convex polygon in two, more or less across its longer axis, so that none gets thin.

    polygon: float [corners, 2]. Returns (two such polygons, the cut's two ends).
    """
    corners = cv2.boxPoints(cv2.minAreaRect(polygon))
    longer = max(corners[1] - corners[0], corners[2] - corners[1], key=np.linalg.norm)
    turn = rng.uniform(-.38, .38)
    normal = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ longer
    distance = (polygon - polygon.mean(0)) @ (normal / np.linalg.norm(normal))
    distance -= rng.uniform(-.12, .12) * np.ptp(distance)

    parts, ends = ([], []), []
    for i, corner in enumerate(polygon):
        parts[int(distance[i] > 0)].append(corner)
        j = (i + 1) % len(polygon)
        if (distance[i] > 0) != (distance[j] > 0):
            share = distance[i] / (distance[i] - distance[j])
            ends.append(corner + share * (polygon[j] - corner))
            for part in parts:
                part.append(ends[-1])
    return [np.float32(part) for part in parts], ends


def assign_uses(rng, areas):
    """A name from USES for each block, so that by area (pixels, [blocks]) their shares are met."""
    uses, missing = [None] * len(areas), dict(USES)
    for index in sorted(rng.permutation(len(areas)), key=lambda i: -areas[i]):
        use = max(missing, key=lambda name: missing[name] + rng.uniform(0, .02))
        uses[index] = use
        missing[use] -= areas[index] / areas.sum()
    return uses
