"""Where non-full hooks land, registered or not: for each module call the node of the first tensor of its result."""

from __future__ import annotations

from collections.abc import Iterator

from fxgrad.graph import BackwardGraph, Landing, ModuleCall


def landings(graph: BackwardGraph) -> tuple[Landing, ...]:
    """One for each module call whose first result has a grad_fn that is in the graph."""
    return tuple(landing for call in graph.calls for landing in _landings(graph, call))


def _landings(graph: BackwardGraph, call: ModuleCall) -> Iterator[Landing]:
    first = call.legacy_tensor
    if call.completed and first is not None and first.node is not None and not first.is_leaf:
        node = graph.nodes[first.node]
        yield Landing(call.id, node.name, len(node.edges), len(node.grad_outputs))
