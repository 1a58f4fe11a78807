"""Synthetic scenes for trying the repo without a data set.

    python -m utils.data.demo_scenes --out dataset/demo/origin

Shapes, textures and shadows tell the classes apart; colours are shared between them on purpose.
"""

import contextlib
import os
from dataclasses import dataclass

import cv2
import numpy as np
from tqdm import tqdm

from utils.cli import natural, plain_parser, positive, run_script
from utils.files import write_text
from utils.data.scenes import LABEL_SUFFIX, find_scenes, write_png
from utils.data.street_plan import assign_uses, split_blocks

# The ids of dataset/classes.csv.
OTHER, VEGETATION, ROAD, BUILDING, WATER = range(5)

GROUNDS = [(172, 150, 118), (150, 146, 138), (146, 112, 84), (128, 126, 122)]
LAWNS = [(104, 126, 72), (122, 132, 84)]
CANOPIES = [(58, 84, 50), (70, 92, 52)]
WATERS = [(58, 78, 56), (72, 80, 80), (56, 74, 92)]
SURFACES = {"asphalt": (104, 104, 106), "concrete": (158, 154, 146), "dirt": (162, 138, 106)}
KERBS = {"asphalt": (136, 136, 138), "concrete": (204, 200, 190), "dirt": (190, 162, 126)}
LANE_MARKING = (214, 212, 204)
ROOFS = [(106, 106, 108), (170, 148, 116), (92, 116, 72), (150, 116, 88), (154, 152, 148),
         (158, 88, 66), (82, 92, 84)]
CROWN_SPACING = 11  # pixels
SMALLEST = 300  # pixels a side, so that tiles of 256 fit
MARKER = "synthetic.txt"


@dataclass(frozen=True)
class Conditions:
    """How a scene was 'taken'. Shadows fall `sun` degrees from the right, clockwise."""

    height: float  # in units of --size
    width: float
    sun: float
    haze: float  # share of the light
    warmth: float  # red gained and blue lost
    noise: float  # grey levels


# Scene 5 is held out: its haze, warmth and noise lie inside the range of the other four.
SCENES = {"1": Conditions(.977, 1.074, 40, .02, .06, 3.0),
          "2": Conditions(1.016, .957, 130, .20, -.05, 4.5),
          "3": Conditions(1.055, .996, 215, .08, -.02, 6.0),
          "4": Conditions(.938, 1.035, 300, .15, .03, 3.5),
          "5": Conditions(.977, 1.074, 75, .11, .015, 4.5)}


@dataclass(frozen=True)
class Canvas:
    """A scene being drawn; the arrays are drawn on in place."""

    image: np.ndarray  # float32 [height, width, 3], RGB
    label: np.ndarray  # uint8 [height, width]
    shadow: np.ndarray  # bool [height, width]
    sun: np.ndarray  # unit vector (x, y) along which shadows fall

    def paint(self, mask, colour, shade, kind):
        """Where `mask`: `colour` (RGB) times 1 + `shade` (float [height, width]), class `kind`."""
        self.image[mask] = np.float32(colour) * (1 + shade[mask][:, None])
        self.label[mask] = kind


def draw_scene(rng, height, width, conditions):
    """Draws one scene: (image uint8 [height, width, 3] RGB, label uint8 [height, width])."""
    angle = np.deg2rad(conditions.sun)
    canvas = Canvas(np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.uint8),
                    np.zeros((height, width), bool), np.array([np.cos(angle), np.sin(angle)]))
    blocks, roads = split_blocks(rng, height, width)
    block_map = np.zeros((height, width), np.int32)
    for index, block in enumerate(blocks):
        cv2.fillConvexPoly(block_map, np.round(block).astype(np.int32), index)
    uses = assign_uses(rng, np.bincount(block_map.ravel(), minlength=len(blocks)))

    draw_ground(rng, canvas, block_map, uses)
    draw_water(rng, canvas, block_map, uses)
    draw_roads(rng, canvas, roads)
    draw_trees(rng, canvas, roads)
    for block, use in zip(blocks, uses):
        if use == "built":
            draw_buildings(rng, canvas, block)
    # A shadow takes light away and nothing else: the label stays that of the ground.
    canvas.image[canvas.shadow & (canvas.label != BUILDING)] *= (.46, .49, .55)
    return expose(rng, canvas.image, conditions), canvas.label


