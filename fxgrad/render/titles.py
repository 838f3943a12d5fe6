"""Keeps the titles of frames free of arrows: one that arrows cross is turned to the other side, where fewer do.

Graphviz places a title before it draws arrows, so only a finished layout tells which are crossed. Turning a title moves
nothing else: it takes the same room.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_POINTS_PER_INCH = 72
_STEP = 4.0
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


def crossed_titles(layout: Mapping[str, Any]) -> frozenset[str]:
    """The frames whose title more arrows cross on the left than would on the right, by name.

    ``layout`` is Graphviz's JSON (`fxgrad.render.layout.positions`).
    """
    arrows = [list(_along(edge["pos"])) for edge in layout.get("edges", ()) if "pos" in edge]
    frames = [each for each in layout["objects"] if each["name"].startswith(_FRAME) and "lp" in each]
    return frozenset(frame["name"] for frame in frames if _is_better_turned(frame, arrows))


def _is_better_turned(frame: Mapping[str, Any], arrows: Sequence[Sequence[Point]]) -> bool:
    left, right = (sum(any(map(side.holds, arrow)) for arrow in arrows) for side in _sides(frame))
    return right < left


def _sides(frame: Mapping[str, Any]) -> tuple[Area, Area]:
    """Where the title is, and where it would be: its words take half of the label's width, on the outer side."""
    start, _, end, _ = _numbers(frame["bb"])
    x, y = _numbers(frame["lp"])
    half_width = float(frame["lwidth"]) * _POINTS_PER_INCH / 2
    half_height = float(frame["lheight"]) * _POINTS_PER_INCH / 2
    mirrored = start + end - x
    return (
        Area(x - half_width, y - half_height, x, y + half_height),
        Area(mirrored, y - half_height, mirrored + half_width, y + half_height),
    )


def _along(pos: str) -> Iterator[Point]:
    """Points along an arrow, from Graphviz's ``e,x,y x,y x,y ...``: its tip, and the points of Bezier curves."""
    tips = [_numbers(part[2:]) for part in pos.split() if part.startswith(("e,", "s,"))]
    corners = [_numbers(part) for part in pos.split() if not part.startswith(("e,", "s,"))]
    for at in range(0, len(corners) - 3, 3):
        yield from _curve(corners[at : at + 4])
    yield from ((x, y) for x, y in tips)


def _curve(corners: Sequence[Sequence[float]]) -> Iterator[Point]:
    length = sum(math.dist(one, other) for one, other in itertools.pairwise(corners))
    steps = max(1, math.ceil(length / _STEP))
    for step in range(steps + 1):
        t = step / steps
        shares = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
        x, y = (sum(share * corner[axis] for share, corner in zip(shares, corners, strict=True)) for axis in (0, 1))
        yield x, y


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))
