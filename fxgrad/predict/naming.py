"""What an entry stands for, asked of the graph: the one place where predictions and names meet."""

from __future__ import annotations

from fxgrad.graph import BackwardGraph, Edge


def edge_expression(graph: BackwardGraph, edge: Edge) -> str | None:  # noqa: ARG001
    """The forward tensor that a grad_input entry belongs to."""
    return None


def slot_expression(graph: BackwardGraph, node: int, slot: int) -> str | None:  # noqa: ARG001
    """The forward tensor that a grad_output entry belongs to."""
    return None
