"""Lays a picture out, frame by frame from the innermost out: in the frame around it, a frame is a box of a known size.

Frames of equal panes share a plan. Arrows that cross a frame's border meet at ports on it: those that come from one box, or go
to one, share a port and the line to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fxgrad.graph.text import count_noun
from fxgrad.render.drawing.panes import BORDER, MIDDLE, Child, End, Pane, Plan, Point, Stroke, Wire, make_line, shift
from fxgrad.render.pictures.parts import Arrow, Cluster, Picture
from fxgrad.render.pictures.theme import Flow

MARGIN = 12
TITLE_GAP = 10
Solve = Callable[[Sequence[Pane]], Sequence[Plan]]
Size = tuple[int, int]
Key = tuple[str, str, Flow]
"""Of a port: whether it is of the upper or the lower end of its arrows, that box, and what goes along."""


class PlacedLine(NamedTuple):
    """What is drawn for some arrows: between the two, or what leads there, which they may share with others."""

    arrows: tuple[int, ...]
    strokes: tuple[Stroke, ...]
    words: tuple[str, ...] = ()
    label: Point | None = None
    is_shared: bool = False


@dataclass(frozen=True)
class Placement:
    """Where everything is: the upper left corners of boxes, those of frames with their sizes and the places of their titles,
    and lines.
    """

    width: float
    height: float
    boxes: Mapping[str, Point]
    frames: Mapping[str, tuple[Point, Size, Point]]
    lines: tuple[PlacedLine, ...]


@dataclass
class _Frame:
    """What is gathered for one frame: its children by key, and for each pair of ends the arrows that join them."""

    children: dict[str, int] = field(default_factory=dict)
    bundles: dict[tuple[End, End, Flow, int | None], list[int]] = field(default_factory=dict)
    tops: dict[Key, int] = field(default_factory=dict)
    bottoms: dict[Key, int] = field(default_factory=dict)


class _Framed(NamedTuple):
    """A frame laid out: its box in the frame around it, and where in it the plan and the title stand."""

    child: Child
    plan: Plan
    across: float
    down: float
    title: Point


ROOT = ""


def lay_out(
    picture: Picture,
    *,
    box_sizes: Mapping[str, Size],
    title_sizes: Mapping[str, Size],
    measure_label: Callable[[Sequence[str]], Size],
    solve: Solve,
) -> Placement:
    """Lay a picture out. ``solve`` makes the plans of panes; the sizes are of boxes and titles, by key."""
    homes = {box.key: box.cluster or ROOT for box in picture.boxes}
    arrows = [arrow for arrow in picture.arrows if arrow.flow is not Flow.PAIR]
    frames = _gather(picture, arrows, homes)
    done: dict[str, _Framed] = {}
    labels: dict[str, list[tuple[str, ...]]] = {}
    for level in _list_levels(picture.clusters):
        panes = []
        for key in level:
            labels[key] = [
                _name_bundle(bundle, [arrows[i] for i in members]) for bundle, members in frames[key].bundles.items()
            ]
            panes.append(_make_pane(frames[key], labels[key], box_sizes, done, measure_label, arrows))
        for key, plan in zip(level, _solve_distinct(panes, solve), strict=True):
            done[key] = _put_frame(plan, title_sizes.get(key))
    return _place(picture, frames, labels, done)


# What each frame holds


def _gather(picture: Picture, arrows: Sequence[Arrow], homes: Mapping[str, str]) -> dict[str, _Frame]:
    frames = {ROOT: _Frame(), **{cluster.key: _Frame() for cluster in picture.clusters}}
    for box in picture.boxes:
        children = frames[homes[box.key]].children
        children[box.key] = len(children)
    for cluster in picture.clusters:
        children = frames[cluster.parent or ROOT].children
        children[cluster.key] = len(children)
    around = _find_lineages(picture.clusters)
    crossings = _count_crossings(arrows, homes, around)
    for index, arrow in enumerate(arrows):
        _add_arrow(frames, index, arrow, homes, around, crossings)
    return frames


def _find_lineages(clusters: Iterable[Cluster]) -> dict[str, tuple[str, ...]]:
    """For each frame those around it and itself, outermost first."""
    around: dict[str, tuple[str, ...]] = {ROOT: (ROOT,)}
    for cluster in clusters:
        around[cluster.key] = (*around[cluster.parent or ROOT], cluster.key)
    return around


def order_ends(arrow: Arrow) -> tuple[str, str]:
    """The upper and the lower end."""
    return (arrow.head, arrow.tail) if arrow.upward else (arrow.tail, arrow.head)


def _split(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many frames are around both."""
    agree = 0
    while agree < min(len(one), len(other)) and one[agree] == other[agree]:
        agree += 1
    return agree


