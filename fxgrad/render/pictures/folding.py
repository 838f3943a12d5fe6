"""Which nodes share a box, and which modules are open: what makes the picture of a large graph one that can be read.

A small graph is drawn whole. Of a larger one, equal module calls are drawn as one, so are equal nodes that one line made;
then modules are closed, the innermost first, until the picture fits; modules with hooks stay open as long as it does.
What is left over, the nodes of functional code, is put together as rows and parts. Everything is linear in the size of
the graph, and nothing here knows what a node is: `Thing` has all that is looked at.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from fxgrad.graph import ModuleCall

DRAWN_WHOLE = 60
"""So many boxes are drawn without folding anything, and modules are opened up to here."""
MOST_BOXES = 100
"""Up to here modules are opened that hooks are in, or on the way from them; what else is drawn comes on top."""
FEWEST_EQUAL = 3
"""So many module calls, or parameters, must be equal to be drawn as one."""
FEWEST_EQUAL_NODES = 5
MOST_ARROWS = 2
"""So many arrows a box are those of a loop's steps; equal nodes with more are a tangle, and stay apart."""
SHORTEST_ROW = 3
MOST_ITEMS = 48
"""So many boxes stand directly in one frame before they are put together in parts."""


class Thing(NamedTuple):
    """What may get a box of its own.

    ``home``   id of the module call that it is drawn in; None outside of all
    ``look``   what equal ones have in common; compared, never shown
    ``place``  where it stands among those of its call: in equal calls equal ones stand at the same place
    ``line``   the source line that made it; None where that is not known
    ``leaf``   the name of a leaf, else None
    ``mark``   hooks and findings there; what has none is falsy
    ``boxes``  how many it takes
    """

    home: str | None
    look: Hashable
    place: tuple[int, str]
    line: Hashable = None
    leaf: str | None = None
    mark: Hashable = None
    boxes: int = 1


class Tie(NamedTuple):
    """What leads from a thing to another; ``label`` is compared, never shown."""

    tail: int
    head: int
    label: Hashable = None


class Wish(NamedTuple):
    """What was asked for.

    ``everything``  fold nothing
    ``depth``       open the modules whose paths have at most so many components, and no others
    ``opened``      paths of modules that are open whatever comes, each kept apart from its equals
    ``roll_up``     whether equal ones are drawn as one, if the picture is large
    """

    everything: bool = False
    depth: int | None = None
    opened: frozenset[str] = frozenset()


Kind = Literal["node", "module", "row", "part"]


class Group(NamedTuple):
    """What one box stands for.

    ``kind``   "node": one, or equal ones; "module": a call that is closed, or equal ones; "row": nodes each of which leads
               to the next alone; "part": what stands near each other in a scope with too much in it
    ``home``   id of the call in whose frame it is drawn
    ``nodes``  all that it stands for; ``calls`` likewise
    ``shown``  of equal nodes the one that is described
    ``times``  how many equal ones it stands for, in one of those that its frame stands for
    """

    key: str
    kind: Kind
    home: str | None
    nodes: tuple[int, ...]
    calls: tuple[str, ...]
    shown: int
    times: int


class Frame(NamedTuple):
    """A call whose inside is drawn, and the equal ones that it stands for as well; ``times`` as in `Group`."""

    calls: tuple[str, ...]
    times: int


@dataclass(frozen=True)
class Folding:
    """Boxes by their keys, the key for each node, and the frames, by the id of the call that each shows.

    ``shown_calls``  for each call the one that is drawn in its place, where that is another
    ``shown_nodes``  for each node likewise
    """

    groups: Mapping[str, Group]
    keys: Mapping[int, str]
    frames: Mapping[str, Frame]
    shown_calls: Mapping[str, str]
    shown_nodes: Mapping[int, int]


