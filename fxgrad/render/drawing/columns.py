"""Sets a pane that is too tall, or too much for dot, in columns: cuts it where few wires cross, and leads those around the columns.

Columns stand beside each other. A wire from one to another leaves its column below, goes along under the columns, up beside the
column where it ends and into that from above. Wires to one port share their way.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from fxgrad.render.drawing.pane_dot import find_stars
from fxgrad.render.drawing.panes import BORDER, MIDDLE, End, Pane, Plan, Point, Stroke, Wire, make_line, shift

GAP = 46
"""Of a row to the next, with the label of a wire."""
_TALL, _RATIO = 1_500, 3.0
"""A pane stays whole up to this height, or this much taller than wide."""
_BEST_RATIO = 1.0
_MOST_CHILDREN, _MOST_WIRES = 60, 150
_MOST_CROSSING = 12
_WINDOW = 0.35
"""So much of a column's height it may be taller or shorter, if fewer wires cross the cut."""
_LANE = 7
_EDGE = 14


class Cut(NamedTuple):
    """A pane in parts: the children of each, and where each wire goes.

    ``inner``  for each wire within a part: the part and its wire there
    ``outer``  for each wire that leaves a part or enters one: its parts' ports, as (part, port, wire there); None at the border
    """

    parts: tuple[Pane, ...]
    members: tuple[tuple[int, ...], ...]
    inner: dict[int, tuple[int, int]]
    leaving: dict[int, tuple[int, int, int]]
    entering: dict[int, tuple[int, int, int]]


def cut_pane(pane: Pane) -> Cut | None:
    """Cut a pane into columns; None for one that dot can lay out whole, and that is not too tall."""
    starts, total = _find_starts(pane)
    width = max([1.0, *(child.width for child in pane.children)])
    area = sum((child.width + 18) * (child.height + GAP) for child in pane.children)
    width = max(width, area / max(total, 1.0))
    in_rows = sum(len(row) for star in find_stars(pane) for row in star.rows)
    is_hard = len(pane.children) - in_rows > _MOST_CHILDREN or len(pane.wires) - in_rows > _MOST_WIRES
    if not is_hard and (total <= _TALL or total <= _RATIO * width):
        return None
    wanted = math.ceil(math.sqrt(total / (_BEST_RATIO * width)))
    needed = math.ceil(max(len(pane.children) / _MOST_CHILDREN, len(pane.wires) / _MOST_WIRES)) if is_hard else 1
    members = _choose_parts(pane, starts, total, max(wanted, needed), is_hard=is_hard)
    return _cut(pane, members) if len(members) > 1 else None


def _find_starts(pane: Pane) -> tuple[list[float], float]:
    """How far down each child starts, about, if each stands right below those that lead to it; and how tall all is."""
    order, before, after = _sort(pane)
    starts = [0.0] * len(pane.children)
    rows = _find_rows(pane)
    for child in order:
        above = (starts[each] + pane.children[each].height + GAP for each in before[child])
        starts[child] = max(above, default=0.0) + rows.get(child, 0.0)
    for child in reversed(order):
        if not before[child] and after[child]:  # what nothing leads to stands right above what it leads to
            starts[child] = max(0.0, min(starts[each] for each in after[child]) - pane.children[child].height - GAP)
    return starts, max((start + child.height for start, child in zip(starts, pane.children, strict=True)), default=0.0)


def _find_rows(pane: Pane) -> dict[int, float]:
    """How far below the first row of ends those of later rows stand."""
    found: dict[int, float] = {}
    for star in find_stars(pane):
        down = 0.0
        for row in star.rows:
            found.update(dict.fromkeys(row, down))
            down += max(pane.children[child].height for child in row) + GAP
    return found