def smooth_noise(rng, shape, scale):
    """Gaussian noise of about unit variance, smooth over `scale` pixels; float32 [*shape]."""
    rows, columns = (int(np.ceil(side / scale)) + 3 for side in shape)
    grid = rng.standard_normal((rows, columns), np.float32) * 1.3
    field = cv2.resize(grid, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    return field[scale:scale + shape[0], scale:scale + shape[1]]


def draw_ground(rng, canvas, block_map, uses):
    """Bare ground in softly mottled earth colours, and lawns with a finer grain."""
    shape = block_map.shape
    soil = .07 * smooth_noise(rng, shape, 26) + .06 * smooth_noise(rng, shape, 9)
    grass = .05 * smooth_noise(rng, shape, 40) + .09 * smooth_noise(rng, shape, 4)
    for index, use in enumerate(uses):
        inside = block_map == index
        if use in ("park", "pond") or use == "built" and index % 4 == 0:
            canvas.paint(inside, LAWNS[rng.integers(len(LAWNS))], grass, VEGETATION)
        else:
            canvas.paint(inside, GROUNDS[rng.integers(len(GROUNDS))], soil, OTHER)


def draw_water(rng, canvas, block_map, uses):
    """A pond in each pond block, and a winding river with green banks; faint ripples."""
    shape = height, width = block_map.shape
    y, x = np.indices(shape, np.float32)
    cos, sin = _axes(rng.standard_normal(2))[0]
    ripples = (.025 * np.sin((x * sin + y * cos) / 1.6 + 2 * smooth_noise(rng, shape, 30))
               + .04 * smooth_noise(rng, shape, 90))
    colours = [WATERS[i] for i in rng.permutation(len(WATERS))]
    shore = .08 * smooth_noise(rng, shape, 48)
    for index in np.flatnonzero(np.array(uses) == "pond"):
        roundish = cv2.GaussianBlur((block_map == index).astype(np.float32), (0, 0), 22)
        canvas.paint(roundish + shore > .78, colours[1 + index % 2], ripples, WATER)

    across = (x - width / 2) * cos + (y - height / 2) * sin
    along = (y - height / 2) * cos - (x - width / 2) * sin
    bend = np.sin(along / rng.uniform(110, 160) + rng.uniform(0, 6)) * rng.uniform(40, 70)
    from_middle = np.abs(across - bend - rng.uniform(-.18, .18) * min(shape))
    from_middle += 5 * smooth_noise(rng, shape, 60)
    half = rng.uniform(36, 46)
    canvas.paint(from_middle < half + 24, LAWNS[0], .09 * smooth_noise(rng, shape, 4), VEGETATION)
    canvas.paint(from_middle < half, colours[0], ripples, WATER)


def draw_roads(rng, canvas, roads):
    """Roads with kerbs and lane markings, dirt roads with wheel tracks; bridges over water."""
    shape = canvas.label.shape
    grain = .03 * smooth_noise(rng, shape, 50) + .02 * smooth_noise(rng, shape, 3)
    for start, end, wide, surface in roads:  # all kerbs first: junctions stay open
        canvas.paint(_lines(shape, [(start, end)], wide), KERBS[surface], grain, ROAD)
    for start, end, wide, surface in roads:
        canvas.paint(_lines(shape, [(start, end)], wide - 6), SURFACES[surface], grain, ROAD)
        direction, across = _axes(end - start)
        if surface == "dirt":
            tracks = [(start + side * across, end + side * across) for side in (-5, 5)]
            canvas.image[_lines(shape, tracks, 3)] *= .84
        else:
            at = np.arange(0, np.linalg.norm(end - start), 26)[:, None] * direction + start
            canvas.image[_lines(shape, zip(at, at + 13 * direction), 2)] = LANE_MARKING


def draw_trees(rng, canvas, roads):
    """Woods in parks, clumps on bare ground, rows along roads; crowns are lit from one side."""
    label, shape = canvas.label, canvas.label.shape
    wooded = smooth_noise(rng, shape, 60)
    wanted = (label == VEGETATION) & (wooded > -.35) | (label == OTHER) & (wooded > 1.5)
    for start, end, wide, _ in roads:
        if rng.random() < .55:
            beside = _axes(end - start)[1] * rng.choice((-1, 1)) * (wide / 2 + 11)
            wanted |= _lines(shape, [(start + beside, end + beside)], 24)

    # Each pixel belongs to the crown of the nearest stem, so woods end in whole crowns.
    stems = np.mgrid[:shape[0]:CROWN_SPACING, :shape[1]:CROWN_SPACING].reshape(2, -1)
    stems = stems + rng.integers(0, CROWN_SPACING - 2, stems.shape)
    y, x = stems[:, (stems < np.array(shape)[:, None]).all(0)]
    no_stem = np.ones(shape, np.uint8)
    no_stem[y, x] = 0
    distance, nearest = cv2.distanceTransformWithLabels(
        no_stem, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    order = np.zeros(nearest.max() + 1, np.intp)
    order[nearest[y, x]] = np.arange(len(y))
    crown = order[nearest]
    canopy = wanted[y, x][crown] & np.isin(label, (VEGETATION, OTHER))

    slope_y, slope_x = np.gradient(cv2.GaussianBlur(distance, (0, 0), 1))
    light = .1 - .55 * (slope_x * canvas.sun[0] + slope_y * canvas.sun[1]) - .05 * distance
    shade = np.clip(light + .14 * rng.standard_normal(len(y))[crown], -.6, .8)
    canvas.paint(canopy, CANOPIES[rng.integers(len(CANOPIES))], shade, VEGETATION)
    move = np.hstack([np.eye(2), 6 * canvas.sun[:, None]])
    cast = cv2.warpAffine(canopy.astype(np.uint8), move, shape[::-1], flags=cv2.INTER_NEAREST)
    canvas.shadow[(cast > 0) & ~canopy] = True


def draw_buildings(rng, canvas, block):
    """Rows of buildings along the longest side of `block`, wherever the ground is free."""
    sides = np.roll(block, -1, 0) - block
    axes = _axes(max(sides, key=np.linalg.norm))
    low, high = (block @ axes.T).min(0), (block @ axes.T).max(0)
    palette = rng.choice(len(ROOFS), 3, replace=False)
    v = low[1]
    while v < high[1] - 40:
        depth, u, row_built = rng.uniform(46, 76), low[0], False
        while u < high[0] - 40:
            size = np.array([rng.uniform(46, 100), depth])
            built = draw_building(rng, canvas, block, (u, v) + size / 2, axes, size / 2,
                                  ROOFS[rng.choice(palette)])
            u += size[0] + rng.uniform(14, 22) if built else 8
            row_built |= built
        v += depth + rng.uniform(14, 24) if row_built else 8


def draw_building(rng, canvas, block, centre, axes, half, colour):
    """Draws a gabled or flat roof with its shadow; False, and nothing, on ground not free.

    centre, half: middle and half the sides, in pixels along `axes` (two unit vectors, rows).
    """
    corners = (centre + half * [(-1, -1), (-1, 1), (1, -1), (1, 1)]) @ axes
    if min(cv2.pointPolygonTest(block, tuple(xy), True) for xy in corners.tolist()) < 22:
        return False
    reach = int(np.hypot(*half)) + 24
    left, top = np.maximum(np.round(centre @ axes).astype(int) - reach, 0)
    window = np.s_[top:top + 2 * reach, left:left + 2 * reach]
    part = Canvas(canvas.image[window], canvas.label[window], canvas.shadow[window], canvas.sun)
    y, x = np.indices(part.label.shape)
    u, v = np.moveaxis(np.stack([x + left, y + top], -1) @ axes.T - centre, -1, 0)
    gabled = rng.random() < .45
    notch = half * (rng.uniform(0, .3, 2) if not gabled and rng.random() < .5 else 2)

    def covers(u, v):
        return (abs(u) < half[0]) & (abs(v) < half[1]) & ~((u > notch[0]) & (v > notch[1]))

    roof = covers(u, v)
    if np.isin(part.label[roof], (ROAD, WATER, BUILDING)).any():
        return False
    if gabled:
        towards_sun = -np.sign(axes[1] @ canvas.sun)
        shade = .2 * towards_sun * np.sign(v) + .07 * np.sign(np.sin(u))  # rows of tiles
        shade[abs(v) < 1.5] = .35  # ridge
    else:
        inner = covers(u + 4 * np.sign(u), v + 4 * np.sign(v))
        shade = np.where(inner, .05 * np.sign(np.sin(v / 1.5)), .3)  # seams, parapet
    part.paint(roof, colour, shade + .02 * rng.standard_normal(shade.shape), BUILDING)
    slide = axes @ canvas.sun
    for step in np.arange(2, rng.uniform(10, 20), 2):
        part.shadow[covers(u - step * slide[0], v - step * slide[1])] = True
    return True


def expose(rng, image, conditions):
    """Optics, haze, colour cast and sensor noise: float RGB [height, width, 3] -> uint8."""
    image = cv2.GaussianBlur(image, (0, 0), .6)
    haze = conditions.haze * (1 + .25 * smooth_noise(rng, image.shape[:2], 300))[..., None]
    image += np.clip(haze, 0, 1) * (np.float32((200, 206, 214)) - image)
    image *= np.float32((1 + conditions.warmth, 1, 1 - conditions.warmth))
    noise = rng.standard_normal(image.shape, np.float32) * conditions.noise
    return np.clip(np.round(image + noise * (.4 + image / 200)), 0, 255).astype(np.uint8)


def _axes(along):
    """The unit vectors along and across `along`, as rows of float [2, 2]."""
    return np.array([along, (-along[1], along[0])]) / np.linalg.norm(along)


def _lines(shape, segments, wide):
    """Bool [*shape]: the pixels of lines from start to end (x, y), `wide` pixels thick."""
    mask = np.zeros(shape, np.uint8)
    for start, end in segments:
        cv2.line(mask, np.round(start).astype(int), np.round(end).astype(int), 1, wide)
    return mask > 0


def write_demo_scenes(folder, seed, size):
    """Draws SCENES into `folder` as N.png and N_class.png, each about `size` pixels a side.

    Raises ValueError where `size` is too small, and where `folder` holds scenes that were not
    drawn here, which are left as they are.
    """
    if size < SMALLEST:
        raise ValueError(f"--size {size} is too small; take {SMALLEST} or more")
    marker = os.path.join(folder, MARKER)
    if not os.path.exists(marker):
        with contextlib.suppress(FileNotFoundError):
            raise ValueError(f"{folder}: holds scenes that were not drawn here "
                             f"({', '.join(find_scenes(folder))}); choose another with --out")
    write_text(marker, f"Synthetic scenes of utils.data.demo_scenes, seed {seed}, size {size}.\n")
    for name, conditions in tqdm(SCENES.items(), unit="scene"):
        rng = np.random.default_rng([seed, int(name)])
        height, width = round(conditions.height * size), round(conditions.width * size)
        image, label = draw_scene(rng, height, width, conditions)
        write_png(os.path.join(folder, f"{name}.png"), image)
        write_png(os.path.join(folder, f"{name}{LABEL_SUFFIX}.png"), label)


def main():
    parser = plain_parser(__doc__)
    parser.add_argument("--out", default="dataset/demo/origin", metavar="FOLDER", help="goes here")
    parser.add_argument("--seed", type=natural, default=0, help="seed of everything random")
    parser.add_argument("--size", type=positive, default=1024, help="pixels a side, about")
    args = parser.parse_args()
    write_demo_scenes(args.out, args.seed, args.size)
    print(f"{args.out}: {len(SCENES)} synthetic scenes with their labels")


if __name__ == "__main__":
    run_script(main)
