"""What is drawn, in order, as outlines, lines and words with their places and colours: of the graph, its headline, its legend.

Every notation for pictures (`fxgrad.render.drawing.svg`, `fxgrad.render.drawing.xdot`) draws the same.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fxgrad.render.drawing.blocks import (
    HEADLINE_SIZE,
    LABEL_PAD,
    STACK,
    Block,
    count_behind,
    draw_shape,
    fill_box,
    fill_cluster,
    find_insets,
    make_block,
    make_box_block,
    make_label,
    make_title,
    measure_box,
)
from fxgrad.render.drawing.frames import PlacedLine, Placement
from fxgrad.render.drawing.panes import Point, Stroke
from fxgrad.render.pictures import theme
from fxgrad.render.pictures.parts import NOTHING, Arrow, Box, Cluster, Entry, Identity, Line, Picture, list_legend
from fxgrad.render.pictures.theme import Flow, Look


class Area(NamedTuple):
    """A closed outline; a ``round`` one is the rectangle around its points, with round corners."""

    points: tuple[Point, ...]
    fill: str
    line: str | None = None
    width: float = 1.0
    dash: str = "solid"
    round: float = 0.0


class Curve(NamedTuple):
    """A line of Bezier curves; with a ``tip``, the corners of an arrow's head at its end."""

    points: tuple[Point, ...]
    line: str
    width: float = 1.0
    dash: str = "solid"
    tip: tuple[Point, ...] = ()


class Polyline(NamedTuple):
    """A line through points."""

    points: tuple[Point, ...]
    line: str
    width: float = 1.0


class Words(NamedTuple):
    """A line of text on a fill: ``x`` is its middle, or its left where it is not ``centred``; ``y`` its baseline."""

    x: float
    y: float
    text: str
    size: int
    on: str
    width: float
    bold: bool = False
    centred: bool = True


Part = Area | Curve | Polyline | Words


class Item(NamedTuple):
    """What belongs together: ``kind`` is "frame", "box", "line", "headline" or "legend"."""

    kind: str
    key: str
    parts: tuple[Part, ...]
    tooltip: tuple[str, ...] = ()
    identity: Identity = NOTHING
    ends: tuple[str, str] | None = None


class Painting(NamedTuple):
    """All of a picture, from behind to the front."""

    width: float
    height: float
    items: tuple[Item, ...]


_PAGE_MARGIN = 12
TIP_LENGTH, TIP_HALF = 7.0, 3.2
_SAMPLE = (30, 18)
_ENTRY_GAP, _ENTRY_WIDTH = 20, 34
_QUARTER = 4


def paint(picture: Picture, placement: Placement) -> Painting:
    """Draw a picture whose parts have their places."""
    headline = make_block([Line(line) for line in picture.headline], theme.PAGE, size=HEADLINE_SIZE)
    entries = _make_entries(picture)
    top = _PAGE_MARGIN + headline.height + 6
    legend, (legend_width, legend_height), is_beside = _set_legend(entries, placement, headline.width)
    graph = list(_paint_graph(picture, placement))
    legend_at = (placement.width + 14, 6.0) if is_beside else (0.0, placement.height + 8)
    width = max(headline.width, placement.width + (14 + legend_width if is_beside else 0), legend_width)
    height = max(placement.height, legend_height + 6) if is_beside else placement.height + 8 + legend_height
    items = [
        Item("headline", "headline", tuple(_write_rows(headline, 0, -headline.height - 6, centred=False))),
        *graph,
        Item("legend", "legend", tuple(_move(part, *legend_at) for part in legend)),
    ]
    moved = [item._replace(parts=tuple(_move(part, _PAGE_MARGIN, top) for part in item.parts)) for item in items]
    return Painting(math.ceil(width + 2 * _PAGE_MARGIN), math.ceil(height + top + _PAGE_MARGIN), tuple(moved))


def _paint_graph(picture: Picture, placement: Placement) -> Iterator[Item]:
    for cluster in picture.clusters:
        yield _paint_frame(cluster, placement)
    arrows = [arrow for arrow in picture.arrows if arrow.flow is not Flow.PAIR]
    sizes = {box.key: measure_box(box) for box in picture.boxes}
    for number, line in enumerate(placement.lines):
        yield _paint_line(number, line, arrows)
    for number, arrow in enumerate(arrow for arrow in picture.arrows if arrow.flow is Flow.PAIR):
        yield _paint_pair(number, arrow, placement, sizes)
    for box in picture.boxes:
        yield _paint_box(box, placement.boxes[box.key], sizes[box.key])
    for number, line in enumerate(placement.lines):
        if line.label is not None:
            yield Item("label", f"t{number}", tuple(_paint_label(line)))


