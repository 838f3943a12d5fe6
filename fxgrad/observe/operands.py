"""Says which recorded tensor stands behind an edge that leads nowhere, by what the node saved for backward.

A tensor that a node saved shares its storage with the tensor that was passed. Reading it runs the unpack hook of
``saved_tensors_hooks`` where there is one, so there it is left alone (torch/csrc/autograd/saved_variable.cpp).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.graph import Node as AutogradNode

from fxgrad.graph import Edge, Node, NodeKind, Value
from fxgrad.observe.metas import MetaTable
from fxgrad.observe.real_types import is_a

NO_GRAD = "it requires no grad"


class Operands:
    """The tensors of a recorded forward, by the memory that they are in."""

    def __init__(self, metas: MetaTable) -> None:
        self._metas = metas
        self._values: dict[tuple[object, ...], Value] = {}

    def add(self, tensor: torch.Tensor, value: Value) -> None:
        """Make a tensor known; of several with one memory the first stays."""
        key = _memory_of(tensor)
        if key is not None:
            self._values.setdefault(key, value)

    def with_operands(self, nodes: Sequence[Node], order: Sequence[AutogradNode]) -> tuple[Node, ...]:
        """The same nodes; edges that lead nowhere say what stands behind them, where the node saved that."""
        return tuple([self._with_operands(node, live) for node, live in zip(nodes, order, strict=True)])

    def _with_operands(self, node: Node, live: AutogradNode) -> Node:
        if node.kind is not NodeKind.FUNCTION or all(edge.next_node is not None for edge in node.edges):
            return node
        edges = [edge if edge.next_node is not None else self._with_operand(edge, live) for edge in node.edges]
        return node._replace(edges=tuple(edges))

    def _with_operand(self, edge: Edge, live: AutogradNode) -> Edge:
        raw = getattr(live, f"_raw_saved_{edge.argument}", None)
        if raw is None or is_a(raw, tuple) or _may_have_hook(raw):
            return edge
        try:
            saved = getattr(live, f"_saved_{edge.argument}")
        except RuntimeError:  # freed by an earlier backward, or changed in place since
            return edge
        if not is_a(saved, torch.Tensor):
            return edge
        memory = _memory_of(saved)
        value = None if memory is None else self._values.get(memory)
        reason = edge.null_reason if saved.requires_grad else NO_GRAD
        return edge._replace(operand=self._metas.of_tensor(saved), value=value, null_reason=reason)


def _may_have_hook(raw: Any) -> bool:
    """Whether unpacking may run the user's hook: torch 2.9 does not tell."""
    return getattr(raw, "unpack_hook", NotImplemented) is not None


def _memory_of(tensor: torch.Tensor) -> tuple[object, ...] | None:
    try:
        storage = tensor.untyped_storage()._cdata
        return storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
    except (NotImplementedError, RuntimeError):  # sparse and other tensors without a plain storage
        return None