def fold(
    things: Mapping[int, Thing],
    ties: Sequence[Tie],
    calls: Mapping[str, ModuleCall],
    lineages: Mapping[str, tuple[str, ...]],
    *,
    roots: Iterable[int] = (),
    wish: Wish,
) -> Folding:
    """Decide on the boxes and frames for these things, by their ids, which are in topological order."""
    tree = _Tree(things, calls, lineages)
    whole = sum(thing.boxes for thing in things.values())
    if wish.everything or (wish.depth is None and whole <= DRAWN_WHOLE):
        return _emit(tree, _Equals(tree), {}, frozenset(tree.calls))
    equals = _Equals(tree)
    forced = {call for call in tree.calls if _is_forced(calls[call].path, wish)}
    forced |= {around for call in forced for around in lineages[call]}
    if wish.depth is None or _count_boxes(tree, forced) > DRAWN_WHOLE:
        equals.roll_up(ties, wish)
    items = {scope: _list_items(tree, equals, scope) for scope in equals.scopes}
    if wish.depth is None or _count_items(items, forced) > DRAWN_WHOLE:
        _join_rows(tree, equals, items, ties, frozenset(roots))
    shown_forced = {equals.show_call(call) for call in forced}
    for scope, inside in items.items():
        items[scope] = _join_parts(inside, shown_forced)
    opened = _choose_open(tree, equals, items, ties, frozenset(roots), shown_forced, wish)
    return _emit(tree, equals, items, opened)


def _is_forced(path: str, wish: Wish) -> bool:
    """Whether what was asked for opens the module, or one inside it."""
    if wish.depth is not None and count_steps(path) <= wish.depth:
        return True
    return path in wish.opened


def count_steps(path: str) -> int:
    """How many names a module's path has.

    >>> count_steps("encoder.layers.3"), count_steps("")
    (3, 0)
    """
    return path.count(".") + 1 if path else 0


def _count_boxes(tree: _Tree, opened: set[str]) -> int:
    """Boxes if these calls are open and nothing is rolled up."""
    closed: set[str] = set()
    count = 0
    for thing in tree.things.values():
        around = tree.lineages[thing.home] if thing.home is not None else ()
        shut = next((call for call in around if call not in opened), None)
        count += thing.boxes if shut is None else 0
        closed |= {shut} if shut is not None else set()
    return count + len(closed)


# The tree of module calls that things are drawn in


class _Tree:
    """The calls around things, and an order of things and of calls in which those of one call stand together."""

    def __init__(
        self, things: Mapping[int, Thing], calls: Mapping[str, ModuleCall], lineages: Mapping[str, tuple[str, ...]]
    ) -> None:
        self.things, self.modules, self.lineages = things, calls, lineages
        self.direct: dict[str | None, list[int]] = {None: []}
        for number, thing in things.items():
            self.direct.setdefault(thing.home, []).append(number)
        around = {call for home in self.direct if home is not None for call in lineages[home]}
        self.children: dict[str | None, list[str]] = {None: []}
        for call in calls:  # in the order in which they began; backward runs the other way
            if call in around:
                self.children.setdefault(calls[call].parent, []).insert(0, call)
        self._number()

    def _number(self) -> None:
        """Number things and calls; each call has a range of both."""
        self.order: list[int] = []
        self.calls: list[str] = []
        self.starts: dict[str | None, tuple[int, int]] = {}
        self.ends: dict[str | None, tuple[int, int]] = {}
        waiting: list[tuple[str | None, bool]] = [(None, False)]
        while waiting:
            call, is_done = waiting.pop()
            if is_done:
                self.ends[call] = (len(self.order), len(self.calls))
                continue
            self.starts[call] = (len(self.order), len(self.calls))
            if call is not None:
                self.calls.append(call)
            self.order += sorted(self.direct.get(call, ()), key=lambda number: self.things[number].place)
            waiting.append((call, True))
            waiting += [(inner, False) for inner in reversed(self.children.get(call, []))]
        self.positions = {number: at for at, number in enumerate(self.order)}

    def list_inside(self, call: str | None) -> list[int]:
        """The things in a call and in the calls inside it."""
        return self.order[self.starts[call][0] : self.ends[call][0]]

    def list_calls(self, call: str) -> list[str]:
        """A call and the calls inside it."""
        return self.calls[self.starts[call][1] : self.ends[call][1]]

    def find_around(self, number: int) -> tuple[str, ...]:
        """The calls around a thing, outermost first."""
        home = self.things[number].home
        return () if home is None else self.lineages[home]