def _paint_frame(cluster: Cluster, placement: Placement) -> Item:
    (left, top), (width, height), title = placement.frames[cluster.key]
    kinds, fill = cluster.hook_kinds, fill_cluster(cluster)
    line = theme.HOOK_FILLS[kinds[0]] if len(kinds) == 1 else theme.MODULE_LINE
    outline = Area(_rectangle(left, top, width, height), fill, line, 3 if kinds else 1, round=7)
    rows = _write_rows(make_title(cluster), *title, centred=False)
    return Item("frame", cluster.key, (outline, *rows), cluster.tooltip, cluster.identity)


def _rectangle(left: float, top: float, width: float, height: float) -> tuple[Point, ...]:
    return ((left, top), (left + width, top), (left + width, top + height), (left, top + height))


def _paint_box(box: Box, corner: Point, size: tuple[int, int]) -> Item:
    line_width, fill, behind = 2 if box.hook_kinds else 1.2, fill_box(box), count_behind(box)
    own = (size[0] - behind * STACK, size[1] - behind * STACK)
    places = [(corner[0] + number * STACK, corner[1] + number * STACK) for number in range(behind, -1, -1)]
    parts = [part for place in places for part in _paint_shape(box.look, fill, place, own, line_width)]
    block = make_box_block(box)
    left, top, right, bottom = find_insets(box.look)
    x = corner[0] + (left + own[0] - right) / 2
    y = corner[1] + (top + own[1] - bottom - block.height) / 2
    return Item("box", box.key, (*parts, *_write_rows(block, x, y, centred=True)), box.tooltip, box.identity)


def _paint_shape(look: Look, fill: str, corner: Point, size: tuple[float, float], line_width: float) -> Iterator[Part]:
    x, y = corner
    shape = draw_shape(look, *size)
    dash = next((word for word in ("dashed", "dotted") if word in look.style), "solid")
    width = 2 if "bold" in look.style else line_width
    points = tuple([(x + across, y + down) for across, down in shape.outline])
    yield Area(points, fill, look.line, width, dash, 6 if shape.is_rounded else 0)
    for mark in shape.marks:
        yield Polyline(tuple([(x + across, y + down) for across, down in mark]), look.line, line_width)


def _write_rows(block: Block, x: float, y: float, *, centred: bool) -> Iterator[Part]:
    for row in block.rows:
        if row.chip:
            left = x - row.width / 2 - 4 if centred else x - 2
            yield Area(_rectangle(left, y + row.down - row.size, row.width + 8, row.size * 1.32), row.on, round=3)
        at = x if centred else x + (2 if row.chip else 0)
        yield Words(at, y + row.down, row.text, row.size, row.on, row.width, row.bold, centred)


def _list_tooltip(line: PlacedLine, arrows: Sequence[Arrow]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for index in line.arrows for text in arrows[index].tooltip))[:_MOST_LINES]


_MOST_LINES = 12


def _paint_line(number: int, line: PlacedLine, arrows: Sequence[Arrow]) -> Item:
    arrow = arrows[line.arrows[0]]
    parts = tuple(part for stroke in line.strokes for part in _paint_stroke(stroke, arrow.flow))
    tooltip = () if line.is_shared else _list_tooltip(line, arrows)
    return Item("line", f"a{number}", parts, tooltip, ends=(arrow.tail, arrow.head))


def _paint_stroke(stroke: Stroke, flow: Flow) -> Iterator[Part]:
    points = stroke.points
    if stroke.tip:
        backward = points[::-1] if stroke.tip < 0 else points
        shortened, tip = _put_tip(backward)
        yield Curve(shortened, flow.colour, 1.1, flow.style, tip)
    else:
        yield Curve(points, flow.colour, 1.1, flow.style)


def _put_tip(points: tuple[Point, ...]) -> tuple[tuple[Point, ...], tuple[Point, ...]]:
    """End a line at the base of its tip."""
    (x, y), before = points[-1], next((point for point in points[-2::-1] if point != points[-1]), points[-1])
    length = math.dist((x, y), before) or 1.0
    along, across = (x - before[0]) / length, (y - before[1]) / length
    base = (x - along * TIP_LENGTH, y - across * TIP_LENGTH)
    sides = [(base[0] + side * across * TIP_HALF, base[1] - side * along * TIP_HALF) for side in (1, -1)]
    third = points[-2] if math.dist(points[-2], points[-1]) > TIP_LENGTH else base
    return (*points[:-2], third, base), (sides[0], (x, y), sides[1])


