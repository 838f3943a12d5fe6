"""A pane: boxes of known sizes and the wires between them, and where they are once they are laid out. Plain numbers.

All is in points, x to the right and y down, from the pane's upper left corner.
"""

from __future__ import annotations

from typing import NamedTuple

Point = tuple[float, float]

BORDER = -1
"""The child of an `End` that is on the pane's own border."""
MIDDLE = -1
"""The port of an `End` at no port of its child."""


class Child(NamedTuple):
    """A box in a pane. Wires come in at ports on its upper side and leave at ports on its lower side, at these distances
    from its left; or they meet its outline anywhere.
    """

    width: int
    height: int
    tops: tuple[int, ...] = ()
    bottoms: tuple[int, ...] = ()


class End(NamedTuple):
    """Where a wire ends: the number of a child and of a port. On the border, a tail is above and a head below."""

    child: int
    port: int = MIDDLE


class Wire(NamedTuple):
    """Leads down from its tail to its head, with a label of that width and height. A ``tip`` is the head of an arrow: 1 at the
    wire's head, -1 at its tail, 0 at neither. Labels of the same ``words``, by number, say the same.
    """

    tail: End
    head: End
    label: tuple[int, int] | None = None
    tip: int = 0
    words: int = 0


class Pane(NamedTuple):
    """What is laid out together; ``tops`` and ``bottoms`` are how many ports its border has."""

    children: tuple[Child, ...]
    wires: tuple[Wire, ...]
    tops: int = 0
    bottoms: int = 0


class Stroke(NamedTuple):
    """A line of Bezier curves: a point, then three for each curve. ``tip`` is as in `Wire`."""

    points: tuple[Point, ...]
    tip: int = 0


class Plan(NamedTuple):
    """A pane laid out.

    ``places``  the upper left corner of each child
    ``strokes`` what is drawn of each wire: nothing where others that lead the same way are drawn
    ``labels``  the middle of each wire's label
    ``tops``, ``bottoms``  how far each port of the border is from the left
    """

    width: float
    height: float
    places: tuple[Point, ...]
    strokes: tuple[tuple[Stroke, ...], ...]
    labels: tuple[Point | None, ...]
    tops: tuple[float, ...]
    bottoms: tuple[float, ...]


def shift(stroke: Stroke, x: float, y: float) -> Stroke:
    """Move a stroke.

    >>> shift(Stroke(((0, 0), (1, 1), (2, 2), (3, 3)), 1), 10, 20).points[-1]
    (13, 23)
    """
    return Stroke(tuple([(left + x, top + y) for left, top in stroke.points]), stroke.tip)


def make_line(*corners: Point, radius: float = 6.0) -> tuple[Point, ...]:
    """Bezier curves along straight lines, with round corners.

    >>> make_line((0, 0), (0, 30))
    ((0, 0), (0.0, 10.0), (0.0, 20.0), (0, 30))
    """
    points = [corners[0]]
    for before, corner, after in zip(corners, corners[1:], corners[2:], strict=False):
        near = min(radius, _distance(before, corner) / 2)
        far = min(radius, _distance(corner, after) / 2)
        start, end = _toward(corner, before, near), _toward(corner, after, far)
        points += [*_straight(points[-1], start), *(_mix(start, corner), _mix(end, corner), end)]
    points += _straight(points[-1], corners[-1])
    return tuple(points)


def _straight(start: Point, end: Point) -> list[Point]:
    return [_mix(start, end, 1 / 3), _mix(start, end, 2 / 3), end]


def _mix(one: Point, other: Point, share: float = 0.55) -> Point:
    return (one[0] + (other[0] - one[0]) * share, one[1] + (other[1] - one[1]) * share)


def _distance(one: Point, other: Point) -> float:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])


def _toward(start: Point, end: Point, far: float) -> Point:
    """The point that far from the start, on a line across or down."""
    distance = _distance(start, end)
    return start if distance == 0 else _mix(start, end, far / distance)