# Equal ones


class _Equals:
    """Which calls and which things are drawn in the place of others. ``scopes`` are the calls that may get a frame."""

    def __init__(self, tree: _Tree) -> None:
        self.tree = tree
        self._calls: dict[str, str] = {}
        self._things: dict[int, int] = {}
        self.scopes: list[str | None] = [None, *tree.calls]

    def show_call(self, call: str) -> str:
        """The call that is drawn in its place."""
        while call in self._calls:
            call = self._calls[call]
        return call

    def show(self, number: int) -> int:
        """The thing that is drawn in its place."""
        while number in self._things:
            number = self._things[number]
        return number

    def roll_up(self, ties: Sequence[Tie], wish: Wish) -> None:
        """Find what is equal: calls by their insides, then nodes that one line made, then leaves."""
        tree = self.tree
        looks = _find_looks(tree, ties, wish.opened)
        firsts = {call: min(tree.list_inside(call)) for call in tree.calls}
        self.scopes = []
        waiting: list[str | None] = [None]
        while waiting:
            scope = waiting.pop()
            self.scopes.append(scope)
            waiting += self._join_calls(tree.children.get(scope, []), looks, firsts)
        leaving, arriving = _index(ties)
        for scope in self.scopes:
            inside = [number for number in tree.direct.get(scope, ()) if not tree.things[number].mark]
            self._join_nodes([number for number in inside if tree.things[number].leaf is None], leaving)
        for scope in self.scopes:
            inside = [number for number in tree.direct.get(scope, ()) if not tree.things[number].mark]
            self._join_leaves([number for number in inside if tree.things[number].leaf is not None], arriving)

    def _join_calls(
        self, siblings: Sequence[str], looks: Mapping[str, int], firsts: Mapping[str, int]
    ) -> Iterator[str]:
        """Join the equal ones among the calls in one scope: those that are called alike, but for numbers."""
        alike: dict[tuple[int, str], list[str]] = {}
        for call in siblings:
            alike.setdefault((looks[call], _mask_numbers(self.tree.modules[call].path)), []).append(call)
        for equal in alike.values():
            if len(equal) < FEWEST_EQUAL:
                yield from equal
                continue
            shown = min(equal, key=lambda call: firsts[call])
            yield shown
            for call in equal:
                if call != shown:
                    pairs = zip(self.tree.list_calls(call), self.tree.list_calls(shown), strict=True)
                    self._calls.update(pairs)
                    self._things.update(zip(self.tree.list_inside(call), self.tree.list_inside(shown), strict=True))

    def _join_nodes(self, inside: Sequence[int], leaving: Mapping[int, Sequence[Tie]]) -> None:
        """Join what the same line made and what leads to the same, or to equal ones: the steps of a loop."""
        things = self.tree.things
        first = {number: (things[number].line, things[number].look) for number in inside}
        alike: dict[Hashable, list[int]] = {}
        for number in inside:
            if things[number].line is not None:
                ends = tuple(self._name_end(self.show(tie.head), first) for tie in leaving.get(number, ()))
                alike.setdefault((first[number], ends), []).append(number)
        joined = {
            number: min(equal) for equal in alike.values() if len(equal) >= FEWEST_EQUAL_NODES for number in equal
        }
        pairs = {
            (joined[number], joined.get(tie.head, tie.head)) for number in joined for tie in leaving.get(number, ())
        }
        inner = {pair for pair in pairs if pair[1] in first}
        if len(inner) <= MOST_ARROWS * len({*joined.values(), *(head for _, head in inner)}):
            self._things.update((number, shown) for number, shown in joined.items() if number != shown)

    def _name_end(self, end: int, first: Mapping[int, Hashable]) -> Hashable:
        thing = self.tree.things[end]
        return (_mask_numbers(thing.leaf), thing.look) if thing.leaf is not None else first.get(end, end)

    def _join_leaves(self, inside: Sequence[int], arriving: Mapping[int, Sequence[Tie]]) -> None:
        alike: dict[Hashable, list[int]] = {}
        for number in inside:
            thing = self.tree.things[number]
            users = frozenset((self.show(tie.tail), tie.label) for tie in arriving.get(number, ()))
            alike.setdefault((_mask_numbers(thing.leaf or ""), thing.look, users), []).append(number)
        for equal in alike.values():
            if len(equal) >= FEWEST_EQUAL:
                self._things.update((number, min(equal)) for number in equal if number != min(equal))