def _count_crossings(
    arrows: Iterable[Arrow], homes: Mapping[str, str], around: Mapping[str, tuple[str, ...]]
) -> Counter[tuple[str, str, str]]:
    """For each frame and side of it, how many arrows of each box cross it there."""
    found: Counter[tuple[str, str, str]] = Counter()
    for arrow in arrows:
        upper, lower = order_ends(arrow)
        above, below = around[homes[upper]], around[homes[lower]]
        common = _split(above, below)
        found.update((frame, "out", end) for frame in above[common:] for end in {upper, lower})
        found.update((frame, "in", end) for frame in below[common:] for end in {upper, lower})
    return found


def _add_arrow(
    frames: Mapping[str, _Frame],
    index: int,
    arrow: Arrow,
    homes: Mapping[str, str],
    around: Mapping[str, tuple[str, ...]],
    crossings: Mapping[tuple[str, str, str], int],
) -> None:
    """Cut an arrow into pieces, one for each frame that it is in."""
    upper, lower = order_ends(arrow)
    above, below = around[homes[upper]], around[homes[lower]]
    common = _split(above, below)
    start = End(frames[above[-1]].children[upper])
    for frame in reversed(above[common:]):  # out of the frames around the upper end
        key = _pick_key(
            crossings[frame, "out", upper], crossings[frame, "out", lower], upper, lower, arrow.flow, tie="u"
        )
        port = frames[frame].bottoms.setdefault(key, len(frames[frame].bottoms))
        _join(frames[frame], start, End(BORDER, port), arrow, index)
        parent = frames[around[frame][-2]]
        start = End(parent.children[frame], port)
    end = End(frames[below[-1]].children[lower])
    for frame in reversed(below[common:]):  # into those around the lower end, from the inside out
        key = _pick_key(crossings[frame, "in", upper], crossings[frame, "in", lower], upper, lower, arrow.flow, tie="l")
        port = frames[frame].tops.setdefault(key, len(frames[frame].tops))
        _join(frames[frame], End(BORDER, port), end, arrow, index)
        parent = frames[around[frame][-2]]
        end = End(parent.children[frame], port)
    _join(frames[above[common - 1]], start, end, arrow, index)


def _pick_key(of_upper: int, of_lower: int, upper: str, lower: str, flow: Flow, *, tie: str) -> Key:
    """The arrows of the end at which more of them meet share a port."""
    side = tie if of_upper == of_lower else "u" if of_upper > of_lower else "l"
    return (side, upper if side == "u" else lower, flow)


def _join(frame: _Frame, start: End, end: End, arrow: Arrow, index: int) -> None:
    """Arrows from one box to another stay apart: each has its label."""
    apart = index if BORDER not in (start.child, end.child) and start.port == end.port == MIDDLE else None
    frame.bundles.setdefault((start, end, arrow.flow, apart), []).append(index)


def _name_bundle(bundle: tuple[End, End, Flow, int | None], members: Sequence[Arrow]) -> tuple[str, ...]:
    """What stands on a piece: in the frame around both ends what stands on the arrow, elsewhere nothing."""
    start, end, flow, _ = bundle
    if BORDER in (start.child, end.child):
        return ()
    words = dict.fromkeys(arrow.lines for arrow in members)
    if len(words) == 1:
        return next(iter(words))
    return (count_noun(sum(arrow.gradients for arrow in members), "value" if flow is Flow.VALUE else "gradient"),)


# Panes and their plans


def _list_levels(clusters: Sequence[Cluster]) -> Iterator[list[str]]:
    """The frames of each level, the innermost first; at last what is around all."""
    by_level: dict[int, list[str]] = {}
    for cluster in clusters:
        by_level.setdefault(cluster.level, []).append(cluster.key)
    yield from (by_level[level] for level in sorted(by_level, reverse=True))
    yield [ROOT]


def _make_pane(
    frame: _Frame,
    labels: Sequence[tuple[str, ...]],
    box_sizes: Mapping[str, Size],
    done: Mapping[str, _Framed],
    measure_label: Callable[[Sequence[str]], Size],
    arrows: Sequence[Arrow],
) -> Pane:
    children = [done[key].child if key in done else Child(*box_sizes[key]) for key in frame.children]
    wires = []
    numbers: dict[tuple[str, ...], int] = {}
    for (start, end, _, _), members, words in zip(frame.bundles, frame.bundles.values(), labels, strict=True):
        upward = arrows[members[0]].upward
        meets_box = (
            start.child != BORDER and start.port == MIDDLE if upward else end.child != BORDER and end.port == MIDDLE
        )
        tip = (-1 if upward else 1) if meets_box else 0
        wires.append(
            Wire(start, end, measure_label(words) if words else None, tip, numbers.setdefault(words, len(numbers)))
        )
    return Pane(tuple(children), tuple(wires), len(frame.tops), len(frame.bottoms))


