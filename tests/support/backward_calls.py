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
from fxgrad.graph.lookup import find_input
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


def random_call(rng: random.Random, calls: Sequence[str], graph: BackwardGraph) -> dict[str, Any]:
    """What `Trace.predict` and `fxgrad.verify` are told of one of the `calls`."""
    way = rng.choice(calls)
    if way in ("inputs", "grad"):
        return {"inputs": _random_inputs(rng, graph), "api": "grad" if way == "grad" else "backward"}
    if way == "some roots":
        chosen = rng.choices(graph.roots, k=rng.randint(1, len(graph.roots)))
        return {"roots": [format_path(root.path) for root in chosen]}
    return {"after": way} if way in ("retained", "freed") else {}


def _random_inputs(rng: random.Random, graph: BackwardGraph) -> list[str]:
    """Names of gradients in the graph."""
    names = {variable.node: variable.name for variable in graph.variables if variable.requires_grad}
    nodes = rng.choices(graph.nodes, k=rng.randint(1, MOST_INPUTS))
    # a leaf whose gradients go to another node by now is not what its name means
    leaves = [names[node.id] for node in nodes if node.id in names and node.kind.is_leaf]
    meant = {find_input(graph, name).node: name for name in leaves}
    return [meant.get(node.id) or f"{node.label}[{rng.randrange(len(node.grad_outputs))}]" for node in nodes]


def live_call(
    told: Mapping[str, Any], graph: BackwardGraph, ids: Mapping[Any, int], roots: Sequence[torch.Tensor]
) -> RandomCall:
    """The same call with the live tensors; `ids` are those of the live nodes behind the `roots`."""
    live = {number: node for node, number in ids.items()}
    by_path = {format_path(root.path): tensor for root, tensor in zip(graph.roots, roots, strict=True)}
    started = [by_path[path] for path in told["roots"]] if "roots" in told else roots
    if "inputs" not in told:
        return RandomCall(told, started)
    places = [find_input(graph, name) for name in told["inputs"]]
    return RandomCall(told, started, [_input(live[place.node], place.slot) for place in places])


def _input(node: Any, slot: int) -> Any:
    """A leaf, unless its gradients go to another node by now; else an edge."""
    variable = getattr(node, "variable", None)
    if variable is not None and variable.requires_grad and get_gradient_edge(variable).node is node:
        return variable
    return GradientEdge(node, slot)


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
