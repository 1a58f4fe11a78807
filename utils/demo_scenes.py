"""Synthetic scenes for trying the repo without a data set: `python -m utils.demo_scenes`.

Shapes, textures and shadows tell the classes apart; colours are shared between them on purpose.
"""

import argparse
import os
from dataclasses import dataclass

import cv2
import numpy as np
from tqdm import tqdm

from utils.command_line import positive, run_script
from utils.files import write_text
from utils.scenes import LABEL_SUFFIX, find_scenes, write_png

# The ids of dataset/classes.csv.
OTHER, VEGETATION, ROAD, BUILDING, WATER = range(5)

GROUNDS = [(172, 150, 118), (150, 146, 138), (146, 112, 84), (128, 126, 122)]
LAWNS = [(104, 126, 72), (122, 132, 84)]
CANOPIES = [(58, 84, 50), (70, 92, 52)]
WATERS = [(58, 78, 56), (72, 80, 80), (56, 74, 92)]
SURFACES = {"asphalt": (104, 104, 106), "concrete": (158, 154, 146), "dirt": (162, 138, 106)}
ROOFS = [(106, 106, 108), (170, 148, 116), (92, 116, 72), (150, 116, 88), (154, 152, 148),
         (158, 88, 66), (82, 92, 84)]
USES = {"built": .66, "park": .11, "pond": .12, "bare": .11}
BLOCK_AREA = 52000
CROWN_SPACING = 11
MARKER = "synthetic.txt"


@dataclass(frozen=True)
class Conditions:
    """How a scene was 'taken'; shadows fall `sun` degrees from east, clockwise."""

    height: float  # in units of --size
    width: float
    sun: float
    haze: float  # share of light that comes from the haze
    warmth: float  # red gained and blue lost
    noise: float  # grey levels


# Scene 5 is held out: its haze, warmth and noise lie inside the range of the other four.
SCENES = {"1": Conditions(.977, 1.074, 40, .02, .06, 3.0),
          "2": Conditions(1.016, .957, 130, .20, -.05, 4.5),
          "3": Conditions(1.055, .996, 215, .08, -.02, 6.0),
          "4": Conditions(.938, 1.035, 300, .15, .03, 3.5),
          "5": Conditions(.977, 1.074, 75, .11, .015, 4.5)}


def draw_scene(rng, height, width, conditions):
    """Draws one scene: (image uint8 [height, width, 3] RGB, label uint8 [height, width])."""
    shape = (height, width)
    blocks, roads = split_blocks(rng, height, width)
    label = np.zeros(shape, np.uint8)
    image = np.zeros((*shape, 3), np.float32)
    shadow = np.zeros(shape, bool)
    angle = np.deg2rad(conditions.sun)
    sun = np.array([np.cos(angle), np.sin(angle)])

    block_map = np.full(shape, -1, np.int32)
    for index, block in enumerate(blocks):
        cv2.fillConvexPoly(block_map, np.round(block).astype(np.int32), index)
    uses = assign_uses(rng, np.bincount(block_map[block_map >= 0], minlength=len(blocks)))
    draw_ground(rng, image, label, block_map, uses)
    draw_water(rng, image, label, block_map, uses)
    draw_roads(rng, image, label, roads)
    draw_trees(rng, image, label, shadow, roads, sun)
    for block, use in zip(blocks, uses):
        if use == "built":
            draw_buildings(rng, image, label, shadow, block, sun)
    image[shadow & (label != BUILDING)] *= (.46, .49, .55)
    return expose(rng, image, conditions), label


