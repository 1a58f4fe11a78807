"""The diagram of the model; sizes, strides and rates are those of the graph that is built."""

import math
from collections import namedtuple

import tensorflow.compat.v1 as tf

from deeplab_v3 import (ASPP_FILTERS, ASPP_RATES, DECODER_FILTERS, LOW_LEVEL_FILTERS,
                        Dropout, ModelConfig, deeplab_v3)
from images.scene import both_scenes, show
from images.svg import (ATROUS, MARGIN, MUTED, OPTIONAL, PLAIN, STRIDED, WIDTH, arrow, box,
                        document, element, panel, text)

TILE = 256

CONFIG = ModelConfig(num_classes=2)
Unit = namedtuple("Unit", "name size channels stride rate")


def read_model():
    """(backbone's name, its Units, side of the padded tile) of the default model."""
    units = []
    with tf.Graph().as_default() as graph:
        tiles = tf.placeholder(tf.uint8, [1, TILE, TILE, 3])
        logits, end_points = deeplab_v3(tiles, CONFIG)
        for name, output in end_points.items():
            operation = {"conv1": "conv1/Conv2D", "pool1": "MaxPool2d"}.get(name)
            if "/unit_" in name:
                operation = f"{name}/bottleneck_v2/conv2/conv2/Conv2D"
            if operation:
                operation = graph.get_operation_by_name(f"{CONFIG.backbone}/{operation}")
                rate = operation.get_attr("dilations")[1] if operation.type == "Conv2D" else 1
                units.append(Unit(name, *output.shape.as_list()[2:],
                                  operation.get_attr("strides")[1], rate))
    return CONFIG.backbone, units, logits.op.inputs[0].shape.as_list()[1]


def draw_model():
    """Deeplab-v3 as an SVG text: the backbone's units, the pyramid, the head."""
    backbone, units, padded = read_model()
    features, axis, bottom = units[-1], 172, 482
    parts = both_scenes()
    parts += [panel(164, MARGIN, 594, 272, f"Backbone: {backbone}"),
              text(742, MARGIN + 27, f"output stride {CONFIG.output_stride}, "
                   f"multi-grid {CONFIG.multi_grid}", colour=MUTED, anchor="end")]
    stages = {}
    for unit in units:
        stages.setdefault(unit.name.split("/")[0] if "/" in unit.name else "stem", []).append(unit)
    x, below = 188, {}
    for stage, members in stages.items():
        if stage != "stem":
            parts.append(arrow((x + 1, axis), (x + 29, axis)))
            x += 32
        middle = x + 11.5 * len(members) - 1.5
        parts += [text(middle, 79, stage, size=16, weight="bold"),
                  text(middle, 98, "{0.size}×{0.size}×{0.channels}".format(members[-1]), size=14,
                       colour=MUTED)]
        for unit in members:
            height = 26 * math.log2(unit.size) - 54  # halving the size takes off as much each time
            parts.append(box(x, axis - height / 2, 20, height, *unit_style(unit)))
            below[unit.name] = x + 10, axis + height / 2 + 2
            x += 23
    for place, style, words in ((360, PLAIN, "unit"), (430, STRIDED, "with its stride"),
                                (570, ATROUS, "with its atrous rate")):
        parts += [box(place, 267, 14, 14, style),
                  text(place + 20, 279, words, anchor="start", size=14, colour=MUTED)]
    parts += [show("scene", MARGIN, axis - 60, 120), arrow((MARGIN + 123, axis), (186, axis)),
              text(MARGIN + 60, axis + 83, f"{TILE} × {TILE} tile", weight="bold"),
              text(MARGIN + 60, axis + 103, f"padded to {padded}", size=14, colour=MUTED)]
    parts += draw_pyramid(788, axis, bottom, features) + [arrow((x + 1, axis), (786, axis))]
    parts += draw_head(padded, bottom)
    low_level = [unit for unit in stages["block1"] if unit.stride == 1][-1]
    parts += draw_decoder(low_level.size, *below[low_level.name], bottom)
    return document(WIDTH, 586, "Deeplab-v3: backbone, pyramid, head", parts)


