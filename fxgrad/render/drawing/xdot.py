"""A painting in Graphviz's drawing language, from which the engine makes PNG and PDF without a layout."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from fxgrad.render.drawing.paint import Area, Painting, Part, Polyline, Words
from fxgrad.render.drawing.panes import Point
from fxgrad.render.pictures import theme

_FONT = "Helvetica,Arial,sans-serif"
_BOLD = 1
_CORNER = 0.448


def write_xdot(painting: Painting) -> str:
    """Write a painting as DOT that ``nop2`` draws: one background of that size, and a point in two corners.

    https://graphviz.org/docs/outputs/canon/#xdot
    """
    height = painting.height
    ops = [op for item in painting.items for part in item.parts for op in _write_part(part, height)]
    corners = f'0[pos="0,0"]1[pos="{painting.width:g},{height:g}"]'
    return (
        f'digraph{{graph[bb="0,0,{painting.width:g},{height:g}" pad=0 bgcolor="{theme.PAGE}" '
        f"_background={' + '.join(_quote(_leave_out_repeated(ops)))}]"
        f'node[style=invis shape=point width=0.001 label=""]{corners}}}'
    )


def _leave_out_repeated(ops: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Leave out what sets a colour, a font or the like that is set."""
    now: dict[str, str] = {}
    for name, op in ops:
        if name not in _SETTING or now.get(name) != op:
            now[name] = op
            yield op


_SETTING = frozenset(["F", "t", "c", "C", "width", "dash"])
_PIECE = re.compile(r"(?s).{0,3998}(?:[^\\]|\\+[^\\])")
"""Graphviz's scanner takes 16,384 bytes between quotation marks, and 4,000 letters have no more; longer strings are written in
pieces, joined by ``+``. None ends in a backslash, which would take the mark's meaning away.
"""


def _quote(ops: Iterable[str]) -> Iterator[str]:
    for piece in _PIECE.findall("".join(f"{op} " for op in ops)) or [""]:
        yield '"' + piece.replace('"', '\\"') + '"'


def _write_part(part: Part, height: float) -> Iterator[tuple[str, str]]:
    """What draws a part, each with what it sets or does."""
    if isinstance(part, Words):
        yield from _write_words(part, height)
    elif isinstance(part, Area):
        yield from _set_line(part.line or part.fill, part.width if part.line else 0, part.dash)
        yield _set("C", part.fill)
        yield _list_points("b", _round(part), height) if part.round else _list_points("P", part.points, height)
    elif isinstance(part, Polyline):
        yield from (*_set_line(part.line, part.width), _list_points("L", part.points, height))
    else:
        yield from (*_set_line(part.line, part.width, part.dash), _list_points("B", part.points, height))
        if part.tip:
            yield from (*_set_line(part.line, 1), _set("C", part.line), _list_points("P", part.tip, height))


def _write_words(part: Words, height: float) -> Iterator[tuple[str, str]]:
    yield "F", f"F {part.size} {len(_FONT)} -{_FONT}"
    yield "t", f"t {_BOLD if part.bold else 0}"
    yield _set("c", theme.pick_text_colour(part.on))
    place = f"T {part.x:.1f} {height - part.y:.1f} {0 if part.centred else -1} {part.width:.1f}"
    # in DOT a backslash before a quotation mark would take the mark's own away
    text = part.text.replace('\\"', '\\\u200b"')
    yield "T", f"{place} {len(text.encode())} -{text}"


def _set_line(colour: str, width: float, dash: str = "solid") -> Iterator[tuple[str, str]]:
    yield _set("c", colour)
    words = f"setlinewidth({width:g})"
    yield "width", f"S {len(words)} -{words}"
    yield "dash", f"S {len(dash)} -{dash}"


def _set(which: str, colour: str) -> tuple[str, str]:
    return which, f"{which} {len(colour)} -{colour}"


def _list_points(op: str, points: tuple[Point, ...], height: float) -> tuple[str, str]:
    return op, f"{op} {len(points)} " + " ".join(f"{x:.1f} {height - y:.1f}" for x, y in points)


def _round(part: Area) -> tuple[Point, ...]:
    """A rectangle with round corners, as Bezier curves."""
    left, top = min(x for x, _ in part.points), min(y for _, y in part.points)
    right, bottom = max(x for x, _ in part.points), max(y for _, y in part.points)
    r, k = part.round, part.round * _CORNER
    ways = (
        ((left + r, top), (right - r, top), (right - k, top), (right, top + k), (right, top + r)),
        ((right, top + r), (right, bottom - r), (right, bottom - k), (right - k, bottom), (right - r, bottom)),
        ((right - r, bottom), (left + r, bottom), (left + k, bottom), (left, bottom - k), (left, bottom - r)),
        ((left, bottom - r), (left, top + r), (left, top + k), (left + k, top), (left + r, top)),
    )
    points: list[Point] = [ways[0][0]]
    for start, straight, *curve in ways:
        points += [start, straight, straight, *curve]
    return tuple(points)