def _mask_numbers(path: str) -> str:
    return re.sub("[0-9]+", "#", path)


def _index(ties: Iterable[Tie]) -> tuple[dict[int, list[Tie]], dict[int, list[Tie]]]:
    """Ties by tail, and by head."""
    leaving: dict[int, list[Tie]] = {}
    arriving: dict[int, list[Tie]] = {}
    for tie in ties:
        leaving.setdefault(tie.tail, []).append(tie)
        arriving.setdefault(tie.head, []).append(tie)
    return leaving, arriving


def _find_looks(tree: _Tree, ties: Iterable[Tie], apart: frozenset[str]) -> dict[str, int]:
    """For each call a number that equal ones share: those with equal things inside, joined in the same way.

    A tie counts for the innermost call around both of its ends, by the places of these in the call; what leads out of a
    call is part of its things' looks.
    """
    inner: dict[str | None, list[tuple[int, int, Hashable]]] = {}
    commons: dict[tuple[str | None, str | None], str | None] = {}
    for tie in ties:
        homes = tree.things[tie.tail].home, tree.things[tie.head].home
        if homes not in commons:
            commons[homes] = _find_common(tree.find_around(tie.tail), tree.find_around(tie.head))
        ends = tree.positions[tie.tail], tree.positions[tie.head]
        inner.setdefault(commons[homes], []).append((*ends, tie.label))
    known: dict[Hashable, int] = {}
    looks: dict[str, int] = {}
    for call in reversed(tree.calls):
        module, start = tree.modules[call], tree.starts[call][0]
        prefix = f"{module.path}." if module.path else ""
        look = (
            module.type_name,
            module.path if module.path in apart else None,
            tuple(_describe(tree.things[number], prefix) for number in tree.order[start : _end_of_direct(tree, call)]),
            tuple(
                (tree.modules[child].path.removeprefix(prefix), looks[child]) for child in tree.children.get(call, ())
            ),
            tuple((tail - start, head - start, label) for tail, head, label in sorted(inner.get(call, ()), key=_ends)),
        )
        looks[call] = known.setdefault(look, len(known))
    return looks


def _ends(tie: tuple[int, int, Hashable]) -> tuple[int, int]:
    return tie[:2]


def _end_of_direct(tree: _Tree, call: str) -> int:
    return tree.starts[call][0] + len(tree.direct.get(call, ()))


def _describe(thing: Thing, prefix: str) -> Hashable:
    return thing.look, thing.mark, None if thing.leaf is None else thing.leaf.removeprefix(prefix)


def _find_common(one: tuple[str, ...], other: tuple[str, ...]) -> str | None:
    found = None
    for mine, its in zip(one, other, strict=False):
        if mine != its:
            break
        found = mine
    return found


# What stands directly in each frame


