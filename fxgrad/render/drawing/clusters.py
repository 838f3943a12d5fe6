"""Which module call each node is drawn in, and which calls are drawn around which."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fxgrad.graph import BackwardGraph, ModuleCall, NodeKind

Lineage = tuple[str, ...]
"""Ids of module calls, each around the next."""


def lineages(graph: BackwardGraph) -> dict[str, Lineage]:
    """For each module call, the calls around it and itself, outermost first."""
    return {call.id: _lineage(graph, call) for call in graph.calls}


def _lineage(graph: BackwardGraph, call: ModuleCall) -> Lineage:
    found = [call.id]
    while (parent := graph.calls_by_id[found[-1]].parent) is not None:
        found.append(parent)
    return tuple(reversed(found))


def homes(graph: BackwardGraph) -> tuple[str | None, ...]:
    """For each node, by id, the module call that it is drawn in; None for a node outside of all.

    A node is at home in the call that made it. The nodes that a full hook puts around a module belong to its call,
    and a leaf to the innermost call that holds everything that sends gradients to it.
    """
    made_by = [node.call for node in graph.nodes]
    for node, call in _hook_nodes(graph):
        made_by[node] = call
    leaf_homes = _leaf_homes(graph, made_by)
    return tuple(leaf_homes.get(node, call) for node, call in enumerate(made_by))


def _hook_nodes(graph: BackwardGraph) -> Iterator[tuple[int, str]]:
    for call in graph.calls:
        for node in (call.input_hook_node, call.output_hook_node):
            if node is not None:
                yield node, call.id


def _leaf_homes(graph: BackwardGraph, found: list[str | None]) -> dict[int, str | None]:
    around = lineages(graph)
    shared: dict[int, Lineage] = {}
    for node in graph.nodes:
        lineage = around.get(found[node.id] or "", ())
        for edge in node.edges:
            leaf = edge.next_node
            if leaf is not None and _is_homeless_leaf(graph, leaf, found):
                shared[leaf] = common(shared.get(leaf, lineage), lineage)
    return {leaf: lineage[-1] if lineage else None for leaf, lineage in shared.items()}


def _is_homeless_leaf(graph: BackwardGraph, node: int, found: list[str | None]) -> bool:
    return found[node] is None and graph.nodes[node].kind is NodeKind.ACCUMULATE_GRAD


def common(one: Lineage, other: Lineage) -> Lineage:
    """The calls that are around both.

    >>> common(("#1", "encoder#1", "encoder.0#1"), ("#1", "encoder#1", "encoder.1#1"))
    ('#1', 'encoder#1')
    """
    agree = 0
    while agree < min(len(one), len(other)) and one[agree] == other[agree]:
        agree += 1
    return one[:agree]


def collapsed_into(graph: BackwardGraph, lineage: Iterable[str], depth: int) -> str | None:
    """The outermost of the calls whose module lies deeper than ``depth`` path components, if one does."""
    return next((call for call in lineage if len(_components(graph.calls_by_id[call].path)) > depth), None)


def _components(path: str) -> list[str]:
    return path.split(".") if path else []