def unit_style(unit):
    """Colours of a unit and, where it has one, the number that is written on it."""
    if unit.stride > 1:
        return STRIDED, f"/{unit.stride}"
    return (ATROUS, str(unit.rate)) if unit.rate > 1 else (PLAIN,)


def draw_pyramid(x, axis, bottom, features):
    """The pyramid's panel, from the features at `axis` down to its last convolution."""
    width = WIDTH - MARGIN - 14 - x
    parts = [panel(x - 14, MARGIN, width + 28, bottom + 32 - MARGIN,
                   "Atrous spatial pyramid pooling"),
             text(x + 2, 79, f"every 1×1 and 3×3 has {ASPP_FILTERS} filters,",
                  "batch norm and ReLU", size=14, anchor="start", colour=MUTED),
             box(x, axis - 18, width, 36, PLAIN,
                 "features {0.size}×{0.size}×{0.channels}".format(features))]
    larger = 16 // CONFIG.output_stride
    branches = [("1×1", "", 0), *[("3×3", f"rate {rate * larger}", rate * larger)
                                  for rate in ASPP_RATES], ("mean", "1×1", None)]
    pitch = (width + 8) / len(branches)
    for number, (name, words, rate) in enumerate(branches):
        left = x + number * pitch
        middle = left + (pitch - 8) / 2
        parts += [arrow((middle, axis + 20), (middle, axis + 46)),
                  box(left, axis + 48, pitch - 8, 132, ATROUS if rate else PLAIN),
                  text(middle, axis + 71, name, weight="bold"),
                  text(middle, axis + 90, words, size=14, colour=MUTED),
                  taps(middle, axis + 139, rate),
                  arrow((middle, axis + 182), (middle, axis + 208))]
    middle = x + width / 2
    return parts + [box(x, axis + 210, width, 36, PLAIN,
                        f"concatenate {len(branches)} × {ASPP_FILTERS}"),
                    arrow((middle, axis + 248), (middle, bottom - 20)),
                    box(x, bottom - 18, width, 36, PLAIN, "1×1"),
                    arrow((x - 2, bottom), (742, bottom))]


def draw_head(padded, bottom):
    """From the pyramid at the right to the map at the left."""
    return [box(622, bottom - 32, 118, 64, PLAIN, "dropout",
                f"keeps {Dropout().keep_prob:g}"),
            arrow((620, bottom), (498, bottom)),
            box(376, bottom - 32, 120, 64, PLAIN, "1×1", "a logit a class"),
            arrow((374, bottom), (332, bottom)),
            box(184, bottom - 38, 146, 76, PLAIN, f"bilinear to {padded}", "corners aligned,",
                f"cropped to {TILE}"),
            arrow((182, bottom), (MARGIN + 123, bottom)), show("map", MARGIN, bottom - 60, 120),
            text(MARGIN + 60, bottom + 83, "class map", weight="bold")]


def draw_decoder(size, x, y, bottom):
    """The optional decoder, dashed: from the low-level features at (x, y) to the logits."""
    style = {"colour": OPTIONAL[1], "dashed": True}
    return [arrow((x, y), (x, 338), **style),
            box(x - 62, 340, 124, 58, OPTIONAL, f"1×1, {LOW_LEVEL_FILTERS}",
                f"{size} × {size}", dashed=True),
            arrow((x + 64, 369), (382, 369), **style),
            box(384, 326, 240, 86, OPTIONAL, "Deeplab-v3+ decoder",
                f"upsample to {size}, concatenate,", f"two 3×3 of {DECODER_FILTERS} (--decoder)",
                dashed=True, size=14),
            arrow((681, bottom - 34), (681, 369), (626, 369), **style),
            arrow((436, 414), (436, bottom - 34), **style)]


def taps(x, y, rate):
    """What a branch looks at around (x, y): nine taps so far apart, one, or everything (None)."""
    if rate is None:
        return element("rect", x=x - 21, y=y - 21, width=42, height=42, fill=PLAIN[1],
                       opacity="0.45")
    steps = (-rate, 0, rate) if rate else (0,)
    return "".join(element("rect", x=x + 1.1 * right - 2.5, y=y + 1.1 * down - 2.5, width=5,
                           height=5, fill=ATROUS[1] if rate else PLAIN[1])
                   for down in steps for right in steps)
