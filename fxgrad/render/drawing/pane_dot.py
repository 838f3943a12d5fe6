"""A pane as DOT text, and its plan from what dot makes of that. The text holds numbers only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from fxgrad.render.drawing.panes import BORDER, MIDDLE, Child, End, Pane, Plan, Point, Stroke, Wire, shift

NODE_GAP, RANK_GAP = 18, 26
_POINTS_PER_INCH = 72
_WIDEST_TABLE = 60_000
"""Graphviz keeps the widths of tables in 16 bits."""
_MANY_WIRES = 60
_LONGEST_ROW = 8
_TABLE = '<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="0">'


def write_pane(pane: Pane) -> str:
    """Write a pane as DOT.

    >>> print(write_pane(Pane((Child(72, 36),), (Wire(End(BORDER, 0), End(0)),), tops=1)))
    digraph{graph[nodesep=0.25 ranksep=0.361]node[shape=box fixedsize=true label=""]edge[arrowhead=none]
    0[width=1 height=0.5]
    t0[shape=point width=0.01]{rank=source;t0}
    t0:s->0[id=0]
    }
    """
    points = _find_points(pane)
    gathered = {child: number for number, point in enumerate(points) for child in point.row}
    limits = " nslimit=2 nslimit1=2 mclimit=0.3" if len(pane.wires) > _MANY_WIRES else ""
    lines = [
        f"digraph{{graph[nodesep={_inches(NODE_GAP)} ranksep={_inches(RANK_GAP)}{limits}]"
        'node[shape=box fixedsize=true label=""]edge[arrowhead=none]',
        *(_write_child(number, child) for number, child in enumerate(pane.children)),
        *_write_border("t", "source", pane.tops),
        *_write_border("b", "sink", pane.bottoms),
        *_write_points(points, pane),
        *(_write_wire(number, wire, pane, gathered.get(wire.head.child)) for number, wire in enumerate(pane.wires)),
        "}",
    ]
    return "\n".join(lines)


def _inches(points: float) -> str:
    return f"{points / _POINTS_PER_INCH:.3f}".rstrip("0").rstrip(".")


def _write_child(number: int, child: Child) -> str:
    size = f"width={_inches(child.width)} height={_inches(child.height)}"
    if not _has_ports(child):
        return f"{number}[{size}]"
    cells = _write_ports("t", child.tops, child.width), _write_ports("b", child.bottoms, child.width)
    middle = f'<TR><TD FIXEDSIZE="TRUE" WIDTH="{child.width}" HEIGHT="{child.height - 2}"></TD></TR>'
    return f"{number}[shape=none margin=0 {size} label=<{_TABLE}{cells[0]}{middle}{cells[1]}</TABLE>>]"


def _has_ports(child: Child) -> bool:
    return bool(child.tops or child.bottoms) and max(child.width, child.height) < _WIDEST_TABLE


def _write_ports(side: str, ports: Sequence[int], width: int) -> str:
    """A row one point high with a narrow cell at each port."""
    starts = sorted((at - 1, number) for number, at in enumerate(ports))
    cells, done = [], 0
    for start, number in starts:
        cells += [_write_cell(start - done), _write_cell(2, f' PORT="{side}{number}"')]
        done = max(done, start) + 2
    return f"<TR><TD>{_TABLE}<TR>{''.join(cells)}{_write_cell(width - done)}</TR></TABLE></TD></TR>"


def _write_cell(width: int, port: str = "") -> str:
    return f'<TD{port} FIXEDSIZE="TRUE" WIDTH="{width}" HEIGHT="1"></TD>' if width > 0 else ""


def _write_border(side: str, rank: str, ports: int) -> Iterator[str]:
    """The ports of the border are points in a row above or below everything."""
    if ports:
        names = [f"{side}{number}" for number in range(ports)]
        yield "".join(f"{name}[shape=point width=0.01]" for name in names) + f"{{rank={rank};{';'.join(names)}}}"


class Star(NamedTuple):
    """Many children at which the wires of one sender end: they stand in rows, each with a point that gathers its wires."""

    sender: End
    rows: tuple[tuple[int, ...], ...]


def find_stars(pane: Pane) -> list[Star]:
    """The children that one sender alone leads to and that lead nowhere, of each sender with more than one row of them."""
    leading = {wire.tail.child for wire in pane.wires}
    fed: dict[int, set[End]] = {}
    for wire in pane.wires:
        fed.setdefault(wire.head.child, set()).add(wire.tail)
    senders: dict[End, list[int]] = {}
    for child, tails in fed.items():
        if child != BORDER and child not in leading and len(tails) == 1:
            senders.setdefault(next(iter(tails)), []).append(child)
    found = []
    for sender, ends in senders.items():
        row = max(_LONGEST_ROW, round(len(ends) ** 0.5))
        if len(ends) > row:
            found.append(Star(sender, tuple([tuple(ends[at : at + row]) for at in range(0, len(ends), row)])))
    return found


class _Point(NamedTuple):
    """A point that gathers the wires to a row: what leads to it, another point by its number or an end, and what stands above."""

    before: int | End
    above: int
    row: frozenset[int]


def _find_points(pane: Pane) -> list[_Point]:
    """The points of all rows below the first."""
    points: list[_Point] = []
    for star in find_stars(pane):
        before: int | End = star.sender
        for upper, lower in pairwise(star.rows):
            points.append(_Point(before, upper[len(upper) // 2], frozenset(lower)))
            before = len(points) - 1
    return points


def _write_points(points: Sequence[_Point], pane: Pane) -> Iterator[str]:
    for number, point in enumerate(points):
        before = (
            _name_point(point.before) if isinstance(point.before, int) else _write_end(point.before, pane, is_tail=True)
        )
        name = _name_point(number)
        yield f"{name}[shape=point width=0.01]{before}->{name}[id={len(pane.wires) + number}]{point.above}->{name}[style=invis]"


def _name_point(number: int) -> str:
    return f"p{number}"


def _write_wire(number: int, wire: Wire, pane: Pane, point: int | None) -> str:
    label = ""
    if wire.label is not None:
        width, height = wire.label
        cell = f'<TR><TD FIXEDSIZE="TRUE" WIDTH="{width}" HEIGHT="{height}"></TD></TR>'
        label = f" label=<{_TABLE}{cell}</TABLE>>"
    tail = _write_end(wire.tail, pane, is_tail=True) if point is None else _name_point(point)
    return f"{tail}->{_write_end(wire.head, pane, is_tail=False)}[id={number}{label}]"


def _write_end(end: End, pane: Pane, *, is_tail: bool) -> str:
    way = "s" if is_tail else "n"
    if end.child == BORDER:
        return f"{'t' if is_tail else 'b'}{end.port}:{way}"
    if end.port == MIDDLE:
        return str(end.child)
    port = f"{'b' if is_tail else 't'}{end.port}:"
    return f"{end.child}:{port if _has_ports(pane.children[end.child]) else ''}{way}"


# What dot makes of it


def read_layouts(text: str) -> Iterator[Any]:
    """The JSON documents that dot writes one after the other."""
    decoder, at = json.JSONDecoder(), 0
    while (at := _skip_space(text, at)) < len(text):
        layout, at = decoder.raw_decode(text, at)
        yield layout


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def read_plan(pane: Pane, layout: Any) -> Plan:
    """The plan of a pane, from the JSON (``-Tjson0``) of its layout."""
    _, _, width, height = _read_numbers(layout.get("bb", "0,0,0,0"))
    middles = {each["name"]: _flip(each["pos"], height) for each in layout.get("objects", ()) if "pos" in each}
    places = tuple(
        [
            (middles[str(number)][0] - child.width / 2, middles[str(number)][1] - child.height / 2)
            for number, child in enumerate(pane.children)
        ]
    )
    edges = {int(edge["id"]): edge for edge in layout.get("edges", ()) if "id" in edge}
    tops = tuple([middles[f"t{port}"][0] for port in range(pane.tops)])
    bottoms = tuple([middles[f"b{port}"][0] for port in range(pane.bottoms)])
    strokes: list[tuple[Stroke, ...]] = []
    points = _find_points(pane)
    gathered = {child: number for number, point in enumerate(points) for child in point.row}
    undrawn = set(range(len(points)))
    for number, wire in enumerate(pane.wires):
        point = gathered.get(wire.head.child)
        curves = _read_curves(edges[number]["pos"], height)
        start = _find_port(wire.tail, pane, places, tops, is_tail=True, height=height) if point is None else None
        end = _find_port(wire.head, pane, places, bottoms, is_tail=False, height=height)
        stroke = Stroke(_snap(curves, start, end), wire.tip)
        if point is None or point not in undrawn:
            strokes.append((stroke,))
            continue
        undrawn.remove(point)
        before = points[point].before
        port = None if isinstance(before, int) else _find_port(before, pane, places, tops, is_tail=True, height=height)
        trunk = _snap(_read_curves(edges[len(pane.wires) + point]["pos"], height), port, None)
        strokes.append((Stroke(trunk), stroke))
    labels = tuple(
        [_flip(edges[number]["lp"], height) if wire.label else None for number, wire in enumerate(pane.wires)]
    )
    return _fit(Plan(width, height, places, tuple(strokes), labels, tops, bottoms), pane)


def _fit(plan: Plan, pane: Pane) -> Plan:
    """Widen the plan by what lines bulge beyond what dot has measured."""
    xs = [x for strokes in plan.strokes for stroke in strokes for x, _ in _list_extremes(stroke)]
    sides = [x + child.width for (x, _), child in zip(plan.places, pane.children, strict=True)]
    left, right = min([0.0, *xs, *(x for x, _ in plan.places)]), max([plan.width, *xs, *sides])
    return plan._replace(
        width=right - left,
        places=tuple([(x - left, y) for x, y in plan.places]),
        strokes=tuple([tuple([shift(stroke, -left, 0) for stroke in strokes]) for strokes in plan.strokes]),
        labels=tuple([None if label is None else (label[0] - left, label[1]) for label in plan.labels]),
        tops=tuple([x - left for x in plan.tops]),
        bottoms=tuple([x - left for x in plan.bottoms]),
    )


def _list_extremes(stroke: Stroke) -> Iterator[Point]:
    """Points of the curves: their ends and their middles."""
    points = stroke.points
    for at in range(0, len(points) - 3, 3):
        a, b, c, d = points[at : at + 4]
        yield from (a, d)
        for t in (0.25, 0.5, 0.75):
            s = 1 - t
            yield tuple(s**3 * a[i] + 3 * s * s * t * b[i] + 3 * s * t * t * c[i] + t**3 * d[i] for i in (0, 1))  # type: ignore[misc]


def _read_numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def _flip(text: str, height: float) -> Point:
    x, y = _read_numbers(text)[:2]
    return (x, height - y)


def _read_curves(pos: str, height: float) -> list[Point]:
    return [_flip(part, height) for part in pos.split() if part[0] not in "es"]


def _find_port(
    end: End, pane: Pane, places: Sequence[Point], border: Sequence[float], *, is_tail: bool, height: float
) -> Point | None:
    """Where exactly a wire meets a port; None at none."""
    if end.child == BORDER:
        return (border[end.port], 0.0 if is_tail else height)
    if end.port == MIDDLE:
        return None
    (left, top), child = places[end.child], pane.children[end.child]
    return (left + child.bottoms[end.port], top + child.height) if is_tail else (left + child.tops[end.port], top)


def _snap(points: list[Point], start: Point | None, end: Point | None) -> tuple[Point, ...]:
    """End the curves exactly at the ports; they leave and arrive straight.

    What leads down stays between the heights of its ends: dot's curves to a port far to the side dip below its frame's edge,
    where the title is, and Bezier curves stay within the hull of their points.
    """
    if start is not None:
        points = [start, (start[0], points[1][1]), *points[2:]]
    if end is not None:
        points = [*points[:-2], (end[0], points[-2][1]), end]
    top, bottom = points[0][1], points[-1][1]
    return tuple([(x, min(max(y, top), bottom)) for x, y in points] if top <= bottom else points)
