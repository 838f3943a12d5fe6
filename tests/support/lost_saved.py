"""Graphs of torch's operators that can no longer read what they saved, and whether backward then raises."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from tally import Tally
from torch.utils._pytree import tree_flatten, tree_unflatten

import fxgrad
from fxgrad.errors import TargetError
from fxgrad.predict import find_raising_nodes

NOT_HERE = (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError)
MESSAGES = ("Trying to backward through the graph a second time", "has been modified by an inplace operation")
WAYS = ("freed", "changed")


def hold(operator: Any, way: str, samples: int, tally: Tally) -> None:
    """Compare, for the first samples of one operator, whether a node raises with what backward does."""
    for number in range(samples):
        for name, roots in graphs_of(operator, number, way):
            hold_graph(f"{operator.name} sample {number}{name}", roots, tally)


def graphs_of(operator: Any, number: int, way: str) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """The outputs after a backward has freed their graph, or with one of the tensors changed in place: one of each."""
    made = make(operator, number)
    if made is None:
        return
    roots, tensors = made
    if way == "freed":
        try:
            run(roots)
        except NOT_HERE:
            return
        yield "", roots
        return
    for position in range(len(tensors)):
        again = make(operator, number)
        if again is not None and position < len(again[1]):
            roots, tensors = again
            torch.autograd.graph.increment_version([tensors[position]])
            yield f" tensor {position}", roots


def make(operator: Any, number: int) -> tuple[list[torch.Tensor], list[torch.Tensor]] | None:
    """The outputs that require grad of an operator, and all tensors that it got and returned."""
    inputs = operator.sample_inputs("cpu", torch.float64, requires_grad=True)
    sample = next(islice(inputs, number, None), None)
    if sample is None:
        return None
    flat, structure = tree_flatten((sample.input, tuple(sample.args), dict(sample.kwargs)))
    argument, args, kwargs = tree_unflatten(flat, structure)
    torch.manual_seed(0)
    try:
        returned = tree_flatten(operator(argument, *args, **kwargs))[0]
    except NOT_HERE:
        return None
    roots = [value for value in returned if isinstance(value, torch.Tensor) and value.grad_fn]
    tensors = [value for value in (*flat, *returned) if isinstance(value, torch.Tensor) and not value.is_inference()]
    return (roots, tensors) if roots else None


def run(roots: list[torch.Tensor]) -> None:
    torch.autograd.backward(roots, [torch.ones_like(root) for root in roots])


def hold_graph(name: str, roots: list[torch.Tensor], tally: Tally) -> None:
    try:
        graph = fxgrad.capture(roots).graph
    except TargetError as error:  # PyTorch does not start a backward there
        tally.skip(error.given[:100])
        return
    certain, possible = find_raising_nodes(graph)
    raised = ""
    try:
        run(roots)
    except NOT_HERE as error:
        raised = str(error)[:100]
        if not any(message in str(error) for message in MESSAGES):
            tally.skip(f"in backward: {raised}")
            return
    tally.tried += 1
    tally.entries += 1
    if raised and certain is None and possible is None and not all(map(shows_saved, nodes_behind(roots))):
        tally.unknown["a node shows nothing of what it saved"] += 1
    elif raised and certain is None and possible is None:
        tally.wrong["raises"] += 1
        tally.texts.append(f"{name}: it raises, not predicted: {raised}")
    elif certain is not None and not raised:
        tally.wrong["raises"] += 1
        tally.texts.append(f"{name}: {certain.label} does not raise")
    if certain is None and possible is not None:
        tally.unknown["its code decides"] += 1


def shows_saved(node: Any) -> bool:
    """Whether a node has attributes for what it saved: ``CopySlices`` and those of foreach functions have none."""
    return type(node).__name__ not in ("CppFunction", "CopySlices")


def nodes_behind(roots: list[torch.Tensor]) -> set[Any]:
    seen: set[Any] = set()
    waiting = [root.grad_fn for root in roots]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return {node for node in seen if not hasattr(node, "variable")}
