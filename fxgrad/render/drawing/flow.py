"""Where gradients flow: for each edge of the graph whether backward sends a gradient along it."""

from __future__ import annotations

from fxgrad.graph import BackwardGraph
from fxgrad.predict import predict_nodes
from fxgrad.render.theme import Flow

EdgeFlows = tuple[tuple[Flow, ...], ...]
"""For each node, by id, one Flow per edge."""

_FLOW_OF_STATUS = {"tensor": Flow.GRADIENT, "none": Flow.NONE, "unknown": Flow.UNKNOWN}
_STRENGTH = (Flow.NONE, Flow.UNKNOWN, Flow.GRADIENT)


def edge_flows(graph: BackwardGraph) -> EdgeFlows:
    """Say for each edge of each node whether a gradient goes along it, as `fxgrad.predict` foresees."""
    return tuple(tuple(_FLOW_OF_STATUS[status] for status in node.grad_inputs) for node in predict_nodes(graph))


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
