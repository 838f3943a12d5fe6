"""torch's own database of operators and their sample inputs, run in several ways under hooks on every node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from real_backward import Bench
from torch.utils._pytree import tree_flatten, tree_unflatten

from fxgrad.graph import NodeKind

WAYS = ("all outputs", "one output", "one input without grad", "backward(inputs=)", "autograd.grad", "double backward")
_NOT_HERE = (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError)
"""What operators raise for samples that they cannot differentiate."""


@dataclass
class Tally:
    """What came of some operators: ``open_by_torch`` counts unknown entries that no Python Function is the cause of."""

    entries: int = 0
    unknown: int = 0
    open_by_torch: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.entries += other.entries
        self.unknown += other.unknown
        self.open_by_torch += other.open_by_torch
        self.wrong += other.wrong


def operators() -> list[Any]:
    """Every operator that can be differentiated on this machine, those over lists of tensors included."""
    from torch.testing._internal import common_methods_invocations as database

    lists = ("unary", "binary", "pointwise", "reduce", "other")
    over_lists = [op for name in lists for op in getattr(database, f"foreach_{name}_op_db")]
    candidates = [*database.op_db, *over_lists]
    return [op for op in candidates if op.supports_autograd and torch.float64 in op.supported_backward_dtypes("cpu")]


def tally(operator: Any, way: str, samples: int) -> Tally:
    """Compare prediction and reality for the first samples of one operator."""
    total = Tally()
    inputs = operator.sample_inputs("cpu", torch.float64, requires_grad=True)
    for number, sample in enumerate(islice(inputs, samples)):
        total.add(_of_sample(operator, way, number, sample))
    return total


def _of_sample(operator: Any, way: str, number: int, sample: Any) -> Tally:
    flat, structure = tree_flatten((sample.input, tuple(sample.args), dict(sample.kwargs)))
    if way == "one input without grad":
        _detach_one(flat, number)
    torch.manual_seed(0)
    try:
        argument, args, kwargs = tree_unflatten(flat, structure)
        roots = _roots(way, number, operator(argument, *args, **kwargs), flat)
    except _NOT_HERE:
        return Tally()  # a sample that torch itself does not run here
    if not roots:
        return Tally()
    bench = Bench(roots, made_by="torch.operator").on_every_node()
    inputs = None
    if way in ("backward(inputs=)", "autograd.grad"):
        leaves = [node.variable for node in bench.walked.order if hasattr(node, "variable")]
        inputs = [leaves[number % len(leaves)]]
    return _compared(bench, inputs, "grad" if way == "autograd.grad" else "backward", f"{operator.name}: ")


def _detach_one(flat: list[Any], number: int) -> None:
    indices = [index for index, value in enumerate(flat) if isinstance(value, torch.Tensor) and value.requires_grad]
    if len(indices) > 1:
        index = indices[number % len(indices)]
        flat[index] = flat[index].detach()


def _roots(way: str, number: int, output: Any, arguments: Sequence[Any]) -> list[torch.Tensor]:
    roots = [value for value in tree_flatten(output)[0] if isinstance(value, torch.Tensor) and value.grad_fn]
    if way == "double backward":
        leaves = [value for value in _tensors(arguments) if value.requires_grad and value.is_leaf]
        ones = [torch.ones_like(root, requires_grad=True) for root in roots]
        grads = torch.autograd.grad(roots, leaves, ones, create_graph=True, allow_unused=True)
        roots = [grad for grad in grads if grad is not None and grad.requires_grad]
    one = way == "one output" or (way == "double backward" and number % 2)
    return [roots[number % len(roots)]] if one and roots else roots


def _tensors(values: Sequence[Any]) -> Iterator[torch.Tensor]:
    return (value for value in values if isinstance(value, torch.Tensor))


def _compared(bench: Bench, inputs: Sequence[torch.Tensor] | None, api: str, prefix: str) -> Tally:
    predicted = bench.predicted(inputs, api)
    try:
        bench.run(inputs, api)
    except _NOT_HERE:
        return Tally()  # this derivative is not implemented, or not for this sample
    result = bench.compared(predicted)
    python = any(node.kind is NodeKind.CUSTOM_FUNCTION for node in predicted.nodes)
    open_by_torch = 0 if python else result.unknown
    return Tally(result.entries, result.unknown, open_by_torch, [prefix + text for text in result.wrong])
