"""What FXG201 says of parameters that backward reaches with None, held against the real backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import fxgrad


class Takes(torch.autograd.Function):
    """Multiplies two tensors, and returns no gradient for the second."""

    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(y)
        return x * y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return grad * y, None


Ways = Callable[[nn.Module, torch.Tensor], torch.Tensor]
WAYS: dict[str, Ways] = {
    "itself": lambda module, x: Takes.apply(x, module.weight),
    "computed from it": lambda module, x: Takes.apply(x, module.weight.exp().t()),
    "twice refused": lambda module, x: Takes.apply(Takes.apply(x, module.weight), module.weight * 2),
    "refused here, used there": lambda module, x: Takes.apply(x, module.weight) + module.weight,
    "part of a list": lambda module, x: Takes.apply(x, torch.cat([module.weight[:1], module.weight[1:]])),
    "one of two results": lambda module, x: torch._foreach_mul([x, module.weight], 2)[0],
    "first argument": lambda module, x: Takes.apply(module.weight, x),
}


class Layer(nn.Module):
    def __init__(self, way: Ways) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))
        self._way = way

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._way(self, x)


@pytest.mark.parametrize("way", WAYS)
def test_a_parameter_without_gradient_is_found(way: str) -> None:
    model, x = Layer(WAYS[way]), torch.ones(3, 3, requires_grad=True)
    found = [
        finding for finding in fxgrad.trace(model, (x,)).explain().findings if finding.code in ("FXG201", "FXG204")
    ]
    model(x).sum().backward()
    assert [finding.owner for finding in found] == (["weight"] if model.weight.grad is None else [])
