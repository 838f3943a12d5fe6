"""What a box looks like before it is placed: its lines of text, its size, its outline. All in points."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fxgrad.render.drawing.metrics import measure
from fxgrad.render.drawing.panes import Point
from fxgrad.render.pictures import theme
from fxgrad.render.pictures.parts import Box, Cluster, Line
from fxgrad.render.pictures.theme import Look

TEXT_SIZE = 11
SMALL_SIZE = 10
HEADLINE_SIZE = 13
_LEADING = 1.36
"""Distance of lines, in units of the font's size."""
_PAD_X, _PAD_Y = 9, 6
_LEAST_WIDTH, _LEAST_HEIGHT = 36, 27
_CHIP = 4


class Row(NamedTuple):
    """A line of text: ``down`` is from the block's top to its baseline, ``on`` the fill under it; with a ``chip`` it stands on
    a plate of that fill.
    """

    text: str
    bold: bool
    size: int
    width: float
    down: float
    on: str
    chip: bool


class Block(NamedTuple):
    """Lines of text below each other, and how much room they take."""

    rows: tuple[Row, ...]
    width: float
    height: float


def make_block(lines: Iterable[Line], fill: str, *, size: int = TEXT_SIZE) -> Block:
    """Set lines below each other on a fill; a hook's line stands on its kind's colour."""
    rows, down = [], 0.0
    for line in lines:
        on = fill if line.hook is None else theme.HOOK_FILLS[line.hook]
        width = measure(line.text, size, bold=line.bold)
        rows.append(Row(line.text, line.bold, size, width, down + size * 1.02, on, on != fill))
        down += size * _LEADING + (2 if on != fill else 0)
    width = max([0.0, *(row.width + (2 * _CHIP if row.chip else 0) for row in rows)])
    return Block(tuple(rows), width, down)


class Shape(NamedTuple):
    """The outline of a box and the marks on it; what is in it stays away from its sides by ``insets``."""

    outline: tuple[Point, ...]
    marks: tuple[tuple[Point, ...], ...] = ()
    is_rounded: bool = False


def find_insets(look: Look) -> tuple[int, int, int, int]:
    """How much of each side a shape takes: left, top, right, bottom."""
    return _INSETS.get(look.shape, (0, 0, 0, 0))


_CUT = 8
_INSETS = {
    "component": (7, 0, 0, 0),
    "tab": (0, 4, 0, 0),
    "note": (0, 0, 6, 0),
    "box3d": (0, 4, 4, 0),
    "folder": (0, 4, 0, 0),
    "hexagon": (_CUT, 0, _CUT, 0),
    "octagon": (4, 2, 4, 2),
    "invhouse": (0, 0, 0, _CUT),
    "house": (0, _CUT, 0, 0),
    "cds": (0, 0, _CUT, 0),
}


def make_box_block(box: Box) -> Block:
    """The text of a box."""
    return make_block(box.lines, fill_box(box))


def fill_box(box: Box) -> str:
    """The colour of a box: of its hooks' kind if they are of one."""
    kinds = box.hook_kinds
    return theme.HOOK_FILLS[kinds[0]] if len(kinds) == 1 else box.look.fill


def fill_cluster(cluster: Cluster) -> str:
    """The colour of a frame: by turns from the outside in."""
    return theme.MODULE_FILLS[cluster.level % len(theme.MODULE_FILLS)]


STACK = 4
"""How far each box behind another stands out."""


def count_behind(box: Box) -> int:
    """How many boxes are drawn behind one that stands for several."""
    return min(box.times - 1, 2)


def measure_box(box: Box) -> tuple[int, int]:
    """The width and height of a box."""
    block = make_box_block(box)
    left, top, right, bottom = find_insets(box.look)
    behind = count_behind(box) * STACK
    width = max(_LEAST_WIDTH, block.width + 2 * _PAD_X) + left + right + behind
    height = max(_LEAST_HEIGHT, block.height + 2 * _PAD_Y) + top + bottom + behind
    return (2 * math.ceil(width / 2), 2 * math.ceil(height / 2))


def make_title(cluster: Cluster) -> Block:
    """The text at a frame's upper corner: the module's path in bold, what it is, and its hooks."""
    notes = " · ".join(cluster.notes)
    lines = [Line(cluster.title, bold=True), *([Line(notes)] if notes else []), *cluster.hooks]
    return make_block(lines, fill_cluster(cluster))


def make_label(words: Sequence[str]) -> Block:
    """The text at an arrow."""
    return make_block([Line(word) for word in words], theme.LABEL_FILL, size=SMALL_SIZE)


LABEL_PAD = 3


def measure_label(words: Sequence[str]) -> tuple[int, int]:
    """The room of an arrow's text; what is beside the arrow is free."""
    block = make_label(words)
    return (math.ceil(block.width) + 2 * LABEL_PAD + 4, math.ceil(block.height) + 2)


def draw_shape(look: Look, width: float, height: float) -> Shape:
    """The outline of a box of that size, from its upper left corner."""
    w, h, c = width, height, _CUT
    box = ((0.0, 0.0), (w, 0.0), (w, h), (0.0, h))
    if look.shape == "component":
        ears = tuple(((-3.0, y), (5.0, y), (5.0, y + 5), (-3.0, y + 5), (-3.0, y)) for y in (h / 2 - 8, h / 2 + 3))
        return Shape(box, ears)
    if look.shape == "tab":
        tab = min(26.0, w / 2)
        return Shape(((0, 0), (tab, 0), (tab, 4), (w, 4), (w, h), (0, h)), (((0, 4), (tab, 4)),))
    if look.shape == "folder":
        tab = min(26.0, w / 2)
        return Shape(((0, 4), (w - tab, 4), (w - tab + 3, 0), (w - 3, 0), (w, 4), (w, h), (0, h)))
    if look.shape == "note":
        return Shape(((0, 0), (w - 7, 0), (w, 7), (w, h), (0, h)), (((w - 7, 0), (w - 7, 7), (w, 7)),))
    if look.shape == "box3d":
        outline = ((4.0, 0.0), (w, 0.0), (w, h - 4), (w - 4, h), (0.0, h), (0.0, 4.0))
        return Shape(outline, (((0, 4), (w - 4, 4), (w - 4, h)), ((w - 4, 4), (w, 0))))
    if look.shape == "hexagon":
        return Shape(((c, 0), (w - c, 0), (w, h / 2), (w - c, h), (c, h), (0, h / 2)))
    if look.shape == "octagon":
        return Shape(((c, 0), (w - c, 0), (w, c), (w, h - c), (w - c, h), (c, h), (0, h - c), (0, c)))
    if look.shape == "invhouse":
        return Shape(((0, 0), (w, 0), (w, h - c), (w / 2, h), (0, h - c)))
    if look.shape == "house":
        return Shape(((0, c), (w / 2, 0), (w, c), (w, h), (0, h)))
    if look.shape == "cds":
        return Shape(((0, 0), (w - c, 0), (w, h / 2), (w - c, h), (0, h)))
    marks: tuple[tuple[Point, ...], ...] = ()
    if "diagonals" in look.style:
        d = 6.0
        marks = (((0, d), (d, 0)), ((w - d, 0), (w, d)), ((w, h - d), (w - d, h)), ((d, h), (0, h - d)))
    if look.outlines > 1:
        o = 3.0
        marks = (((o, o), (w - o, o), (w - o, h - o), (o, h - o), (o, o)),)
    return Shape(box, marks, "rounded" in look.style)
