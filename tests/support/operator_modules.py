"""torch's own database of operators, each as a module of its own, with hooks on it and on what it returns."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import operators
import torch
from module_cases import Case, Hooks, copied
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from fxgrad.graph import HookKind

KINDS = (HookKind.MODULE_BACKWARD, HookKind.NODE, HookKind.NODE_PRE, HookKind.TENSOR, HookKind.RETAIN_GRAD)
HOOKS = Hooks(Hooks.of_kinds(*KINDS).on_model)
"""None on the inputs: PyTorch does not tell the node of a leaf whose layout is sparse_csr."""
ON_NODES = Hooks(Hooks.of_kinds(HookKind.NODE).on_model)


class Operator(nn.Module):
    """A module whose forward is one operator."""

    def __init__(self, operator: Any) -> None:
        super().__init__()
        self._operator = operator

    def forward(self, /, *args: Any, **kwargs: Any) -> Any:
        """What the operator gives."""
        return self._operator(*args, **kwargs)


def operator_cases(samples: int, *, detached: int = 2) -> Iterator[Case]:
    """The first samples of each operator; in one of `detached` of them one of the inputs requires no grad."""
    for operator in operators.operators():
        inputs = operator.sample_inputs("cpu", torch.float64, requires_grad=True)
        for number, sample in enumerate(islice(inputs, samples)):
            flat, structure = tree_flatten((sample.input, tuple(sample.args), dict(sample.kwargs)))
            if number % detached == detached - 1:
                operators.detach_one(flat, number // detached)
            yield _case(operator, number, tree_unflatten(flat, structure))


def _case(operator: Any, number: int, given: tuple[Any, tuple[Any, ...], dict[str, Any]]) -> Case:
    argument, args, kwargs = given
    return Case(
        f"{operator.name} sample {number}",
        lambda: Operator(operator),
        lambda: copied(((argument, *args), kwargs)),
    )
