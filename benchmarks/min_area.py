"""What merging small regions does to a map's scores.

Run as: python -m benchmarks.min_area --label 'labels/*_class.png' --prediction 'maps/*_class.png'

For maps that predict.py wrote without --min_area: regions, mean-IoU, accuracy and boundary F1 of
all pooled, as they are and with regions below so many pixels merged.
"""

import argparse

import numpy as np

from utils.boundary_f1 import BoundaryF1, boundary_f1
from utils.classes import DEFAULT_TABLE, read_classes
from utils.cli import positive, run_script
from utils.data.scenes import paired_files, read_label
from utils.inference.polygonize import label_regions, merge_small_regions
from utils.metrics import accuracy, confusion_matrix, mean_iou


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--label", required=True, nargs="+", metavar="FILE")
    parser.add_argument("--prediction", required=True, nargs="+", metavar="FILE")
    parser.add_argument("--classes", default=DEFAULT_TABLE, metavar="FILE", help="class table")
    parser.add_argument("--min_area", type=positive, nargs="+", metavar="PIXELS",
                        default=[1, 20, 50, 100, 200, 500, 1000, 2000, 5000])
    arguments = parser.parse_args()
    table = read_classes(arguments.classes)
    pairs = paired_files(arguments.label, arguments.prediction, ("--label", "--prediction"))
    maps = [(read_label(label, table), read_label(path, table.of_maps()))
            for label, path in pairs.items()]
    print(f"{', '.join(pairs.values())}\npixels  regions  mean-IoU  accuracy  boundary F1")
    for pixels in arguments.min_area:
        matrix, counts, regions = 0, 0, 0
        for label, prediction in maps:
            merged = merge_small_regions(prediction, pixels)
            boundary = BoundaryF1(len(table))
            boundary.add(label, merged)
            matrix = matrix + confusion_matrix(label, merged, len(table))
            counts = counts + boundary.counts()
            regions += len(label_regions(merged)[1]) - 1
        print(f"{pixels:6}  {regions:7,}  {mean_iou(np.array(matrix)):8.4f}  "
              f"{accuracy(matrix):8.4f}  {boundary_f1(counts):11.4f}", flush=True)


if __name__ == "__main__":
    run_script(main)
