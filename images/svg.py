"""A few shapes as SVG text: what a diagram needs, in one look."""

from xml.sax.saxutils import escape, quoteattr

WIDTH, MARGIN = 1120, 24
INK, MUTED, LINE, PANEL = "#1f2933", "#52606d", "#7b8794", "#f5f7fa"
# Fill and outline.
PLAIN, STRIDED, ATROUS = ("#dbe6f4", "#5b7db1"), ("#fbdcbf", "#c8701f"), ("#bfe3d6", "#2c8a6b")
OPTIONAL = ("#f3ecf9", "#8e6bb0")
FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"
DASHES = "6 4"


def element(tag, content="", **attributes):
    """<tag ...>content</tag>; numbers are rounded, so that every machine writes the same."""
    values = {name.rstrip("_").replace("_", "-"): f"{round(value, 1):g}"
              if isinstance(value, (int, float)) else value for name, value in attributes.items()}
    written = "".join(f" {name}={quoteattr(value)}" for name, value in values.items())
    return f"<{tag}{written}>{content}</{tag}>" if content else f"<{tag}{written}/>"


def document(width, height, title, parts):
    """A whole picture on white, which stays readable on a dark page."""
    head = [element("title", escape(title)),
            element("rect", width=width, height=height, rx=10, fill="#ffffff")]
    return element("svg", "\n" + "\n".join(head + list(parts)) + "\n",
                   xmlns="http://www.w3.org/2000/svg", width=width, height=height,
                   viewBox=f"0 0 {width} {height}", font_family=FONT) + "\n"


def text(x, y, *lines, size=15, anchor="middle", colour=INK, weight="normal", **attributes):
    """Lines of text; y is the first one's baseline."""
    return "\n".join(element(
        "text", escape(line), x=x, y=y + 1.3 * size * number, font_size=size, text_anchor=anchor,
        fill=colour, font_weight=weight, **attributes) for number, line in enumerate(lines))


def box(x, y, width, height, colours, *lines, dashed=False, size=15):
    """A rounded box with lines of text in its middle, the first one bold."""
    fill, outline = colours
    dashes = {"stroke_dasharray": DASHES} if dashed else {}
    first = y + height / 2 - 0.65 * size * (len(lines) - 1) + 0.35 * size
    parts = [element("rect", x=x, y=y, width=width, height=height, rx=5, fill=fill,
                     stroke=outline, stroke_width=1.4, **dashes)]
    parts += [text(x + width / 2, first + 1.3 * size * number, line, size=size,
                   weight="normal" if number else "bold") for number, line in enumerate(lines)]
    return "\n".join(parts)


def panel(x, y, width, height, title):
    """A pale area with its title at the top left."""
    return element("rect", x=x, y=y, width=width, height=height, rx=8, fill=PANEL) + "\n" + text(
        x + 16, y + 27, title, size=16, anchor="start", weight="bold")


def arrow(*points, colour=LINE, dashed=False):
    """A line along the points (x, y), upright and level parts only, with a head at its end."""
    (x, y), (before_x, before_y) = points[-1], points[-2]
    right, down = (x > before_x) - (x < before_x), (y > before_y) - (y < before_y)
    back_x, back_y = x - 9 * right, y - 9 * down
    head = [(x, y), (back_x + 4.5 * down, back_y + 4.5 * right),
            (back_x - 4.5 * down, back_y - 4.5 * right)]
    dashes = {"stroke_dasharray": DASHES} if dashed else {}
    return (element("polyline", points=_pairs([*points[:-1], (back_x, back_y)]), fill="none",
                    stroke=colour, stroke_width=1.8, **dashes)
            + element("polygon", points=_pairs(head), fill=colour))


def _pairs(points):
    return " ".join(f"{round(x, 1):g},{round(y, 1):g}" for x, y in points)


def curve(points, colour, width=2):
    """A line through the points (x, y)."""
    return element("polyline", points=_pairs(points), fill="none", stroke=colour,
                   stroke_width=width, stroke_linejoin="round")