class _Item(NamedTuple):
    """A box or a frame in a scope: nodes, or calls; of a part both. ``is_marked`` if there is a hook or a finding in it."""

    kind: Kind
    nodes: tuple[int, ...]
    calls: tuple[str, ...]
    rank: int
    is_marked: bool
    boxes: int = 1


def _list_items(tree: _Tree, equals: _Equals, scope: str | None) -> list[_Item]:
    items = []
    for number in tree.direct.get(scope, ()):
        if equals.show(number) == number:
            thing = tree.things[number]
            items.append(_Item("node", (number,), (), number, bool(thing.mark), thing.boxes))
    for call in tree.children.get(scope, ()):
        if equals.show_call(call) == call:
            inside = tree.list_inside(call)
            is_marked = any(tree.things[number].mark for number in inside)
            items.append(_Item("module", (), (call,), min(inside), is_marked))
    return sorted(items, key=lambda item: item.rank)


def _count_items(items: Mapping[str | None, Sequence[_Item]], opened: set[str]) -> int:
    return sum(
        item.boxes
        for scope, inside in items.items()
        if scope is None or scope in opened
        for item in inside
        if not (item.calls and item.calls[0] in opened)
    )


def _join_rows(
    tree: _Tree,
    equals: _Equals,
    items: dict[str | None, list[_Item]],
    ties: Iterable[Tie],
    roots: frozenset[int],
) -> None:
    """Put nodes in one box each of which gets gradients from one alone and sends to one alone, itself of the row."""
    before: dict[int, set[int]] = {}
    after: dict[int, set[int]] = {}
    for tie in ties:
        tail, head = equals.show(tie.tail), equals.show(tie.head)
        after.setdefault(tail, set()).add(head)
        before.setdefault(head, set()).add(tail)
    starts = {equals.show(root) for root in roots}

    def fits(item: _Item) -> bool:
        thing = tree.things[item.nodes[0]] if item.kind == "node" else None
        number = item.rank
        return (
            thing is not None
            and thing.leaf is None
            and not item.is_marked
            and item.boxes == 1
            and number not in starts
            and len(before.get(number, ())) == 1
            and len(after.get(number, ())) == 1
            and number not in after[number]
        )

    for scope, inside in items.items():
        rows: dict[int, list[int]] = {}  # by their last node; nodes come in topological order
        for item in inside:
            if fits(item):
                number = item.rank
                (source,) = before[number]
                goes_on = source in rows and after[source] == {number}
                rows[number] = rows.pop(source) if goes_on else []
                rows[number].append(number)
        items[scope] = list(_put_rows(inside, [row for row in rows.values() if len(row) >= SHORTEST_ROW]))


def _put_rows(inside: Iterable[_Item], rows: Iterable[list[int]]) -> Iterator[_Item]:
    """Each row in the place of its first node."""
    row_of = {number: row for row in rows for number in row}
    for item in inside:
        row = row_of.get(item.rank) if item.kind == "node" else None
        if row is None:
            yield item
        elif row[0] == item.rank:
            yield _Item("row", tuple(row), (), item.rank, False)