def _sort(pane: Pane) -> tuple[list[int], list[set[int]], list[set[int]]]:
    """The children so that wires lead on, as far as that is possible; and of each those before and after it in that order."""
    count = len(pane.children)
    before: list[set[int]] = [set() for _ in range(count)]
    after: list[set[int]] = [set() for _ in range(count)]
    for wire in pane.wires:
        tail, head = wire.tail.child, wire.head.child
        if BORDER not in (tail, head) and tail != head:
            before[head].add(tail)
            after[tail].add(head)
    waiting = [len(each) for each in before]
    ready = [child for child in range(count) if not waiting[child]][::-1]
    order: list[int] = []
    seen: set[int] = set()
    rest = iter(range(count))
    while len(order) < count:
        if not ready:  # the wires go round in a circle: begin anywhere
            ready.append(next(child for child in rest if child not in seen))
        child = ready.pop()
        if child in seen:
            continue
        seen.add(child)
        order.append(child)
        for head in sorted(after[child], reverse=True):
            waiting[head] -= 1
            if waiting[head] <= 0 and head not in seen:
                ready.append(head)
    places = {child: place for place, child in enumerate(order)}
    for child in range(count):
        before[child] = {each for each in before[child] if places[each] < places[child]}
        after[child] = {each for each in after[child] if places[each] > places[child]}
    return order, before, after


def _choose_parts(pane: Pane, starts: Sequence[float], total: float, wanted: int, *, is_hard: bool) -> list[list[int]]:
    """The children of each column, from the top down."""
    order = sorted(range(len(pane.children)), key=lambda child: (starts[child], child))
    costs = _count_crossing(pane, order)
    parts: list[list[int]] = []
    begin, height = 0, total / wanted
    while begin < len(order):
        top = starts[order[begin]]
        limit = _find_limit(pane, order, begin) if is_hard else len(order)
        cut = len(order)
        if limit < len(order) or total - top > 1.35 * height:
            away = {at: abs(starts[order[at]] - top - height) for at in range(begin + 1, limit)}
            away[limit] = away.get(limit, abs(starts[order[limit]] - top - height)) if limit < cut else math.inf
            near = [at for at, far in away.items() if far <= _WINDOW * height]
            best = min(away, key=lambda at: (away[at], at))
            cut = min(near, key=lambda at: (costs[at], away[at]), default=best)
        if cut < len(order) and costs[cut] > _MOST_CROSSING and not is_hard:
            cut = len(order)
        parts.append(order[begin:cut])
        begin = cut
    return parts


def _find_limit(pane: Pane, order: Sequence[int], begin: int) -> int:
    """Where a part that begins there has to end so that dot can lay it out."""
    places = {child: place for place, child in enumerate(order)}
    ends = Counter(
        max(places[wire.tail.child], places[wire.head.child])
        for wire in pane.wires
        if BORDER not in (wire.tail.child, wire.head.child)
        and min(places[wire.tail.child], places[wire.head.child]) >= begin
    )
    wires = 0
    for at in range(begin, min(len(order), begin + _MOST_CHILDREN)):
        wires += ends[at]
        if wires > _MOST_WIRES and at > begin:
            return at
    return min(len(order), begin + _MOST_CHILDREN)


def _count_crossing(pane: Pane, order: Sequence[int]) -> list[int]:
    """For each place in the order, how many bundles of wires would cross a cut before it."""
    places = {child: place for place, child in enumerate(order)}
    spans: dict[End, tuple[int, int]] = {}
    degrees = _count_ends(wire for wire in pane.wires if BORDER not in (wire.tail.child, wire.head.child))
    for wire in pane.wires:
        if BORDER in (wire.tail.child, wire.head.child):
            continue
        key = wire.tail if degrees[wire.tail] >= degrees[wire.head] else wire.head
        low, high = sorted((places[wire.tail.child], places[wire.head.child]))
        first, last = spans.get(key, (low, high))
        spans[key] = (min(first, low), max(last, high))
    changes = [0] * (len(order) + 2)
    for low, high in spans.values():
        changes[low + 1] += 1
        changes[high + 1] -= 1
    costs, now = [], 0
    for change in changes[: len(order) + 1]:
        now += change
        costs.append(now)
    return costs


def _count_ends(wires: Iterable[Wire]) -> Counter[End]:
    return Counter(end for wire in wires for end in {wire.tail, wire.head})


# The parts


