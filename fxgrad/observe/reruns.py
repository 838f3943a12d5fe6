"""Functions whose backward starts a backward of its own: what that may come to in the graph around.

It comes to the leaves that it uses. It comes to more where it starts from tensors of this graph: from the Function's
arguments, which most programs detach, or from others that the Function's forward uses without being given them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from msgspec.structs import replace
from torch.autograd.graph import Node as AutogradNode

from fxgrad.graph import Edge, Node, NodeKind
from fxgrad.observe.autograd.python_code import NestedBackward, find_nested_backward
from fxgrad.observe.real_types import is_a
from fxgrad.observe.seen import Origin, is_leaf, next_sequence_nr, origin_of
from fxgrad.observe.structure import tensors_in
from fxgrad.observe.walk import WalkedGraph

_ELSEWHERE = (None, 0)


class SeenRerun:
    """The call of such a Function: the node that it made, and the origins of what its forward used of the graph around."""

    def __init__(self, function: type, nested: NestedBackward, given: Sequence[Any]) -> None:
        self.node: AutogradNode | None = None
        self.origins: list[Origin] = []
        self._function = function
        self._detached = {id(value) for value in given if is_a(value, torch.Tensor)} if nested.detaches else set()
        self._started = next_sequence_nr()

    def note_arguments(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
        """Note what an operation inside the forward got of the graph around."""
        with torch._C.DisableTorchFunction():
            for _, tensor in tensors_in((tuple(args), dict(kwargs))).tensors:
                if id(tensor) not in self._detached and tensor.requires_grad and not is_leaf(tensor):
                    origin = origin_of(tensor)
                    if origin is not None and origin[0]._sequence_nr() < self._started:
                        self.origins.append(origin)

    def note_node(self, result: Any) -> bool:
        """Find the Function's node by what the call returned; whether there is one."""
        with torch._C.DisableTorchFunction():
            origins = [origin_of(tensor) for _, tensor in tensors_in(result).tensors if tensor.requires_grad]
        nodes = [origin[0] for origin in origins if origin is not None]
        self.node = next((node for node in nodes if getattr(node, "_forward_cls", None) is self._function), None)
        return self.node is not None


def with_nested_backward(nodes: tuple[Node, ...], walked: WalkedGraph, reruns: Iterable[SeenRerun]) -> tuple[Node, ...]:
    """The same nodes; those whose backward starts another say where that may enter the graph."""
    seen = {rerun.node: rerun.origins for rerun in reruns}
    return tuple([_with_entries(node, walked, seen) if _is_candidate(node) else node for node in nodes])


def _is_candidate(node: Node) -> bool:
    return node.kind in (NodeKind.CUSTOM_FUNCTION, NodeKind.CHECKPOINT)


def _with_entries(node: Node, walked: WalkedGraph, seen: Mapping[Any, Sequence[Origin]]) -> Node:
    live = walked.order[node.id]
    function = getattr(live, "_forward_cls", None)
    nested = None if function is None else find_nested_backward(function)
    if nested is None:
        return node
    used = [(walked.ids.get(origin), slot) for origin, slot in seen.get(live, ())]
    given = [] if nested.detaches else [(edge.next_node, edge.input_nr) for edge in _not_to_leaves(node.edges, walked)]
    entries = [_ELSEWHERE if number is None else (number, slot) for number, slot in (*given, *used)]
    return replace(node, nested_backward=tuple(dict.fromkeys(entries)))


def _not_to_leaves(edges: Iterable[Edge], walked: WalkedGraph) -> Iterator[Edge]:
    for edge in edges:
        if edge.next_node is not None and walked.order[edge.next_node].next_functions:
            yield edge