def _join_parts(items: list[_Item], forced: set[str]) -> list[_Item]:
    """Put what stands near each other in one box, where there would be too many in one scope."""
    if sum(item.boxes for item in items) <= MOST_ITEMS:
        return items
    apart = [item for item in items if item.is_marked or (item.calls and item.calls[0] in forced)]
    if len(apart) > MOST_ITEMS // 2:
        apart = [item for item in items if item.calls and item.calls[0] in forced]
    kept = set(apart)
    size = math.ceil((len(items) - len(kept)) / max(MOST_ITEMS // 2 - len(kept), MOST_ITEMS // 4))
    found: list[_Item] = []
    run: list[_Item] = []
    for item in items:
        if item in kept or len(run) == size:
            found += _make_part(run)
            run = []
        if item in kept:
            found.append(item)
        else:
            run.append(item)
    return found + _make_part(run)


def _make_part(run: list[_Item]) -> list[_Item]:
    if len(run) <= 1:
        return run
    nodes = tuple(number for item in run for number in item.nodes)
    calls = tuple(call for item in run for call in item.calls)
    return [_Item("part", nodes, calls, run[0].rank, any(item.is_marked for item in run))]


# Which calls are open


def _choose_open(
    tree: _Tree,
    equals: _Equals,
    items: Mapping[str | None, Sequence[_Item]],
    ties: Sequence[Tie],
    roots: frozenset[int],
    forced: set[str],
    wish: Wish,
) -> frozenset[str]:
    """The calls whose inside is drawn: those asked for, then those of hooks, then level by level, while it fits."""
    room = _Room(items)
    for call in tree.calls:  # outermost first
        if call in forced:
            room.open(call)
    if wish.depth is not None:
        return frozenset(room.opened)
    for call in room.list_closed(None):
        room.open(call, most=MOST_BOXES)
    for path in wish.opened:
        for call in (call for call in tree.calls if _is_inside(tree.modules[call].path, path)):
            room.open(equals.show_call(call), most=MOST_BOXES)
    for number in _list_on_the_way(tree, equals, ties, roots):
        for call in tree.find_around(number):
            room.open(equals.show_call(call), most=MOST_BOXES)
    _open_levels(tree, room)
    return frozenset(room.opened)


def _is_inside(path: str, outer: str) -> bool:
    return path == outer or not outer or path.startswith(f"{outer}.")


class _Room:
    """Counts boxes as calls are opened."""

    def __init__(self, items: Mapping[str | None, Sequence[_Item]]) -> None:
        self._items = items
        self.opened: set[str] = set()
        self._openable = {item.calls[0] for inside in items.values() for item in inside if item.kind == "module"}
        self._parents = {
            item.calls[0]: scope for scope, inside in items.items() for item in inside if item.kind == "module"
        }
        self.boxes = self.count_inside(None)

    def count_inside(self, scope: str | None) -> int:
        return sum(item.boxes for item in self._items[scope])

    def cost(self, call: str) -> int:
        return self.count_inside(call) - 1

    def is_reachable(self, call: str) -> bool:
        """Whether it has a box of its own in what is open."""
        if call not in self._openable or call in self.opened:
            return False
        parent = self._parents[call]
        return parent is None or parent in self.opened

    def open(self, call: str, *, most: float = math.inf) -> None:
        """Open a call that has a box, if there are at most so many boxes then."""
        if self.is_reachable(call) and self.boxes + self.cost(call) <= most:
            self.opened.add(call)
            self.boxes += self.cost(call)

    def list_closed(self, scope: str | None) -> list[str]:
        """The calls with a box of their own directly in a scope."""
        return [item.calls[0] for item in self._items[scope] if item.kind == "module"]


def _open_levels(tree: _Tree, room: _Room) -> None:
    """Open what stands on one level, of each type of module all or none, the smallest first."""
    level = [call for call in tree.calls if call in room.opened and tree.modules[call].parent not in room.opened]
    while level:
        inner = [call for scope in level for call in room.list_closed(scope)]
        types: dict[str, list[str]] = {}
        for call in inner:
            types.setdefault(tree.modules[call].type_name, []).append(call)
        for alike in sorted(types.values(), key=lambda calls: sum(map(room.cost, calls))):
            closed = [call for call in alike if room.is_reachable(call)]
            if room.boxes + sum(map(room.cost, closed)) <= DRAWN_WHOLE:
                for call in closed:
                    room.open(call)
        level = [call for call in inner if call in room.opened]


def _list_on_the_way(tree: _Tree, equals: _Equals, ties: Sequence[Tie], roots: frozenset[int]) -> Iterator[int]:
    """What has hooks or findings, then what is on the way to the nearest leaves, then on the way from the roots."""
    marked = [number for number, thing in tree.things.items() if thing.mark and equals.show(number) == number]
    yield from marked
    if not marked:
        return
    leaving, _ = _index(ties)
    steps: dict[int, tuple[int, int | None]] = {}  # to the nearest leaf: how many, and the next on the way
    for number in sorted(tree.things, reverse=True):
        ends = [(steps[tie.head][0] + 1, tie.head) for tie in leaving.get(number, ()) if tie.head in steps]
        steps[number] = (0, None) if tree.things[number].leaf is not None or not ends else min(ends)
    down = {number: step for number, (_, step) in steps.items() if step is not None}
    seen: set[int] = set()
    for start in (tie.head for number in marked for tie in leaving.get(number, ())):
        yield from _follow(start, down, seen)
    sources: dict[int, int] = {}
    found = sorted(roots & tree.things.keys())
    for number in found:  # grows
        for tie in leaving.get(number, ()):
            if tie.head not in sources and tie.head not in roots:
                sources[tie.head] = number
                found.append(tie.head)
    seen = set()
    for number in marked:
        yield from _follow(number, sources, seen)


def _follow(start: int | None, steps: Mapping[int, int], seen: set[int]) -> Iterator[int]:
    while start is not None and start not in seen:
        seen.add(start)
        yield start
        start = steps.get(start)


# The result


def _emit(tree: _Tree, equals: _Equals, items: Mapping[str | None, Sequence[_Item]], opened: frozenset[str]) -> Folding:
    shown_calls = {call: equals.show_call(call) for call in tree.calls}
    shown_nodes = {number: equals.show(number) for number in tree.things}
    alike_calls: dict[str, list[str]] = {}
    for call, shown in sorted(shown_calls.items(), key=lambda pair: tree.starts[pair[0]]):
        alike_calls.setdefault(shown, []).append(call)
    copies = Counter(shown_nodes.values())
    ranks = {call: rank for rank, call in enumerate(tree.modules)}
    groups: list[tuple[str, _Item, str | None]] = []
    keys: dict[int, str] = {}
    for scope in (None, *(call for call in tree.calls if call in opened and shown_calls[call] == call)):
        for item in items[scope] if scope in items else _list_items(tree, equals, scope):
            if item.kind == "module" and item.calls[0] in opened:
                continue
            prefix = {"node": f"n{item.rank}", "module": f"c{ranks[item.calls[0]] if item.calls else ''}"}
            key = prefix.get(item.kind, f"p{item.rank}")
            groups.append((key, item, scope))
            for number in item.nodes:
                keys[number] = key
            for call in item.calls:
                keys.update(dict.fromkeys(tree.list_inside(call), key))
    keys = {number: keys[shown_nodes[number]] for number in tree.things}
    members: dict[str, list[int]] = {}
    for number in sorted(tree.things):
        members.setdefault(keys[number], []).append(number)

    def count_frames(scope: str | None) -> int:
        return 1 if scope is None else len(alike_calls[scope])

    made = {
        key: Group(
            key,
            item.kind,
            scope,
            tuple(members[key]),
            tuple(call for shown in item.calls for call in alike_calls[shown]),
            item.rank,
            1 if item.kind == "part" else _count_times(item, copies, alike_calls) // count_frames(scope),
        )
        for key, item, scope in sorted(groups, key=lambda group: group[1].rank)
    }
    frames = {
        call: Frame(tuple(alike_calls[call]), len(alike_calls[call]) // count_frames(_outer(tree, call)))
        for call in tree.calls
        if call in opened and shown_calls[call] == call
    }
    return Folding(
        made,
        keys,
        frames,
        {call: shown for call, shown in shown_calls.items() if call != shown},
        {number: shown for number, shown in shown_nodes.items() if number != shown},
    )


def _outer(tree: _Tree, call: str) -> str | None:
    return tree.modules[call].parent


def _count_times(item: _Item, copies: Mapping[int, int], alike: Mapping[str, Sequence[str]]) -> int:
    return len(alike[item.calls[0]]) if item.kind == "module" else copies[item.nodes[0]]
