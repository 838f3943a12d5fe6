"""The ways in which a random program calls backward, and how that ends."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from comparison import End
from torch.autograd.graph import GradientEdge, get_gradient_edge

import fxgrad
from fxgrad.graph import BackwardGraph
from fxgrad.graph.text import format_path

CALLS = ("plain", "plain", "inputs", "grad", "some roots", "retained", "freed")
MOST_INPUTS = 3


@dataclass(frozen=True)
class RandomCall:
    """One call of backward: what `Trace.predict` is told of it, and the live tensors of it."""

    told: Mapping[str, Any]
    roots: Sequence[torch.Tensor]
    inputs: Sequence[Any] | None = None

    def predict(self, trace: fxgrad.Trace) -> BackwardGraph:
        return trace.predict(**self.told).graph if self.told else trace.graph

    def run(self, *, retain_graph: bool = False) -> None:
        gradients = [torch.ones_like(root) for root in self.roots]
        if self.told.get("api") == "grad":
            torch.autograd.grad(self.roots, self.inputs, gradients, retain_graph=retain_graph, allow_unused=True)
        else:
            torch.autograd.backward(self.roots, gradients, retain_graph=retain_graph, inputs=self.inputs)


def random_call(
    rng: random.Random,
    calls: Sequence[str],
    graph: BackwardGraph,
    ids: Mapping[Any, int],
    roots: Sequence[torch.Tensor],
) -> RandomCall:
    """One of the `calls`; `ids` are those of the live nodes behind the `roots`."""
    way = rng.choice(calls)
    if way in ("inputs", "grad"):
        names, inputs = zip(*_random_inputs(rng, graph, ids), strict=True)
        return RandomCall({"inputs": names, "api": "grad" if way == "grad" else "backward"}, roots, inputs)
    if way == "some roots":
        numbers = [rng.randrange(len(roots)) for _ in range(rng.randint(1, len(roots)))]
        names = [format_path(graph.roots[number].path) for number in numbers]
        return RandomCall({"roots": names}, [roots[number] for number in numbers])
    return RandomCall({"after": way} if way in ("retained", "freed") else {}, roots)


def _random_inputs(rng: random.Random, graph: BackwardGraph, ids: Mapping[Any, int]) -> Iterator[tuple[str, Any]]:
    """Names of gradients in the graph, each with the tensor or edge that it names."""
    live = {number: node for node, number in ids.items()}
    named = {variable.node: variable.name for variable in graph.variables if variable.requires_grad}
    for _ in range(rng.randint(1, MOST_INPUTS)):
        node = graph.nodes[rng.randrange(len(graph.nodes))]
        variable = getattr(live[node.id], "variable", None)
        if variable is not None and variable.requires_grad and get_gradient_edge(variable).node is live[node.id]:
            yield named.get(node.id, node.label), variable
        else:
            slot = rng.randrange(len(node.grad_outputs))
            yield f"{node.label}[{slot}]", GradientEdge(live[node.id], slot)


@contextmanager
def witnessed(nodes: Sequence[Any]) -> Iterator[list[Any]]:
    """A list that holds the last of these nodes that backward came to execute."""
    last: list[Any] = []

    def note(_: Any) -> None:
        last[:] = [torch._C._current_autograd_node()]

    handles = [node.register_prehook(note) for node in nodes]
    try:
        yield last
    finally:
        for handle in handles:
            handle.remove()


def end_of(call: RandomCall, nodes: Sequence[Any], *, retain_graph: bool = False) -> End:
    """Run it, and say how that ended."""
    raised = None
    with witnessed(nodes) as last:
        try:
            call.run(retain_graph=retain_graph)
        except Exception as error:  # whatever a hook or the recomputation raises
            raised = str(error)
    return End(last[0] if last else None, raised)
