"""torch's own database of operators and their sample inputs, run in several ways under hooks on every node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import torch
from real_backward import Bench
from tally import Tally
from torch.utils._pytree import tree_flatten, tree_unflatten

WAYS = ("all outputs", "one output", "one input without grad", "backward(inputs=)", "autograd.grad", "double backward")
_NOT_HERE = (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError)
"""What operators raise for samples that they cannot differentiate."""
_LONGEST = 80
"""Of what PyTorch says, the beginning tells the reasons apart."""


def operators() -> list[Any]:
    """Every operator that can be differentiated on this machine, those over lists of tensors included."""
    from torch.testing._internal import common_methods_invocations as database

    lists = ("unary", "binary", "pointwise", "reduce", "other")
    over_lists = [op for name in lists for op in getattr(database, f"foreach_{name}_op_db")]
    candidates = [*database.op_db, *over_lists]
    return [op for op in candidates if op.supports_autograd and torch.float64 in op.supported_backward_dtypes("cpu")]


def hold(operator: Any, way: str, samples: int, tally: Tally) -> None:
    """Compare prediction and reality for the first samples of one operator."""
    inputs = operator.sample_inputs("cpu", torch.float64, requires_grad=True)
    for number, sample in enumerate(islice(inputs, samples)):
        flat, structure = tree_flatten((sample.input, tuple(sample.args), dict(sample.kwargs)))
        if way == "one input without grad":
            detach_one(flat, number)
        torch.manual_seed(0)
        try:
            argument, args, kwargs = tree_unflatten(flat, structure)
            roots = _roots(way, number, operator(argument, *args, **kwargs), flat)
        except _NOT_HERE as error:
            tally.skip(_text("in forward", error))
            continue
        if roots:
            _hold_roots(roots, way, number, f"{operator.name} sample {number}", tally)
        else:
            tally.skip("nothing in the output requires grad")


def _hold_roots(roots: list[torch.Tensor], way: str, number: int, name: str, tally: Tally) -> None:
    with closing(Bench(roots, made_by="torch.operator")) as bench:
        _hold_bench(bench.on_every_node(), way, number, name, tally)


def _hold_bench(bench: Bench, way: str, number: int, name: str, tally: Tally) -> None:
    inputs = None
    if way in ("backward(inputs=)", "autograd.grad"):
        leaves = [node.variable for node in bench.walked.order if hasattr(node, "variable")]
        inputs = [leaves[number % len(leaves)]]
    api = "grad" if way == "autograd.grad" else "backward"
    predicted = bench.predicted(inputs, api)
    try:
        bench.run(inputs, api)
    except _NOT_HERE as error:
        tally.skip(_text("in backward", error))
    else:
        tally.hold(name, bench.compared(predicted))


def _text(what: str, error: Exception) -> str:
    return f"{what}: {type(error).__name__}: {str(error).partition(chr(10))[0][:_LONGEST]}"


def detach_one(flat: list[Any], number: int) -> None:
    """Of several values that require grad, let one require none."""
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
