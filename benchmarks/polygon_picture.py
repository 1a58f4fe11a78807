"""images/polygons.jpg: a part of a scene, and the polygons of its map drawn over it.

    python -m benchmarks.polygon_picture --run demo --image dataset/demo/origin/5.png

The scene is copied as a GeoTIFF in UTM with half a metre a pixel, so that areas are known.
predict.py maps it with --polygons gpkg --min_area --simplify. What is drawn is the GeoPackage as it
was written.
"""

import os
import tempfile

import numpy as np
import pyogrio
import rasterio
import shapely
from PIL import Image, ImageDraw, ImageFont
from shapely.affinity import affine_transform

from benchmarks.shared import call
from utils.classes import read_classes
from utils.cli import plain_parser, run_script
from utils.data.scenes import read_image
from utils.inference.visualise import side_by_side

GRID = rasterio.Affine(.5, 0, 325000, 0, -.5, 2785000)
MIN_AREA, SIMPLIFY = 40, 1.5  # square metres, metres
NAMED = 14  # of the largest polygons
TEXT_SIZE = 13


def parse_arguments():
    parser = plain_parser(__doc__)
    parser.add_argument("--logs", default="logs", metavar="FOLDER", help="where the runs are")
    parser.add_argument("--run", default="demo", help="name of the run")
    parser.add_argument("--image", default="dataset/demo/origin/5.png", metavar="FILE",
                        help="the scene, three bands of 8 bits")
    parser.add_argument("--classes", default="dataset/classes.csv", metavar="FILE")
    parser.add_argument("--part", type=int, nargs=4, default=[300, 250, 460, 620],
                        metavar=("TOP", "LEFT", "HEIGHT", "WIDTH"), help="to show, pixels")
    parser.add_argument("--out", default="images/polygons.jpg", metavar="FILE")
    return parser.parse_args()


def main():
    args = parse_arguments()
    image, table = read_image(args.image), read_classes(args.classes)
    with tempfile.TemporaryDirectory() as folder:
        scene = os.path.join(folder, "scene.tif")
        with rasterio.open(scene, "w", driver="GTiff", height=image.shape[0], width=image.shape[1],
                           count=3, dtype="uint8", crs="EPSG:32640", transform=GRID) as file:
            file.write(np.moveaxis(image, -1, 0))
        print(call("predict.py", "predict.py", "--logs", args.logs, "--run", args.run, "--image",
                   scene, "--out", os.path.join(folder, "maps"), "--polygons", "gpkg",
                   "--min_area", MIN_AREA, "--simplify", SIMPLIFY))
        _, _, shapes, values = pyogrio.raw.read(
            os.path.join(folder, "maps", "scene_polygons.gpkg"), columns=["class", "hectares"])
    top, left, height, width = args.part
    part = np.ascontiguousarray(image[top:top + height, left:left + width])
    polygons = in_part(shapely.from_wkb(shapes), args.part)
    drawn = draw(part, polygons, *values, table)
    Image.fromarray(side_by_side([part, drawn])).save(args.out, quality=85)


def in_part(polygons, part):
    """Polygons on the ground, in columns and rows of the part of the scene, cut to it."""
    a, b, c, d, e, f = (~GRID)[:6]
    pixels = [affine_transform(polygon, (a, b, d, e, c - part[1], f - part[0]))
              for polygon in polygons]
    return shapely.intersection(pixels, shapely.box(0, 0, part[3], part[2]))


def draw(image, polygons, classes, hectares, table):
    """The image with the polygons filled half-way and outlined in their classes' colours, and the
    largest named with their hectares."""
    order = np.argsort(-shapely.area(shapely.convex_hull(polygons)))
    polygons, classes, hectares = polygons[order], classes[order], hectares[order]
    picture = Image.fromarray(image).convert("RGBA")
    colours = dict(zip(table.names, map(tuple, table.colours.tolist())))
    for alpha, width in ((110, 0), (255, 2)):
        layer = Image.new("RGBA", picture.size)
        drawing = ImageDraw.Draw(layer)
        for polygon, name in zip(polygons, classes):
            for piece in shapely.get_parts(polygon):
                if piece.is_empty or piece.geom_type != "Polygon":  # one that is only touched
                    continue
                outer = [tuple(point) for point in piece.exterior.coords]
                if width:
                    for ring in (piece.exterior, *piece.interiors):
                        drawing.line([tuple(point) for point in ring.coords], (*colours[name], 255),
                                     width, "curve")
                else:
                    drawing.polygon(outer, (*colours[name], alpha))
                    for hole in piece.interiors:  # whose own polygons come later
                        drawing.polygon([tuple(point) for point in hole.coords], (0, 0, 0, 0))
        picture = Image.alpha_composite(picture, layer)
    drawing = ImageDraw.Draw(picture)
    font = ImageFont.load_default(TEXT_SIZE)
    areas = shapely.area(polygons)
    for number in [number for number in np.argsort(-areas)[:NAMED] if areas[number]]:
        place = shapely.point_on_surface(polygons[number])
        drawing.text((place.x, place.y), f"{classes[number]}\n{hectares[number]:.2f} ha",
                     (255, 255, 255), font, "mm", stroke_width=2, stroke_fill=(0, 0, 0),
                     align="center")
    return np.array(picture.convert("RGB"))


if __name__ == "__main__":
    run_script(main)