def _solve_distinct(panes: Sequence[Pane], solve: Solve) -> Iterator[Plan]:
    distinct = list(dict.fromkeys(panes))
    plans = dict(zip(distinct, solve(distinct), strict=True))
    return (plans[pane] for pane in panes)


def _put_frame(plan: Plan, title: Size | None) -> _Framed:
    """Put a title above a plan, on the left or the right, where no port is; there is made room for it if need be."""
    if title is None:
        return _Framed(
            Child(round(plan.width) + 2 * MARGIN, round(plan.height) + 2 * MARGIN), plan, MARGIN, MARGIN, (0, 0)
        )
    width, height = title
    on_left = plan.width + max(0.0, width + TITLE_GAP - min(plan.tops, default=plan.width + width))
    on_right = max(plan.width, max(plan.tops, default=plan.width) + TITLE_GAP + width)
    if not plan.tops:
        inner = max(plan.width, width)
        across, title_left = (inner - plan.width) / 2, 0.0
    elif on_left <= on_right:
        inner, across, title_left = on_left, on_left - plan.width, 0.0
    else:
        inner, across, title_left = on_right, 0.0, on_right - width
    across += MARGIN
    child = Child(
        round(inner) + 2 * MARGIN,
        round(plan.height + height) + 2 * MARGIN,
        tuple([round(x + across) for x in plan.tops]),
        tuple([round(x + across) for x in plan.bottoms]),
    )
    return _Framed(child, plan, across, MARGIN / 2 + height, (MARGIN + title_left, MARGIN / 2))


# From the outermost frame in


def _place(
    picture: Picture,
    frames: Mapping[str, _Frame],
    labels: Mapping[str, Sequence[tuple[str, ...]]],
    done: Mapping[str, _Framed],
) -> Placement:
    corners: dict[str, Point] = {ROOT: (0, 0)}
    boxes: dict[str, Point] = {}
    outlines: dict[str, tuple[Point, Size, Point]] = {}
    lines: list[PlacedLine] = []
    for key in (ROOT, *(cluster.key for cluster in picture.clusters)):
        framed, (left, top) = done[key], corners[key]
        x, y = left + framed.across, top + framed.down
        if key != ROOT:
            size = (framed.child.width, framed.child.height)
            outlines[key] = ((left, top), size, (left + framed.title[0], top + framed.title[1]))
        for name, (across, down) in zip(frames[key].children, framed.plan.places, strict=True):
            (corners if name in frames else boxes)[name] = (x + across, y + down)
        lines += _move_lines(frames[key], labels[key], framed, (left, top))
    outer = done[ROOT].child
    return Placement(outer.width, outer.height, boxes, outlines, tuple(lines))


def _move_lines(
    frame: _Frame, labels: Sequence[tuple[str, ...]], framed: _Framed, corner: Point
) -> Iterator[PlacedLine]:
    x, y = corner[0] + framed.across, corner[1] + framed.down
    plan = framed.plan
    for (bundle, members), words, strokes, label in zip(
        frame.bundles.items(), labels, plan.strokes, plan.labels, strict=True
    ):
        moved = [shift(stroke, x, y) for stroke in strokes]
        # where another line has the way from the border, this one begins on that
        if bundle[0].child == BORDER and strokes and strokes[0].points[0][1] <= 0:
            at = corner[0] + framed.child.tops[bundle[0].port]
            moved[0] = _lead_in(moved[0], (at, corner[1]))
        if bundle[1].child == BORDER and strokes and strokes[-1].points[-1][1] >= plan.height:
            at = corner[0] + framed.child.bottoms[bundle[1].port]
            moved[-1] = _lead_out(moved[-1], (at, corner[1] + framed.child.height))
        place = None if label is None else (label[0] + x, label[1] + y)
        if moved:
            yield PlacedLine(tuple(members), tuple(moved), words, place, BORDER in (bundle[0].child, bundle[1].child))


def _lead_in(stroke: Stroke, start: Point) -> Stroke:
    """Begin a stroke at the frame instead of at the plan in it."""
    return Stroke((*make_line(start, (start[0], stroke.points[0][1])), *stroke.points[1:]), stroke.tip)


def _lead_out(stroke: Stroke, end: Point) -> Stroke:
    return Stroke((*stroke.points[:-1], *make_line((end[0], stroke.points[-1][1]), end)), stroke.tip)