class _Part:
    """What is gathered for one part."""

    def __init__(self, children: Sequence[int]) -> None:
        self.numbers = {child: number for number, child in enumerate(children)}
        self.wires: dict[tuple[Wire, int | None], int] = {}
        self.tops: dict[tuple[str, End], int] = {}
        self.bottoms: dict[tuple[str, End], int] = {}

    def add(self, wire: Wire, apart: int | None = None) -> int:
        """The number of the wire; wires with the same ends are one, unless they are kept apart."""
        return self.wires.setdefault((wire, apart), len(self.wires))

    def keep(self, wire: Wire, index: int) -> int:
        """Take a wire of the pane with both ends in the part; those between ports may be one."""
        apart = index if wire.tail.port == wire.head.port == MIDDLE else None
        return self.add(wire._replace(tail=self._find(wire.tail), head=self._find(wire.head)), apart)

    def let_out(self, wire: Wire, meeting: _Meeting) -> tuple[int, int]:
        """The port below through which a wire of the pane leaves the part, and the wire that leads there."""
        # an own port at the pane's border has one in the part as well
        shares_head = wire.head.child == BORDER or meeting[wire.head] > meeting[wire.tail]
        key = ("head", wire.head) if shares_head else ("tail", wire.tail)
        port = self.bottoms.setdefault(key, len(self.bottoms))
        return port, self.add(Wire(self._find(wire.tail), End(BORDER, port), None, min(wire.tip, 0)))

    def let_in(self, wire: Wire, meeting: _Meeting) -> tuple[int, int]:
        """The port above through which a wire of the pane enters the part, and the wire that leads on from there."""
        shares_tail = wire.tail.child == BORDER or meeting[wire.tail] > meeting[wire.head]
        key = ("tail", wire.tail) if shares_tail else ("head", wire.head)
        port = self.tops.setdefault(key, len(self.tops))
        return port, self.add(Wire(End(BORDER, port), self._find(wire.head), wire.label, max(wire.tip, 0), wire.words))

    def _find(self, end: End) -> End:
        return End(self.numbers[end.child], end.port)

    def make_pane(self, pane: Pane) -> Pane:
        """The part as a pane of its own."""
        children = tuple([pane.children[child] for child in self.numbers])
        return Pane(children, tuple([wire for wire, _ in self.wires]), len(self.tops), len(self.bottoms))


_Meeting = Counter[End]
"""How many of the wires that leave a part, or that enter it, meet at an end."""


def _cut(pane: Pane, members: Sequence[Sequence[int]]) -> Cut:
    parts = [_Part(children) for children in members]
    homes = {child: number for number, children in enumerate(members) for child in children}
    inner: dict[int, tuple[int, int]] = {}
    leaving: dict[int, tuple[int, int, int]] = {}
    entering: dict[int, tuple[int, int, int]] = {}
    out, into = _count_meeting(pane, homes, len(parts))
    for index, wire in enumerate(pane.wires):
        above, below = homes.get(wire.tail.child), homes.get(wire.head.child)
        if above is not None and above == below:
            inner[index] = (above, parts[above].keep(wire, index))
            continue
        if above is not None:
            leaving[index] = (above, *parts[above].let_out(wire, out[above]))
        if below is not None:
            entering[index] = (below, *parts[below].let_in(wire, into[below]))
    panes = tuple([part.make_pane(pane) for part in parts])
    return Cut(panes, tuple([tuple(children) for children in members]), inner, leaving, entering)


def _count_meeting(pane: Pane, homes: Mapping[int, int], parts: int) -> tuple[list[_Meeting], list[_Meeting]]:
    """For each part, of the wires that leave it and of those that enter it."""
    out: list[_Meeting] = [Counter() for _ in range(parts)]
    into: list[_Meeting] = [Counter() for _ in range(parts)]
    for wire in pane.wires:
        above, below = homes.get(wire.tail.child), homes.get(wire.head.child)
        if above is not None and above != below:
            out[above].update({wire.tail, wire.head})
        if below is not None and above != below:
            into[below].update({wire.tail, wire.head})
    return out, into


# The columns


Net = tuple[int, int]
"""The part where wires end, and the port on its upper side."""


class _Columns(NamedTuple):
    """Where the columns stand: their left sides, and where under and above them the lanes are."""

    lefts: list[float]
    top: float
    below: float
    gutter_lanes: dict[Net, float]
    top_lanes: dict[Net, float]
    low_lanes: dict[Net, float]
    width: float
    height: float


