"""Which nodes of a graph are drawn, and what joins them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from fxgrad.errors import UsageError
from fxgrad.graph import BackwardGraph, NodeKind
from fxgrad.graph.text import escape
from fxgrad.render.drawing.clusters import homes, lineages
from fxgrad.render.drawing.flow import EdgeFlows, strongest, weakest
from fxgrad.render.theme import Flow

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


def whole(graph: BackwardGraph, flows: EdgeFlows) -> Scope:
    """Every node."""
    return Scope(tuple(range(len(graph.nodes))), tuple(_links(graph, flows)))


def of_module(graph: BackwardGraph, flows: EdgeFlows, module: str) -> Scope:
    """What the calls of one module made, the leaves it uses, and as stubs the nodes that these are joined to.

    Raises `UsageError` for a path that names no module called in this graph.
    """
    members = _members(graph, _called_path(graph, module))
    links = tuple(link for link in _links(graph, flows) if link.tail in members or link.head in members)
    nodes = members.union(*((link.tail, link.head) for link in links))
    leaves = {node for node in nodes if graph.nodes[node].kind is NodeKind.ACCUMULATE_GRAD}
    return Scope(tuple(sorted(nodes)), links, nodes - members - leaves)


def only_hooks(graph: BackwardGraph, scope: Scope) -> Scope:
    """Of these nodes those that carry hooks, the roots and the leaves, joined by the paths between them."""
    landmarks = _landmarks(graph) | scope.stubs
    kept = tuple(node for node in scope.nodes if node in landmarks)
    leaving: dict[int, list[Link]] = {}
    for link in scope.links:
        leaving.setdefault(link.tail, []).append(link)
    links = (link for node in kept for link in _joins(node, leaving, frozenset(kept)))
    return Scope(kept, tuple(links), scope.stubs)


def _links(graph: BackwardGraph, flows: EdgeFlows) -> Iterator[Link]:
    for node in graph.nodes:
        for index, edge in enumerate(node.edges):
            if edge.next_node is not None:
                yield Link(node.id, edge.next_node, index, flows[node.id][index])


def _members(graph: BackwardGraph, path: str) -> frozenset[int]:
    around = lineages(graph)
    inside = {call for call, lineage in around.items() if any(graph.calls_by_id[one].path == path for one in lineage)}
    return frozenset(node for node, home in enumerate(homes(graph)) if home in inside)


def _called_path(graph: BackwardGraph, module: str) -> str:
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
            "fxgrad.trace(model, args), or leave module out to draw everything",
        )
    problem = "was not called in this graph" if known is not None else "is not a module of this model"
    raise UsageError(
        f'"{escape(module)}" {problem}',
        f"the path of a module that was called: {_listed(called)}",
        _nearest(module, called),
    )


def _listed(paths: list[str]) -> str:
    quoted = [f'"{escape(path)}"' for path in paths[:MOST_NAMES]]
    more = len(paths) - len(quoted)
    return ", ".join(quoted) + (f" and {more} more" if more else "")


def _nearest(module: str, called: Iterable[str]) -> str:
    near = difflib.get_close_matches(module, called, n=1)
    return f'"{escape(near[0])}"' if near else "leave module out to draw everything"


def _landmarks(graph: BackwardGraph) -> set[int]:
    hooked = {site.node for site in graph.sites if site.node is not None}
    leaves = {node.id for node in graph.nodes if node.kind is NodeKind.ACCUMULATE_GRAD}
    return hooked | leaves | {root.node for root in graph.roots}


def _joins(start: int, leaving: dict[int, list[Link]], kept: frozenset[int]) -> Iterator[Link]:
    """The links from a kept node to the kept nodes that it reaches without passing through a third."""
    yield from (link for link in leaving.get(start, ()) if link.head in kept)
    arriving = _detours(start, leaving, kept)
    flows = _flows_from(start, arriving)
    for end in sorted(arriving.keys() & kept):
        yield Link(start, end, None, flows[end], len(_left_out_before(end, arriving, start)))


def _detours(start: int, leaving: dict[int, list[Link]], kept: frozenset[int]) -> dict[int, list[Link]]:
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


def _flows_from(start: int, arriving: dict[int, list[Link]]) -> dict[int, Flow]:
    """Whether a gradient of ``start`` gets to each node: along at least one path, and all the way."""
    flows = {start: Flow.GRADIENT}
    for node in sorted(arriving):  # ids are in topological order
        flows[node] = strongest(*(weakest(flows[link.tail], link.flow) for link in arriving[node]))
    return flows


def _left_out_before(end: int, arriving: dict[int, list[Link]], start: int) -> set[int]:
    """The nodes left out on the paths from ``start`` to ``end``."""
    found: set[int] = set()
    stack = [end]
    while stack:
        for link in arriving.get(stack.pop(), ()):
            if link.tail != start and link.tail not in found:
                found.add(link.tail)
                stack.append(link.tail)
    return found
