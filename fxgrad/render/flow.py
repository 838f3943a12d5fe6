"""Where gradients flow: for each edge of the graph whether backward sends a gradient along it."""

from __future__ import annotations

from fxgrad.graph import BackwardGraph, HookKind, HookSite, Node, NodeKind
from fxgrad.render.theme import Flow

EdgeFlows = tuple[tuple[Flow, ...], ...]
"""For each node, by id, one Flow per edge."""

_ONE_ENTRY_PER_EDGE = frozenset({HookKind.MODULE_BACKWARD, HookKind.GLOBAL_BACKWARD, HookKind.NODE})
"""Hooks on one node: their grad_input are the gradients along its edges (torch/csrc/autograd/engine.cpp)."""

_STRENGTH = (Flow.NONE, Flow.UNKNOWN, Flow.GRADIENT)

_DECIDED_BY_USER_CODE = frozenset(
    {NodeKind.CUSTOM_FUNCTION, NodeKind.COMPILED, NodeKind.CHECKPOINT, NodeKind.SCRIPTED, NodeKind.OPAQUE}
)


def edge_flows(graph: BackwardGraph) -> EdgeFlows:
    """Say for each edge of each node whether a gradient goes along it.

    What the sites predict comes first. Elsewhere a C++ node that gets a gradient sends one along each edge that leads
    somewhere, and one that gets none sends none; what Python code returns is not known before it runs.
    """
    predicted = _predicted_by_sites(graph)
    arriving: list[Flow] = [Flow.NONE] * len(graph.nodes)
    for root in graph.roots:
        arriving[root.node] = Flow.GRADIENT
    flows = []
    for node in graph.nodes:  # in topological order: all that arrives is known
        leaving = tuple(_along_edge(node, index, arriving, predicted) for index in range(len(node.edges)))
        flows.append(leaving)
        for edge, flow in zip(node.edges, leaving, strict=True):
            if edge.next_node is not None:
                arriving[edge.next_node] = strongest(arriving[edge.next_node], flow)
    return tuple(flows)


def strongest(*flows: Flow) -> Flow:
    """Say what several flows are together: a gradient if one is, none only if all are.

    >>> strongest(Flow.NONE, Flow.UNKNOWN).name, strongest(Flow.UNKNOWN, Flow.GRADIENT).name
    ('UNKNOWN', 'GRADIENT')
    """
    return max(flows, key=_STRENGTH.index)


def weakest(*flows: Flow) -> Flow:
    """Say what is left of a gradient that has to pass all of these.

    >>> weakest(Flow.GRADIENT, Flow.UNKNOWN).name
    'UNKNOWN'
    """
    return min(flows, key=_STRENGTH.index)


def _along_edge(node: Node, index: int, arriving: list[Flow], predicted: dict[tuple[int, int], Flow]) -> Flow:
    if node.edges[index].next_node is None:
        return Flow.NONE
    known = predicted.get((node.id, index))
    if known is not None:
        return known
    if node.kind in _DECIDED_BY_USER_CODE:
        return Flow.UNKNOWN
    # a BackwardHookFunction may turn an undefined gradient into zeros (torch/utils/hooks.py)
    return Flow.UNKNOWN if node.kind.is_python and arriving[node.id] is Flow.NONE else arriving[node.id]


def _predicted_by_sites(graph: BackwardGraph) -> dict[tuple[int, int], Flow]:
    return {
        (site.node, gradient.index): _FLOW_OF_STATUS[gradient.status]
        for site in graph.sites
        if site.node is not None and _is_per_edge(site, graph.nodes[site.node])
        for gradient in site.grad_input
    }


def _is_per_edge(site: HookSite, node: Node) -> bool:
    return site.hook.kind in _ONE_ENTRY_PER_EDGE and len(site.grad_input) == len(node.edges)


_FLOW_OF_STATUS = {"tensor": Flow.GRADIENT, "none": Flow.NONE, "unknown": Flow.UNKNOWN}
