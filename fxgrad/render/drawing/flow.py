"""Where gradients flow: for each edge of the graph whether backward sends a gradient along it."""

from __future__ import annotations

from collections.abc import Iterable

from fxgrad.predict import NodePrediction
from fxgrad.render.theme import Flow

EdgeFlows = tuple[tuple[Flow, ...], ...]
"""For each node, by id, one Flow per edge."""

_FLOW_OF_STATUS = {"tensor": Flow.GRADIENT, "none": Flow.NONE, "unknown": Flow.UNKNOWN}
_STRENGTH = (Flow.NONE, Flow.UNKNOWN, Flow.GRADIENT)


def edge_flows(predictions: Iterable[NodePrediction]) -> EdgeFlows:
    """Say for each edge of each node whether a gradient goes along it, as `fxgrad.predict` foresees."""
    return tuple(map(node_flows, predictions))


def node_flows(prediction: NodePrediction) -> tuple[Flow, ...]:
    """Say for each edge of one node whether a gradient goes along it."""
    return tuple(_FLOW_OF_STATUS[status] for status in prediction.grad_inputs)


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
