"""Walks ``next_functions`` from the roots and makes a record of every node that can be reached.

Nothing here recurses: autograd graphs are as deep as the program ran long. Sources relied on:
torch/csrc/autograd/python_cpp_function.cpp (what a node shows to Python), torch/csrc/autograd/function.h (topological
numbers, sequence numbers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.autograd.graph import Node as AutogradNode

from fxgrad.graph import Edge, Node, NodeKind, Source, Value
from fxgrad.observe.custom_functions import custom_signature
from fxgrad.observe.kinds import NodeType, node_type
from fxgrad.observe.metas import MetaTable
from fxgrad.observe.settings import decisive_settings
from fxgrad.observe.signatures import copy_slices_arguments, edge_arguments, output_names

ACCUMULATE_GRAD = "torch::autograd::AccumulateGrad"
NO_SEQUENCE_NR = 2**64 - 1
"""What AccumulateGrad, Error and NotImplemented answer (torch/csrc/autograd/function.h: UINT64_MAX)."""
DEEP = 10_000
"""Graphs of more nodes than this get the cure of `free_without_recursion`."""
SEGMENT = 1_000

NULL_CPP = "it required no grad when it was made or used, or is no tensor"
NULL_PYTHON = "it required no grad when it was made or used"

NextFunctions = tuple[tuple[AutogradNode | None, int], ...]


def name_of(node: AutogradNode) -> str:
    """``node.name()``, also where the user's ``ctx.name = …`` hides that method of a Python Function's node."""
    name: str = type(node).name(node)
    return name


def sequence_nr_of(node: AutogradNode) -> int:
    """``node._sequence_nr()``, also where an attribute of the user's hides it; NO_SEQUENCE_NR where it has none."""
    number: int = type(node)._sequence_nr(node)
    return number


@dataclass
class WalkedGraph:
    """The live nodes in id order, with their edges. Holds the graph alive: drop it as soon as the records are made."""

    order: list[AutogradNode]
    ids: dict[AutogradNode, int]
    edges: dict[AutogradNode, NextFunctions]


class Provenance(NamedTuple):
    """Where a node comes from, as the recorded forward knows it."""

    call: str | None = None
    call_reason: str | None = None
    fx_node: str | None = None
    fx_reason: str | None = None
    values: tuple[Value | None, ...] = ()
    source: Source | None = None


def walk(roots: Iterable[AutogradNode]) -> WalkedGraph:
    """Find every node behind `roots` and put them in a topological order that depends on the graph alone."""
    starts = list(dict.fromkeys(roots))
    edges, dependencies = _discover(starts)
    order = _topological(starts, edges, dependencies)
    if len(order) > DEEP:
        free_without_recursion(order)
    return WalkedGraph(order, {node: rank for rank, node in enumerate(order)}, edges)


def _discover(
    starts: list[AutogradNode],
) -> tuple[dict[AutogradNode, NextFunctions], dict[AutogradNode, int]]:
    edges: dict[AutogradNode, NextFunctions] = {}
    dependencies = dict.fromkeys(starts, 0)
    stack = starts[::-1]
    while stack:
        node = stack.pop()
        next_functions = edges[node] = node.next_functions
        for next_node, _ in next_functions:
            if next_node is None:
                continue
            if next_node in dependencies:
                dependencies[next_node] += 1
            else:
                dependencies[next_node] = 1
                stack.append(next_node)
    return edges, dependencies


def _topological(
    starts: list[AutogradNode],
    edges: dict[AutogradNode, NextFunctions],
    dependencies: dict[AutogradNode, int],
) -> list[AutogradNode]:
    ready = [node for node in reversed(starts) if dependencies[node] == 0]
    order = []
    while ready:
        node = ready.pop()
        order.append(node)
        for next_node, _ in reversed(edges[node]):
            if next_node is None:
                continue
            left = dependencies[next_node] = dependencies[next_node] - 1
            if left == 0:
                ready.append(next_node)
    return order


def free_without_recursion(order: Sequence[AutogradNode]) -> None:
    """Make sure that the graph can be freed, now that Python has wrapped its nodes.

    From torch 2.13 on, freeing a deep chain of wrapped nodes recurses in ``THPCppFunction_dealloc`` and overflows the
    C stack. Every 1,000th node is given, in its ``metadata``, the next 1,000 nodes in reverse: each segment is then
    released from its far end, one node at a time. The lists point the way the graph itself does, so they make no cycle.
    """
    for start in range(0, len(order), SEGMENT):
        segment = list(order[start + 1 : start + 1 + SEGMENT])
        segment.reverse()
        order[start].metadata["fxgrad.keepalive"] = segment  # type: ignore[index]  # a property, in C++