def smooth_noise(rng, shape, scale):
    """Gaussian noise of about unit variance, smooth over `scale` pixels; float32 [*shape]."""
    rows, columns = (int(np.ceil(side / scale)) + 3 for side in shape)
    grid = rng.standard_normal((rows, columns), np.float32) * 1.3
    field = cv2.resize(grid, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    return field[scale:scale + shape[0], scale:scale + shape[1]]


def paint(image, mask, colour, shade):
    """Sets image[mask] to `colour` (RGB) times 1 + `shade` (float [height, width])."""
    image[mask] = np.float32(colour) * (1 + shade[mask][:, None])


def split_blocks(rng, height, width):
    """Cuts the plane into convex blocks by roads that meet at any angle.

    Returns blocks (list of float [corners, 2] x, y) and roads (list of (start, end, width,
    surface), narrow side roads first, so that wide ones are drawn over them).
    """
    side = 1.05 * np.hypot(height, width)
    square = cv2.boxPoints(((width / 2, height / 2), (side, side), rng.uniform(0, 90)))
    blocks, roads, queue = [], [], [(square, 0)]
    while queue:
        polygon, depth = queue.pop()
        if cv2.contourArea(polygon) < BLOCK_AREA * rng.uniform(.9, 1.8):
            blocks.append(polygon)
            continue
        # Across the longer axis, more or less, so that no block gets thin.
        corners = cv2.boxPoints(cv2.minAreaRect(polygon))
        sides = corners[1] - corners[0], corners[2] - corners[1]
        along = max(sides, key=np.linalg.norm)
        turn = rng.uniform(-.38, .38)
        normal = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ along
        normal /= np.linalg.norm(normal)
        signed = (polygon - polygon.mean(0)) @ normal
        signed -= rng.uniform(-.12, .12) * np.ptp(signed)
        parts, cut = ([], []), []
        for i, point in enumerate(polygon):
            parts[int(signed[i] > 0)].append(point)
            j = (i + 1) % len(polygon)
            if (signed[i] > 0) != (signed[j] > 0):
                share = signed[i] / (signed[i] - signed[j])
                cut.append(point + share * (polygon[j] - point))
                parts[0].append(cut[-1])
                parts[1].append(cut[-1])
        queue += [(np.float32(part), depth + 1) for part in parts]
        surface = "asphalt" if depth < 2 else rng.choice(["asphalt", "concrete", "dirt"])
        wide = (38, 34, 30, 26)[depth] if depth < 4 else 22
        roads.append((*cut, wide, surface, depth))
    roads.sort(key=lambda road: -road[-1])
    return blocks, [road[:-1] for road in roads]


def assign_uses(rng, areas):
    """Names a use for each block (list of str) so that the shares of USES are met by area."""
    uses, total = ["bare"] * len(areas), max(areas.sum(), 1)
    missing = dict(USES)
    for index in sorted(rng.permutation(len(areas)), key=lambda i: -areas[i]):
        use = max(missing, key=lambda name: missing[name] + rng.uniform(0, .02))
        uses[index] = use
        missing[use] -= areas[index] / total
    return uses


def draw_ground(rng, image, label, block_map, uses):
    """Bare ground in softly mottled earth colours, and lawns with a finer grain."""
    shape = label.shape
    soil = .07 * smooth_noise(rng, shape, 26) + .06 * smooth_noise(rng, shape, 9)
    grass = .05 * smooth_noise(rng, shape, 40) + .09 * smooth_noise(rng, shape, 4)
    paint(image, block_map < 0, GROUNDS[0], soil)
    for index, use in enumerate(uses):
        inside = block_map == index
        if use in ("park", "pond") or use == "built" and index % 4 == 0:
            paint(image, inside, LAWNS[rng.integers(len(LAWNS))], grass)
            label[inside] = VEGETATION
        else:
            paint(image, inside, GROUNDS[rng.integers(len(GROUNDS))], soil)


def draw_water(rng, image, label, block_map, uses):
    """A winding river with green banks and one pond in each pond block; faint long ripples."""
    shape = height, width = label.shape
    y, x = np.indices(shape, np.float32)
    angle = rng.uniform(0, np.pi)
    across = (x - width / 2) * np.cos(angle) + (y - height / 2) * np.sin(angle)
    along = (y - height / 2) * np.cos(angle) - (x - width / 2) * np.sin(angle)
    bend = np.sin(along / rng.uniform(110, 160) + rng.uniform(0, 6)) * rng.uniform(40, 70)
    offset = rng.uniform(-.18, .18) * min(shape)
    far = np.abs(across - bend - offset) + 5 * smooth_noise(rng, shape, 60)
    half = rng.uniform(36, 46)
    label[far < half + 24] = VEGETATION
    paint(image, far < half + 24, LAWNS[0], .09 * smooth_noise(rng, shape, 4))

    ripples = .025 * np.sin((x * np.sin(angle) + y * np.cos(angle)) / 1.6
                            + 2 * smooth_noise(rng, shape, 30)) + .04 * smooth_noise(rng, shape, 90)
    edge = .08 * smooth_noise(rng, shape, 48)
    colours = [WATERS[i] for i in rng.permutation(len(WATERS))]
    wet = [(far < half, colours[0])]
    for index, use in enumerate(uses):
        if use == "pond":
            roundish = cv2.GaussianBlur((block_map == index).astype(np.float32), (0, 0), 22)
            wet.append((roundish + edge > .78, colours[1 + index % 2]))
    for mask, colour in wet:
        paint(image, mask, colour, ripples)
        label[mask] = WATER


def draw_roads(rng, image, label, roads):
    """Roads with kerbs and lane markings, dirt roads with wheel tracks; bridges over water."""
    shape = label.shape
    grain = .03 * smooth_noise(rng, shape, 50) + .02 * smooth_noise(rng, shape, 3)
    for start, end, wide, surface in roads:  # all kerbs first: junctions stay open
        mask = _line(shape, start, end, wide)
        paint(image, mask, np.float32(SURFACES[surface]) * 1.3, grain)
        label[mask] = ROAD
    for start, end, wide, surface in roads:
        paint(image, _line(shape, start, end, wide - 6), SURFACES[surface], grain)
        direction = (end - start) / np.linalg.norm(end - start)
        if surface == "dirt":
            track = 5 * np.array([-direction[1], direction[0]])
            for side in (track, -track):
                image[_line(shape, start + side, end + side, 3)] *= .84
        else:
            for at in np.arange(0, np.linalg.norm(end - start), 26):
                dash = start + at * direction
                image[_line(shape, dash, dash + 13 * direction, 2)] = (214, 212, 204)


def draw_trees(rng, image, label, shadow, roads, sun):
    """Woods in parks, clumps on bare ground, and rows along roads; crowns lit from one side."""
    shape = height, width = label.shape
    wooded = smooth_noise(rng, shape, 60)
    wanted = (label == VEGETATION) & (wooded > -.35) | (label == OTHER) & (wooded > 1.5)
    for start, end, wide, surface in roads:
        if rng.random() < .55:
            direction = (end - start) / np.linalg.norm(end - start)
            beside = np.array([-direction[1], direction[0]]) * rng.choice((-1, 1)) * (wide / 2 + 14)
            wanted |= _line(shape, start + beside, end + beside, 20)

    # Each pixel belongs to the crown of the nearest stem, so woods end in whole crowns.
    rows, columns = np.mgrid[0:height:CROWN_SPACING, 0:width:CROWN_SPACING].reshape(2, -1)
    jitter = rng.integers(0, CROWN_SPACING - 2, (2, rows.size))
    rows, columns = np.minimum(rows + jitter[0], height - 1), np.minimum(columns + jitter[1],
                                                                         width - 1)
    no_stem = np.ones(shape, np.uint8)
    no_stem[rows, columns] = 0
    distance, nearest = cv2.distanceTransformWithLabels(
        no_stem, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    stem = np.zeros(nearest.max() + 1, np.intp)
    stem[nearest[rows, columns]] = np.arange(rows.size)
    crown = stem[nearest]
    canopy = wanted[rows, columns][crown] & ((label == VEGETATION) | (label == OTHER))

    slope_y, slope_x = np.gradient(cv2.GaussianBlur(distance, (0, 0), 1))
    light = .55 * (slope_x * sun[0] + slope_y * sun[1])
    # Crowns fall off away from the sun, whose light comes from -sun.
    shade = -light - .05 * distance + .1 + .14 * rng.standard_normal(rows.size)[crown]
    paint(image, canopy, CANOPIES[rng.integers(len(CANOPIES))], np.clip(shade, -.6, .8))
    label[canopy] = VEGETATION
    move = np.float32([[1, 0, 6 * sun[0]], [0, 1, 6 * sun[1]]])
    moved = cv2.warpAffine(canopy.astype(np.uint8), move, (width, height), flags=cv2.INTER_NEAREST)
    shadow |= (moved > 0) & ~canopy


def draw_buildings(rng, image, label, shadow, block, sun):
    """Rows of houses along the block's longest side, each wholly on free ground of the block."""
    sides = np.roll(block, -1, 0) - block
    along = sides[np.linalg.norm(sides, axis=1).argmax()]
    axes = np.stack([along, [-along[1], along[0]]]) / np.linalg.norm(along)
    low, high = (block @ axes.T).min(0), (block @ axes.T).max(0)
    palette = rng.choice(len(ROOFS), 3, replace=False)
    v = low[1]
    while v < high[1] - 40:
        depth, u, row_built = rng.uniform(46, 76), low[0], False
        while u < high[0] - 40:
            length = rng.uniform(46, 100)
            centre = np.array([u + length / 2, v + depth / 2]) @ axes
            built = _draw_building(rng, image, label, shadow, block, centre, axes,
                                   (length / 2, depth / 2), ROOFS[rng.choice(palette)], sun)
            u += length + rng.uniform(14, 22) if built else 8
            row_built |= built
        v += depth + rng.uniform(14, 24) if row_built else 8


def _draw_building(rng, image, label, shadow, block, centre, axes, half, colour, sun):
    """One gabled or flat roof and its shadow; False where the ground is not free."""
    tall = rng.uniform(10, 20)
    reach = int(np.hypot(*half) + tall) + 2
    left, top = np.maximum(np.round(centre).astype(int) - reach, 0)
    window = np.s_[top:max(top, int(centre[1]) + reach), left:max(left, int(centre[0]) + reach)]
    part = label[window]
    if part.size == 0:
        return False
    y, x = np.indices(part.shape)
    points = np.stack([x + left - centre[0], y + top - centre[1]], -1)
    u, v = np.moveaxis(points @ axes.T, -1, 0)
    notch = rng.uniform(0, .3, 2) if rng.random() < .3 else (2, 2)  # 2: outside, no notch

    def covers(u, v):
        corner = (u > notch[0] * half[0]) & (v > notch[1] * half[1])
        return (abs(u) < half[0]) & (abs(v) < half[1]) & ~corner

    roof = covers(u, v)
    corners = centre + np.array([[a, b] for a in (-1, 1) for b in (-1, 1)]) * half @ axes
    within = min(cv2.pointPolygonTest(block, tuple(map(float, corner)), True)
                 for corner in corners)
    if within < 22 or np.isin(part[roof], (ROAD, WATER, BUILDING)).any():
        return False
    gabled = notch[0] == 2 and rng.random() < .6
    facing = -1 if axes[1] @ sun > 0 else 1
    if gabled:
        shade = .2 * facing * np.sign(v) + .07 * np.sign(np.sin(u))  # rows of tiles
        shade[abs(v) < 1.5] = .35
    else:
        inner = covers(u + 4 * np.sign(u), v + 4 * np.sign(v))
        shade = np.where(inner, .05 * np.sign(np.sin(v / 1.5)), .3)  # parapet
    paint(image[window], roof, colour, shade + .02 * rng.standard_normal(shade.shape))
    part[roof] = BUILDING
    slide = axes @ sun
    for step in np.arange(2, tall, 2):
        shadow[window] |= covers(u - step * slide[0], v - step * slide[1])
    return True


def expose(rng, image, conditions):
    """Optics, haze, colour cast and sensor noise: float RGB [h, w, 3] -> uint8."""
    image = cv2.GaussianBlur(image, (0, 0), .6)
    haze = conditions.haze * (1 + .25 * smooth_noise(rng, image.shape[:2], 300))[..., None]
    image += np.clip(haze, 0, 1) * (np.float32((200, 206, 214)) - image)
    image *= np.float32((1 + conditions.warmth, 1, 1 - conditions.warmth))
    noise = rng.standard_normal(image.shape, np.float32) * conditions.noise
    return np.clip(np.round(image + noise * (.4 + image / 200)), 0, 255).astype(np.uint8)


def _line(shape, start, end, wide):
    """Bool [height, width]: the pixels of a line `wide` pixels thick."""
    mask = np.zeros(shape, np.uint8)
    first, last = (tuple(map(int, np.round(point))) for point in (start, end))
    cv2.line(mask, first, last, 1, int(wide))
    return mask > 0


def write_demo_scenes(folder, seed, size):
    """Draws SCENES into `folder` as N.png and N_class.png, each about `size` pixels a side.

    Raises ValueError where `folder` holds scenes that are not synthetic: they stay as they are.
    """
    marker = os.path.join(folder, MARKER)
    if not os.path.exists(marker):
        try:
            names = ", ".join(find_scenes(folder))
        except FileNotFoundError:
            pass
        else:
            raise ValueError(f"{folder}: holds scenes that were not drawn here ({names}); "
                             "choose another folder with --out")
    write_text(marker, f"Synthetic scenes of utils.demo_scenes, seed {seed}, size {size}.\n")
    for name, conditions in tqdm(SCENES.items(), unit="scene"):
        rng = np.random.default_rng([seed, int(name)])
        height, width = round(conditions.height * size), round(conditions.width * size)
        image, label = draw_scene(rng, height, width, conditions)
        write_png(os.path.join(folder, f"{name}.png"), image)
        write_png(os.path.join(folder, f"{name}{LABEL_SUFFIX}.png"), label)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", default="dataset/demo/origin", metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument("--size", type=positive, default=1024, help="pixels a side, about")
    args = parser.parse_args()
    write_demo_scenes(args.out, args.seed, args.size)
    print(f"{args.out}: {len(SCENES)} synthetic scenes with their labels")


if __name__ == "__main__":
    run_script(main)
