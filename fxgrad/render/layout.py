"""The only place that runs a layout engine."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fxgrad.errors import OutputError, UsageError
from fxgrad.graph.text import escape
from fxgrad.render.dot import write_dot
from fxgrad.render.files import FORMATS, name_formats
from fxgrad.render.picture import Picture

_MOST_BOXES = 400
"""Up to here a picture is laid out twice, so that arrows do not cross titles."""


def draw_picture(shown: Picture, format: str) -> bytes:
    """Lay a picture out and draw it in a format of `fxgrad.render.files.FORMATS`."""
    source = write_dot(shown)
    if format == "dot" or len(shown.boxes) > _MOST_BOXES or not shown.clusters:
        return render_dot(source, format)
    turned = find_crossed_titles(read_positions(source))
    return render_dot(write_dot(shown, turned=turned) if turned else source, format)


# The layout engine


SHOWN_LINES = 3

_BUNDLED_ENGINE = """
import sys
sys.path[:] = sys.argv[2:]
import pygraphviz
source = sys.stdin.buffer.read().decode()
sys.stdout.buffer.write(pygraphviz.AGraph(string=source).draw(format=sys.argv[1], prog="dot"))
"""
"""Run with the caller's import path: the working directory may hold a file that hides a module."""


def render_dot(source: str, format: str) -> bytes:
    """Lay DOT source out and draw it; ``"dot"`` is the source itself, in UTF-8, without a layout.

    ``dot`` does it where it is on the PATH, otherwise the engine in pygraphviz's wheel; either in a process of its
    own, so that a crash or a warning of the C library stays away from the caller.

    Raises `UsageError` for a format that is none of `FORMATS`, `OutputError` where the engine fails.
    """
    if format not in FORMATS:
        raise UsageError(f'format "{escape(format)}"', name_formats(""), '"svg"')
    return source.encode() if format == "dot" else _lay_out(source, format)


def read_positions(source: str) -> Any:
    """Ask Graphviz where it places everything in DOT source: its ``-Tjson``, as Python values.

    Raises `OutputError` where the engine fails.
    """
    return json.loads(_lay_out(source, "json").decode(errors="replace"))


def _lay_out(source: str, format: str) -> bytes:
    try:
        run = subprocess.run(_find_engine(format), input=source.encode(), capture_output=True, check=False)
    except OSError as error:
        raise _make_error(str(error)) from error
    if run.returncode or not run.stdout:
        raise _make_error(run.stderr.decode(errors="replace"))
    return run.stdout


def _find_engine(format: str) -> list[str]:
    dot = shutil.which("dot")
    return [dot, f"-T{format}"] if dot else [sys.executable, "-c", _BUNDLED_ENGINE, format, *sys.path]


def _make_error(errors: str) -> OutputError:
    last = "; ".join(escape(line) for line in errors.strip().splitlines()[-SHOWN_LINES:])
    return OutputError(
        f"the layout engine failed: {last or 'no message'}",
        "a working `dot` on the PATH, or pygraphviz",
        "pip install pygraphviz; or write a .dot file, which needs no layout",
    )


# Titles of frames that arrows cross
#
# Graphviz places a title before it draws arrows, so only a finished layout tells which are crossed. A crossed title is
# turned to the other side where fewer arrows cross it; that moves nothing else, as it takes the same room.


_POINTS_PER_INCH = 72
_POINT_DISTANCE = 4.0
"""Distance of the points that stand for an arrow: less than the height of a line of text."""
_FRAME = "cluster"

Point = tuple[float, float]


class Area(NamedTuple):
    """A rectangle, in points."""

    left: float
    bottom: float
    right: float
    top: float

    def holds(self, point: Point) -> bool:
        """Whether a point lies in it."""
        return self.left <= point[0] <= self.right and self.bottom <= point[1] <= self.top


def find_crossed_titles(layout: Mapping[str, Any]) -> frozenset[str]:
    """The frames whose title more arrows cross on the left than would on the right, by name.

    ``layout`` is Graphviz's JSON (`fxgrad.render.layout.read_positions`).
    """
    arrows = [list(_list_points(edge["pos"])) for edge in layout.get("edges", ()) if "pos" in edge]
    frames = [each for each in layout["objects"] if each["name"].startswith(_FRAME) and "lp" in each]
    return frozenset(frame["name"] for frame in frames if _is_better_turned(frame, arrows))


def _is_better_turned(frame: Mapping[str, Any], arrows: Sequence[Sequence[Point]]) -> bool:
    left, right = (sum(any(map(side.holds, arrow)) for arrow in arrows) for side in _find_sides(frame))
    return right < left


def _find_sides(frame: Mapping[str, Any]) -> tuple[Area, Area]:
    """Where the title is, and where it would be: its words take half of the label's width, on the outer side."""
    start, _, end, _ = _parse_numbers(frame["bb"])
    x, y = _parse_numbers(frame["lp"])
    half_width = float(frame["lwidth"]) * _POINTS_PER_INCH / 2
    half_height = float(frame["lheight"]) * _POINTS_PER_INCH / 2
    mirrored = start + end - x
    return (
        Area(x - half_width, y - half_height, x, y + half_height),
        Area(mirrored, y - half_height, mirrored + half_width, y + half_height),
    )


def _list_points(pos: str) -> Iterator[Point]:
    """Points along an arrow, from Graphviz's ``e,x,y x,y x,y ...``: its tip, and the points of Bezier curves."""
    tips = [_parse_numbers(part[2:]) for part in pos.split() if part.startswith(("e,", "s,"))]
    corners = [_parse_numbers(part) for part in pos.split() if not part.startswith(("e,", "s,"))]
    for at in range(0, len(corners) - 3, 3):
        yield from _list_curve_points(corners[at : at + 4])
    yield from ((x, y) for x, y in tips)


def _list_curve_points(corners: Sequence[Sequence[float]]) -> Iterator[Point]:
    length = sum(math.dist(one, other) for one, other in itertools.pairwise(corners))
    steps = max(1, math.ceil(length / _POINT_DISTANCE))
    for step in range(steps + 1):
        t = step / steps
        shares = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
        x, y = (sum(share * corner[axis] for share, corner in zip(shares, corners, strict=True)) for axis in (0, 1))
        yield x, y


def _parse_numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))