def labels(names: Iterable[str]) -> list[str]:
    """A unique label for each node name: the short name, and how many nodes of that name came before.

    >>> labels(["AddBackward0", "MulBackward0", "AddBackward0", "torch::autograd::AccumulateGrad"])
    ['AddBackward0_0', 'MulBackward0_0', 'AddBackward0_1', 'AccumulateGrad_0']
    """
    counts: dict[str, int] = {}
    made = []
    for name in names:
        short_name = name.rpartition("::")[2]
        count = counts.get(short_name, 0)
        counts[short_name] = count + 1
        made.append(f"{short_name}_{count}")
    return made


class NodeRecorder:
    """Makes the record of each node of one walk. The counters behind the labels live here."""

    def __init__(self, walked: WalkedGraph, metas: MetaTable, variables: dict[AutogradNode, str]) -> None:
        self._walked = walked
        self._metas = metas
        self._variables = variables
        self._types: dict[str, NodeType] = {}
        self._null_edges: dict[tuple[str | None, str | None, str], Edge] = {}

    def records(self, provenance: Callable[[AutogradNode, str], Provenance] | None = None) -> tuple[Node, ...]:
        """One record per node, in id order."""
        record = self._record
        plain = Provenance()
        order = self._walked.order
        names = [name_of(node) for node in order]
        numbered = enumerate(zip(order, names, labels(names), strict=True))
        if provenance is None:
            return tuple([record(rank, node, name, label, plain) for rank, (node, name, label) in numbered])
        return tuple(
            [record(rank, node, name, label, provenance(node, name)) for rank, (node, name, label) in numbered]
        )

    def _record(self, rank: int, node: AutogradNode, name: str, label: str, provenance: Provenance) -> Node:
        known = self._types.get(name)
        if known is None:
            known = self._types[name] = node_type(node, name)
        kind = known.kind
        schema = known.schema
        meta = self._metas.of_gradient
        grad_outputs = tuple([meta(entry) for entry in node._input_metadata])
        next_functions = self._walked.edges[node]
        needs_input_grad: tuple[bool, ...] | None = None
        if isinstance(node, torch._C._FunctionBase):
            kind = node_type(node, name).kind  # two classes may share a name
            custom = custom_signature(node)
            arguments: Sequence[tuple[str | None, str | None]] = tuple(
                zip(custom.arguments, custom.groups, strict=True)
            )
            outputs: tuple[str, ...] = custom.outputs
            schema = custom.schema
            needs_input_grad = custom.needs_input_grad
            null_reason = NULL_PYTHON
        else:
            if kind is NodeKind.COPY_SLICES:
                arguments = copy_slices_arguments(node, len(next_functions))
            else:
                arguments = edge_arguments(known.signature, len(next_functions))
            outputs = output_names(known.signature, len(grad_outputs))
            null_reason = NULL_CPP
        sequence_nr: int | None = sequence_nr_of(node)
        if sequence_nr == NO_SEQUENCE_NR:
            sequence_nr = None
        record = Node(
            rank,
            label,
            name,
            kind,
            schema,
            sequence_nr,
            grad_outputs,
            outputs,
            self._edges(next_functions, arguments, null_reason),
            self._variables.get(node) if kind is NodeKind.ACCUMULATE_GRAD else None,
            *provenance,
            needs_input_grad,
            True if kind is NodeKind.BACKWARD_HOOK else None,
        )
        if known.decisive_argument is None:
            return record
        return record._replace(settings=decisive_settings(node, record.short_name))

    def _edges(
        self, next_functions: NextFunctions, arguments: Sequence[tuple[str | None, str | None]], null_reason: str
    ) -> tuple[Edge, ...]:
        ids = self._walked.ids
        return tuple(
            [
                self._null_edge(argument, group, null_reason)
                if next_node is None
                else Edge(argument, group, ids[next_node], input_nr)
                for (next_node, input_nr), (argument, group) in zip(next_functions, arguments, strict=True)
            ]
        )

    def _null_edge(self, argument: str | None, group: str | None, reason: str) -> Edge:
        key = (argument, group, reason)
        edge = self._null_edges.get(key)
        if edge is None:
            edge = self._null_edges[key] = Edge(argument, group, None, 0, reason)
        return edge
