"""Finds in a live autograd graph the nodes that the records speak of, by walking both from the roots at once.

A walk of its own over ``next_functions``, apart from `fxgrad.observe.autograd.walk`: two graphs of one program are the
same graph where every edge leads to the same slot of the same sort of node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge

from fxgrad.graph import BackwardGraph


class NotTheSame(AssertionError):
    """The records are not of this graph."""


def root_places(roots: Sequence[torch.Tensor]) -> list[tuple[Any, int]]:
    """The (node, slot) that backward starts from."""
    return [get_gradient_edge(root)[:2] for root in roots]


def ids_in(graph: BackwardGraph, roots: Sequence[torch.Tensor]) -> dict[Any, int]:
    """The id in the records of every live node behind `roots`. Keeps the nodes alive, so that each stays itself."""
    live_roots = root_places(roots)
    if len(live_roots) != len(graph.roots):
        raise NotTheSame(f"{len(live_roots)} roots, but the records have {len(graph.roots)}")
    ids: dict[Any, int] = {}
    waiting = []
    for root, (node, slot) in zip(graph.roots, live_roots, strict=True):
        if root.slot != slot:
            raise NotTheSame(f"a root in slot {slot}, but the records say {root.slot}")
        waiting.append((node, root.node))
    while waiting:
        node, number = waiting.pop()
        if node in ids:
            _check(ids[node] == number, f"{node.name()} is node {ids[node]} and node {number}")
            continue
        ids[node] = number
        waiting += _behind(graph, node, number)
    _check(len(set(ids.values())) == len(ids) == len(graph.nodes), f"{len(ids)} nodes, not {len(graph.nodes)}")
    _check(_ranks(ids) == _ranks_of_records(graph, ids), "the nodes were made in another order")
    return ids


def _behind(graph: BackwardGraph, node: Any, number: int) -> list[tuple[Any, int]]:
    record = graph.nodes[number]
    edges = node.next_functions
    _check(record.name == node.name(), f"{node.name()}, but node {number} is {record.name}")
    _check(len(record.edges) == len(edges), f"{node.name()} has {len(edges)} edges, not {len(record.edges)}")
    found = []
    for edge, (following, slot) in zip(record.edges, edges, strict=True):
        _check((edge.next_node is None) == (following is None), f"an edge of {record.label} leads to {following}")
        if following is not None:
            _check(edge.input_nr == slot, f"an edge of {record.label} leads to slot {slot}, not {edge.input_nr}")
            found.append((following, edge.next_node))
    return found


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise NotTheSame(otherwise)


_TAKES_NONE = 2**64 - 1


def _ranks(ids: dict[Any, int]) -> list[int]:
    """The ids in the order in which the live nodes were made, those aside that take no sequence number."""
    numbered = [(node._sequence_nr(), number) for node, number in ids.items() if node._sequence_nr() != _TAKES_NONE]
    return [number for _, number in sorted(numbered)]


def _ranks_of_records(graph: BackwardGraph, ids: dict[Any, int]) -> list[int]:
    numbered = [(graph.nodes[number].sequence_nr, number) for number in ids.values()]
    return [number for _, number in sorted((nr, number) for nr, number in numbered if nr is not None)]