def arrange(pane: Pane, cut: Cut, plans: Sequence[Plan]) -> Plan:
    """Set the parts beside each other and lead the wires around them."""
    nets = _find_nets(cut)
    columns = _measure_columns(plans, nets)
    places: list[Point] = [(0, 0)] * len(pane.children)
    for left, plan, children in zip(columns.lefts, plans, cut.members, strict=True):
        for child, (x, y) in zip(children, plan.places, strict=True):
            places[child] = (left + x, columns.top + y)
    tops, bottoms = _find_borders(pane, cut, plans, columns)
    strokes = tuple(_lead(pane, cut, plans, columns, nets, tops, bottoms))
    labels = list(_find_labels(pane, cut, plans, columns))
    return Plan(columns.width, columns.height, tuple(places), strokes, tuple(labels), tuple(tops), tuple(bottoms))


def _find_nets(cut: Cut) -> dict[Net, list[Net]]:
    """For each port above a part, the ports below parts that wires lead to it from."""
    nets: dict[Net, dict[Net, None]] = {}
    for index, (part, port, _) in cut.entering.items():
        if index in cut.leaving:
            nets.setdefault((part, port), {})[cut.leaving[index][:2]] = None
    return {net: list(sources) for net, sources in nets.items()}


def _measure_columns(plans: Sequence[Plan], nets: dict[Net, list[Net]]) -> _Columns:
    per_part = Counter(part for part, _ in nets)
    top = 2 * _EDGE + _LANE * max(per_part.values(), default=0)
    lefts, x = [], 0.0
    for part, plan in enumerate(plans):
        x += (_EDGE if part else 0) + _LANE * per_part[part] + (_EDGE if per_part[part] else 0)
        lefts.append(x)
        x += plan.width
    gutter: dict[Net, float] = {}
    above: dict[Net, float] = {}
    for part, plan in enumerate(plans):
        ports = sorted((port for home, port in nets if home == part), key=lambda port: plan.tops[port])
        for place, port in enumerate(ports):
            gutter[part, port] = lefts[part] - _EDGE - _LANE * place
            above[part, port] = top - _EDGE - _LANE * place
    low = top + max(plan.height for plan in plans)
    lanes = _share_lanes(nets, plans, lefts, gutter)
    below = {net: low + _EDGE + _LANE * lane for net, lane in lanes.items()}
    height = low + 2 * _EDGE + _LANE * (max(lanes.values(), default=-1) + 1)
    return _Columns(lefts, top, low, gutter, above, below, x, height)


def _share_lanes(
    nets: dict[Net, list[Net]], plans: Sequence[Plan], lefts: Sequence[float], gutter: dict[Net, float]
) -> dict[Net, int]:
    """A lane under the columns for each net, so that those that overlap have different ones."""
    spans = []
    for net, sources in nets.items():
        xs = [gutter[net], *(lefts[part] + plans[part].bottoms[port] for part, port in sources)]
        spans.append((min(xs), max(xs), net))
    lanes: dict[Net, int] = {}
    ends: list[float] = []
    for low, high, net in sorted(spans):
        lane = next((lane for lane, end in enumerate(ends) if end + _LANE < low), len(ends))
        if lane == len(ends):
            ends.append(0.0)
        ends[lane] = high
        lanes[net] = lane
    return lanes


def _find_borders(pane: Pane, cut: Cut, plans: Sequence[Plan], columns: _Columns) -> tuple[list[float], list[float]]:
    """A port of the border stands where the first part that it leads to has its own."""
    tops, bottoms = [0.0] * pane.tops, [0.0] * pane.bottoms
    for index, wire in reversed(list(enumerate(pane.wires))):
        if wire.tail.child == BORDER:
            part, port, _ = cut.entering[index]
            tops[wire.tail.port] = columns.lefts[part] + plans[part].tops[port]
        if wire.head.child == BORDER:
            part, port, _ = cut.leaving[index]
            bottoms[wire.head.port] = columns.lefts[part] + plans[part].bottoms[port]
    return tops, bottoms


def _lead(
    pane: Pane,
    cut: Cut,
    plans: Sequence[Plan],
    columns: _Columns,
    nets: dict[Net, list[Net]],
    tops: Sequence[float],
    bottoms: Sequence[float],
) -> Iterator[tuple[Stroke, ...]]:
    """What is drawn of each wire."""
    ways = _Ways(cut, plans, columns, nets)
    for index, wire in enumerate(pane.wires):
        if index in cut.inner:
            strokes = ways.draw_inside(*cut.inner[index])
        elif wire.tail.child == BORDER:
            strokes = ways.enter(index, tops[wire.tail.port])
        elif wire.head.child == BORDER:
            strokes = ways.leave(index, bottoms[wire.head.port])
        else:
            strokes = ways.go_between(index)
        yield tuple(strokes)


