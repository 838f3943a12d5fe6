"""Functions whose backward starts a backward of its own: where that may enter the graph around."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from fxgrad.graph import Edge, Node, NodeKind
from fxgrad.observe.autograd.python_code import find_nested_backward
from fxgrad.observe.autograd.walk import WalkedGraph
from fxgrad.observe.record.operations import NestingCall
from fxgrad.observe.record.tensors import Origin

_ELSEWHERE = (None, 0)


def with_nested_backward(
    nodes: tuple[Node, ...], walked: WalkedGraph, calls: Iterable[NestingCall]
) -> tuple[Node, ...]:
    """The same nodes; those whose backward starts another say where that may enter the graph."""
    seen = {call.node: call.origins for call in calls}
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
