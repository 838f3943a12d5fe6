"""Which nodes of a graph are drawn, in which module call each is drawn, and what joins them."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fxgrad.errors import UsageError
from fxgrad.graph import BackwardGraph, Explanation, Node, Root
from fxgrad.graph.lookup import find_inside_scripts, list_parent_paths
from fxgrad.graph.text import escape
from fxgrad.predict import NodePrediction
from fxgrad.render.pictures.folding import Folding, Group, Thing, Tie, Wish, count_steps, fold
from fxgrad.render.pictures.theme import Flow

# Where gradients flow


FLOW_OF_STATUS = {"tensor": Flow.GRADIENT, "none": Flow.NONE, "unknown": Flow.UNKNOWN}
"""Whether a gradient goes along an edge, for what `fxgrad.predict` says of the entry of grad_input."""
Predictions = Sequence[NodePrediction]
"""What each node receives and sends, by id."""
_STRENGTH = (Flow.NONE, Flow.UNKNOWN, Flow.GRADIENT)


def pick_strongest(*flows: Flow) -> Flow:
    """Combine flows of parallel paths: a gradient if one is, none only if all are.

    >>> pick_strongest(Flow.NONE, Flow.UNKNOWN).name, pick_strongest(Flow.UNKNOWN, Flow.GRADIENT).name
    ('UNKNOWN', 'GRADIENT')
    """
    return max(flows, key=_STRENGTH.index)


def pick_weakest(*flows: Flow) -> Flow:
    """Combine flows of one path: what is left of a gradient that passes all of them.

    >>> pick_weakest(Flow.GRADIENT, Flow.UNKNOWN).name
    'UNKNOWN'
    """
    return min(flows, key=_STRENGTH.index)


# In which module call a node is drawn


Lineage = tuple[str, ...]
"""Ids of module calls, each around the next."""


def find_lineages(graph: BackwardGraph) -> dict[str, Lineage]:
    """For each module call, the calls around it and itself, outermost first."""
    return {call.id: tuple(outer.id for outer in graph.enclosing_calls(call.id))[::-1] for call in graph.calls}


def find_homes(graph: BackwardGraph) -> tuple[str | None, ...]:
    """For each node, by id, the module call that it is drawn in; None for a node outside of all.

    A node is at home in the call that made it. The nodes that a full hook puts around a module belong to its call. A leaf
    belongs to the module that owns it, where that, or the module around it that was, was called once; else to the innermost
    call that holds everything that sends gradients to it. An input belongs to none.
    """
    around = find_lineages(graph)
    homes = [node.call for node in graph.nodes]
    for node_id, call in graph.calls_by_hook_node.items():
        homes[node_id] = call.id
    shared: dict[int, Lineage] = {}
    for node in graph.nodes:
        lineage = around.get(homes[node.id] or "", ())
        for edge in node.edges:
            leaf = edge.next_node
            if leaf is not None and homes[leaf] is None and graph.nodes[leaf].kind.is_leaf:
                shared[leaf] = find_common_calls(shared.get(leaf, lineage), lineage)
    for leaf, lineage in shared.items():
        name = graph.nodes[leaf].variable
        variable = graph.variables_by_name.get(name or "")
        if variable is None or variable.kind != "input":
            homes[leaf] = find_owning_call(graph, name) or (lineage[-1] if lineage else None)
    return tuple(homes)


def find_owning_call(graph: BackwardGraph, variable: str | None) -> str | None:
    """The only call of the module that a variable belongs to, or of the nearest one around that was called, if not the
    model itself; None where there are several."""
    for path in list_parent_paths(variable or ""):
        called = graph.calls_by_path.get(path, ()) if path else ()
        if called:
            return called[0].id if len(called) == 1 else None
    return None


def find_common_calls(one: Lineage, other: Lineage) -> Lineage:
    """The calls that are around both.

    >>> find_common_calls(("#1", "encoder#1", "encoder.0#1"), ("#1", "encoder#1", "encoder.1#1"))
    ('#1', 'encoder#1')
    """
    agree = 0
    while agree < min(len(one), len(other)) and one[agree] == other[agree]:
        agree += 1
    return one[:agree]


def find_collapsed_call(graph: BackwardGraph, lineage: Iterable[str], depth: int) -> str | None:
    """The outermost of the calls whose module lies deeper than ``depth`` path components, if one does."""
    return next((call for call in lineage if count_steps(graph.calls_by_id[call].path) > depth), None)


# Which nodes are drawn


MOST_NAMES = 5


class Link(NamedTuple):
    """What joins two nodes: entry ``edge`` of ``tail``'s edges, or paths through ``between`` nodes that are left out.

    ``flow`` says whether a gradient of ``tail`` gets to ``head`` that way.
    """

    tail: int
    head: int
    edge: int | None
    flow: Flow
    between: int = 0


@dataclass(frozen=True)
class Scope:
    """The ids of the nodes that are drawn, in order, and the links between them.

    ``stubs`` are those among them that are only neighbours of what was asked for.
    """

    nodes: tuple[int, ...]
    links: tuple[Link, ...]
    stubs: frozenset[int] = frozenset()

    def covers(self, graph: BackwardGraph) -> bool:
        """Whether no node of the graph is left out."""
        return len(self.nodes) == len(graph.nodes)


def select_all(graph: BackwardGraph, predictions: Predictions) -> Scope:
    """Every node."""
    return Scope(tuple(range(len(graph.nodes))), tuple(_list_links(graph, predictions)))


def select_module(graph: BackwardGraph, predictions: Predictions, module: str) -> Scope:
    """What the calls of one module made, the leaves it uses, and as stubs the nodes that these are joined to.

    Raises `UsageError` for a path that names no module called in this graph.
    """
    members = _find_members(graph, find_called_path(graph, module))
    links = tuple(link for link in _list_links(graph, predictions) if link.tail in members or link.head in members)
    nodes = members.union(*((link.tail, link.head) for link in links))
    leaves = {node for node in nodes if graph.nodes[node].kind.is_leaf}
    return Scope(tuple(sorted(nodes)), links, nodes - members - leaves)


def select_hooked(graph: BackwardGraph, scope: Scope) -> Scope:
    """Of these nodes those that carry hooks, the roots and the leaves, joined by the paths between them."""
    landmarks = _find_landmarks(graph) | scope.stubs
    kept = tuple(node for node in scope.nodes if node in landmarks)
    leaving: dict[int, list[Link]] = {}
    for link in scope.links:
        leaving.setdefault(link.tail, []).append(link)
    links = (link for node in kept for link in _join_kept_nodes(node, leaving, frozenset(kept)))
    return Scope(kept, tuple(links), scope.stubs)


def _list_links(graph: BackwardGraph, predictions: Predictions) -> Iterator[Link]:
    for node in graph.nodes:
        for index, edge in enumerate(node.edges):
            if edge.next_node is not None:
                yield Link(node.id, edge.next_node, index, FLOW_OF_STATUS[predictions[node.id].grad_inputs[index]])


def _find_members(graph: BackwardGraph, path: str) -> frozenset[int]:
    inside = {call.id for call in graph.calls if any(one.path == path for one in graph.enclosing_calls(call.id))}
    return frozenset(node for node, home in enumerate(find_homes(graph)) if home in inside)


def find_called_path(graph: BackwardGraph, module: str) -> str:
    """The path of a module that was called in this graph; raises `UsageError` with the nearest paths for any other."""
    known = graph.modules_by_path.get(module)
    path = known.path if known is not None else module
    called = list(dict.fromkeys(call.path for call in graph.calls))
    if path in called:
        return path
    if not called:
        why = graph.info.calls_reason or "no module was called"
        raise UsageError(
            f'module "{escape(module)}": {escape(why)}',
            "a module path, for a graph whose forward was recorded",
            "fxgrad.trace(model, args), or omit module to draw everything",
        )
    problem = "was not called in this graph" if known is not None else "is not a module of this model"
    if path in find_inside_scripts(graph):
        problem = "runs inside of TorchScript, where no call is recorded"
    raise UsageError(
        f'"{escape(module)}" {problem}',
        f"the path of a module that was called: {_list_paths(called)}",
        _suggest_path(module, called),
    )


def _list_paths(paths: list[str]) -> str:
    quoted = [f'"{escape(path)}"' for path in paths[:MOST_NAMES]]
    more = len(paths) - len(quoted)
    return ", ".join(quoted) + (f" and {more} more" if more else "")


def _suggest_path(module: str, called: Iterable[str]) -> str:
    near = difflib.get_close_matches(module, called, n=1)
    return f'"{escape(near[0])}"' if near else "omit module to draw everything"


def _find_landmarks(graph: BackwardGraph) -> set[int]:
    hooked = {site.node for site in graph.sites if site.node is not None}
    leaves = {node.id for node in graph.nodes if node.kind.is_leaf}
    return hooked | leaves | {root.node for root in graph.roots}


def _join_kept_nodes(start: int, leaving: dict[int, list[Link]], kept: frozenset[int]) -> Iterator[Link]:
    """The links from a kept node to the kept nodes that it reaches without passing through a third."""
    yield from (link for link in leaving.get(start, ()) if link.head in kept)
    arriving = _find_detours(start, leaving, kept)
    flows = _find_flows(start, arriving)
    for end in sorted(arriving.keys() & kept):
        yield Link(start, end, None, flows[end], len(_find_nodes_between(end, arriving, start)))


def _find_detours(start: int, leaving: dict[int, list[Link]], kept: frozenset[int]) -> dict[int, list[Link]]:
    """The links on all paths from ``start`` through nodes left out, by the node where they arrive."""
    arriving: dict[int, list[Link]] = {}
    stack = [start]
    while stack:
        node = stack.pop()
        for link in leaving.get(node, ()):
            if node == start and link.head in kept:
                continue
            if link.head not in arriving and link.head not in kept:
                stack.append(link.head)
            arriving.setdefault(link.head, []).append(link)
    return arriving


def _find_flows(start: int, arriving: dict[int, list[Link]]) -> dict[int, Flow]:
    """Whether a gradient of ``start`` gets to each node: along at least one path, and all the way."""
    flows = {start: Flow.GRADIENT}
    for node in sorted(arriving):  # ids are in topological order
        flows[node] = pick_strongest(*(pick_weakest(flows[link.tail], link.flow) for link in arriving[node]))
    return flows


def _find_nodes_between(end: int, arriving: dict[int, list[Link]], start: int) -> set[int]:
    """The nodes left out on the paths from ``start`` to ``end``."""
    found: set[int] = set()
    stack = [end]
    while stack:
        for link in arriving.get(stack.pop(), ()):
            if link.tail != start and link.tail not in found:
                found.add(link.tail)
                stack.append(link.tail)
    return found


# One graph as it is about to be drawn


@dataclass(frozen=True)
class View:
    """The nodes drawn and what is known of them.

    ``homes``       for each node the id of the module call that it is drawn in
    ``lineages``    for each module call the calls around it and itself
    ``folding``     which of them share a box, and the frames
    ``findings``    what rules say of each node
    ``call_ranks``  for each module call its place among all
    """

    graph: BackwardGraph
    predictions: Predictions
    scope: Scope
    homes: tuple[str | None, ...]
    lineages: Mapping[str, Lineage]
    folding: Folding
    findings: Mapping[int, tuple[Explanation, ...]]
    call_ranks: Mapping[str, int]

    @property
    def roots(self) -> tuple[tuple[int, Root], ...]:
        """The roots in sight, each with its place among all."""
        inside = set(self.scope.nodes) - self.scope.stubs
        return tuple((rank, root) for rank, root in enumerate(self.graph.roots) if root.node in inside)

    def key(self, node: int) -> str:
        """The key of the box that a node is drawn in."""
        return self.folding.keys[node]

    def group(self, node: int) -> Group:
        """What that box stands for."""
        return self.folding.groups[self.folding.keys[node]]

    def cluster_key(self, call: str | None) -> str | None:
        """The key of the frame that a module call is drawn as."""
        return None if call is None else f"cluster{self.call_ranks[call]}"

    def is_repeated(self, node: int) -> bool:
        """Whether its box, or a frame around that, stands for several equal ones."""
        group = self.group(node)
        around = () if group.home is None else self.lineages[group.home]
        return group.times > 1 or any(self.folding.frames[call].times > 1 for call in around)

    def leads_on(self, tail: int, head: int) -> bool:
        """Whether a link between two nodes leads from one of equal ones, drawn as one, to another of them."""
        shown = self.folding.shown_calls
        pairs = zip(self._list_around(tail), self._list_around(head), strict=False)
        for one, other in pairs:
            if shown.get(one, one) != shown.get(other, other):
                break
            if one != other:
                return True
        after = self.group(tail).shown >= self.group(head).shown
        return after and self.group(tail).times > 1 and self.group(head).times > 1

    def _list_around(self, node: int) -> Lineage:
        home = self.homes[node]
        return () if home is None else self.lineages[home]


def make_view(
    graph: BackwardGraph,
    predictions: Predictions,
    scope: Scope,
    wish: Wish,
    findings: Mapping[int, tuple[Explanation, ...]],
) -> View:
    """Look up everything, and decide which nodes share a box."""
    homes, lineages = find_homes(graph), find_lineages(graph)
    things = {
        node: _describe(graph, predictions, graph.nodes[node], homes[node])
        if node not in scope.stubs
        else Thing(None, None, (0, ""), mark=node)
        for node in scope.nodes
    }
    ties = [Tie(link.tail, link.head, _label(graph, link)) for link in scope.links]
    roots = {root.node for root in graph.roots}
    return View(
        graph=graph,
        predictions=predictions,
        scope=scope,
        homes=homes,
        lineages=lineages,
        folding=fold(things, ties, graph.calls_by_id, lineages, roots=roots, wish=wish),
        findings=findings,
        call_ranks={call.id: rank for rank, call in enumerate(graph.calls)},
    )


def _label(graph: BackwardGraph, link: Link) -> Hashable:
    edge = None if link.edge is None else graph.nodes[link.tail].edges[link.edge]
    return (link.edge, link.flow.name, link.between, 0 if edge is None else edge.input_nr)


def _describe(
    graph: BackwardGraph,
    predictions: Predictions,
    node: Node,
    home: str | None,
) -> Thing:
    """What equal nodes have in common: what is drawn of them, and what they receive and send."""
    predicted = predictions[node.id]
    edges = tuple((edge.argument, edge.next_node is None, edge.operand) for edge in node.edges)
    look = (node.name, node.grad_outputs, predicted.grad_outputs, predicted.grad_inputs, edges)
    sites = graph.sites_by_node.get(node.id, ())
    hooks = tuple((site.hook.function, site.hook.kind.value, site.fires) for site in sites)
    is_leaf = node.kind.is_leaf
    leaf = (node.variable or node.label) if is_leaf else None
    return Thing(
        home=home,
        look=look,
        place=(1, leaf) if leaf is not None else (-(node.sequence_nr or 0), node.name),
        line=None if node.source is None else (node.source.file, node.source.line),
        leaf=leaf,
        mark=(hooks, node.always_raises) if hooks or node.always_raises else None,
        boxes=2 if find_dead_ends(graph, node) else 1,
    )


def find_dead_ends(graph: BackwardGraph, node: Node) -> tuple[int, ...]:
    """Find the edges of a node that are drawn as leading nowhere.

    A hook on the node gets a None for each. Elsewhere only those are worth ink behind which a tensor is known to stand:
    the others are mostly Python numbers and absent optional arguments.
    """
    hooked = node.id in graph.sites_by_node
    return tuple(
        index
        for index, edge in enumerate(node.edges)
        if edge.next_node is None and (hooked or (edge.operand is not None and edge.operand.shape != ()))
    )