class _Ways:
    """Draws wires one after the other: what one has drawn, those after it that share it do not."""

    def __init__(self, cut: Cut, plans: Sequence[Plan], columns: _Columns, nets: dict[Net, list[Net]]) -> None:
        self._cut, self._plans, self._columns, self._nets = cut, plans, columns, nets
        self._drawn: set[tuple[object, ...]] = set()

    def draw_inside(self, part: int, wire: int) -> Iterator[Stroke]:
        """A wire of a part, by its number there."""
        if self._is_first("inside", part, wire):
            for stroke in self._plans[part].strokes[wire]:
                yield shift(stroke, self._columns.lefts[part], self._columns.top)

    def enter(self, index: int, x: float) -> Iterator[Stroke]:
        """From the pane's upper border."""
        part, port, number = self._cut.entering[index]
        end = self._find_top(part, port)
        if self._is_first("enter", part, port):
            yield Stroke(_bend((x, 0.0), end, end[1] - _EDGE / 2))
        yield from self.draw_inside(part, number)

    def leave(self, index: int, x: float) -> Iterator[Stroke]:
        """To the pane's lower border."""
        part, port, number = self._cut.leaving[index]
        yield from self.draw_inside(part, number)
        if self._is_first("leave", part, port):
            height = self._columns.height
            yield Stroke(_bend(self._find_bottom(part, port), (x, height), height - _EDGE / 2))

    def go_between(self, index: int) -> Iterator[Stroke]:
        """From one part to another."""
        part, port, number = self._cut.leaving[index]
        home, goal, last = self._cut.entering[index]
        yield from self.draw_inside(part, number)
        yield from self._join_net((part, port), (home, goal))
        yield from self.draw_inside(home, last)

    def _join_net(self, source: Net, net: Net) -> Iterator[Stroke]:
        """All the way for the farthest of those that lead there, and for the others what leads to that."""
        start, columns = self._find_bottom(*source), self._columns
        lane, gutter = columns.low_lanes[net], columns.gutter_lanes[net]
        far = max((self._find_bottom(*each) for each in self._nets[net]), key=lambda at: abs(at[0] - gutter))
        if start == far:
            # drawn by a wire from there: of each two ends that are joined, one wire draws something
            if self._is_first("net", net):
                end, above = self._find_top(*net), columns.top_lanes[net]
                way = (start, (start[0], lane), (gutter, lane), (gutter, above), (end[0], above), end)
                yield Stroke(make_line(*way))
        elif self._is_first("tap", source, net):
            is_beside = (start[0] < gutter) == (far[0] < gutter)
            join = start[0] + math.copysign(12, gutter - start[0]) if is_beside else gutter
            yield Stroke(make_line(start, (start[0], lane), (join, lane)))

    def _is_first(self, *name: object) -> bool:
        if name in self._drawn:
            return False
        self._drawn.add(name)
        return True

    def _find_bottom(self, part: int, port: int) -> Point:
        plan = self._plans[part]
        return (self._columns.lefts[part] + plan.bottoms[port], self._columns.top + plan.height)

    def _find_top(self, part: int, port: int) -> Point:
        return (self._columns.lefts[part] + self._plans[part].tops[port], self._columns.top)


def _bend(start: Point, end: Point, turn: float) -> tuple[Point, ...]:
    """Straight down, or with a step to the side."""
    if abs(start[0] - end[0]) < 1:
        return make_line(start, end)
    return make_line(start, (start[0], turn), (end[0], turn), end)


def _find_labels(pane: Pane, cut: Cut, plans: Sequence[Plan], columns: _Columns) -> Iterator[Point | None]:
    """The label of a wire between parts stands where it ends; wires that are one there have it once."""
    seen: set[tuple[int, int]] = set()
    for index in range(len(pane.wires)):
        part, number = cut.inner.get(index) or cut.entering.get(index, (-1, -1, -1))[::2]
        place = None if part < 0 or (part, number) in seen else plans[part].labels[number]
        seen.add((part, number))
        yield None if place is None else (place[0] + columns.lefts[part], place[1] + columns.top)