def _paint_pair(number: int, arrow: Arrow, placement: Placement, sizes: dict[str, tuple[int, int]]) -> Item:
    """A line from side to side."""
    ends = [(placement.boxes[key], sizes[key]) for key in (arrow.tail, arrow.head)]
    ends.sort(key=lambda end: end[0][0])
    ((left, top), (width, height)), ((right, other_top), (_, other_height)) = ends
    start, end = (left + width, top + height / 2), (right, other_top + other_height / 2)
    bend = max(20.0, (end[0] - start[0]) / 3)
    points = (start, (start[0] + bend, start[1]), (end[0] - bend, end[1]), end)
    curve = Curve(points, arrow.flow.colour, 1.1, arrow.flow.style)
    return Item("line", f"p{number}", (curve,), arrow.tooltip, ends=(arrow.tail, arrow.head))


def _paint_label(line: PlacedLine) -> Iterator[Part]:
    block = make_label(line.words)
    assert line.label is not None
    x, y = line.label
    width, height = block.width + 2 * LABEL_PAD, block.height
    yield Area(_rectangle(x - width / 2, y - height / 2, width, height), theme.LABEL_FILL, round=3)
    yield from _write_rows(block, x, y - block.height / 2, centred=True)


# The legend


def _make_entries(picture: Picture) -> list[tuple[Entry, Block]]:
    entries = list(list_legend(picture))
    return [
        (
            entry,
            make_block(
                [
                    Line(line)
                    for line in textwrap.wrap(
                        entry.meaning, _ENTRY_WIDTH, break_long_words=False, break_on_hyphens=False
                    )
                ],
                theme.PAGE,
            ),
        )
        for entry in entries
    ]


def _set_legend(
    entries: Sequence[tuple[Entry, Block]], placement: Placement, least: float
) -> tuple[list[Part], tuple[float, float], bool]:
    """Beside the graph or below it, whichever leaves the page smaller and nearer to a square."""
    if not entries:
        return [], (0, 0), False
    column = max(block.width for _, block in entries) + _SAMPLE[0] + 8
    below = max(1, min(len(entries), int((max(placement.width, least) + _ENTRY_GAP) // (column + _ENTRY_GAP))))
    fitting = max(1, int(placement.height // 26))
    beside = math.ceil(len(entries) / fitting)
    choices = []
    for is_beside, columns in ((False, below), (True, beside)):
        parts, (width, height) = _set_entries(entries, columns, column)
        all_width = placement.width + width + 14 if is_beside else max(placement.width, width)
        all_height = max(placement.height, height) if is_beside else placement.height + height
        choices.append((all_width * all_height, is_beside, parts, (width, height)))
    _, is_beside, parts, size = min(choices, key=lambda choice: choice[:2])
    return parts, size, is_beside


def _set_entries(
    entries: Sequence[tuple[Entry, Block]], columns: int, column: float
) -> tuple[list[Part], tuple[float, float]]:
    """Samples below each other in columns."""
    length = math.ceil(len(entries) / columns)
    parts: list[Part] = []
    bottom = 0.0
    for number in range(columns):
        y = 0.0
        for entry, block in entries[number * length : (number + 1) * length]:
            parts += _paint_entry(entry, block, number * (column + _ENTRY_GAP), y)
            y += max(_SAMPLE[1], block.height) + 7
        bottom = max(bottom, y)
    return parts, (columns * column + (columns - 1) * _ENTRY_GAP, bottom)


def _paint_entry(entry: Entry, block: Block, x: float, y: float) -> Iterator[Part]:
    width, height = _SAMPLE
    middle = y + max(height, block.height) / 2
    if entry.flow is not None:
        yield from _paint_stroke(
            Stroke(_go((x, middle), (x + width, middle)), int(entry.flow is not Flow.PAIR)), entry.flow
        )
    else:
        fill = theme.HOOK_FILLS[entry.hook] if entry.hook else entry.look.fill
        yield from _paint_shape(entry.look, fill, (x, middle - height / 2), _SAMPLE, 2 if entry.hook else 1.2)
    yield from _write_rows(block, x + width + 8, middle - block.height / 2, centred=False)


def _go(start: Point, end: Point) -> tuple[Point, ...]:
    x1, y1, x2, y2 = *start, *end
    return (start, (x1 + (x2 - x1) / 3, y1 + (y2 - y1) / 3), (x1 + (x2 - x1) * 2 / 3, y1 + (y2 - y1) * 2 / 3), end)


def _move(part: Part, x: float, y: float) -> Part:
    if isinstance(part, Words):
        return part._replace(x=part.x + x, y=part.y + y)
    moved = part._replace(points=_shift(part.points, x, y))
    return moved._replace(tip=_shift(moved.tip, x, y)) if isinstance(moved, Curve) else moved


def _shift(points: tuple[Point, ...], x: float, y: float) -> tuple[Point, ...]:
    return tuple([(left + x, top + y) for left, top in points])
