"""FXG117: whether a full hook splits an argument that a call gets twice, held against what forward sees."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import fxgrad


class Compare(nn.Module):
    """Notes whether its first two arguments are the same object."""

    same = True

    def forward(self, one: torch.Tensor, other: torch.Tensor, third: torch.Tensor | None = None) -> torch.Tensor:
        self.same = one is other
        return one * other


def of(value: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    return function(value)


Call = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
CALLS: dict[str, Call] = {
    "one twice": lambda compare, x, weight: compare(x * weight, x * weight),
    "the same twice": lambda compare, x, weight: of(x * weight, lambda y: compare(y, y)),
    "a parameter twice": lambda compare, x, weight: compare(weight, weight) + x,
    "without grad, beside one with it": lambda compare, x, weight: compare(x, x, weight) * weight,
    "without grad": lambda compare, x, weight: compare(x, x) * weight,
    "by keyword": lambda compare, x, weight: of(x * weight, lambda y: compare(one=y, other=y)),
    "a view": lambda compare, x, weight: of(x * weight, lambda y: compare(y, y.view(3))),
}


class Model(nn.Module):
    def __init__(self, call: Call) -> None:
        super().__init__()
        self.compare, self.weight, self._call = Compare(), nn.Parameter(torch.ones(3)), call

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._call(self.compare, x, self.weight)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", CALLS)
def test_a_split_argument_is_found(call: str) -> None:
    model, x = Model(CALLS[call]), torch.ones(3)
    model(x)
    before = model.compare.same
    model.compare.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    found = [each.code for each in fxgrad.trace(model, (x,)).explain().findings if each.code == "FXG117"]
    model(x)
    assert found == ["FXG117"] * (before and not model.compare.same)
