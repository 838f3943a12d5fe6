"""What is said of parameters that get no gradient, held against the real backward: FXG201 and FXG206."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import fxgrad
from fxgrad.errors import TargetError


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


def reentrant(function: Callable[..., torch.Tensor], *args: object) -> torch.Tensor:
    result = checkpoint(function, *args, use_reentrant=True)
    assert isinstance(result, torch.Tensor)
    return result


CHECKPOINTS: dict[str, Ways] = {
    "no argument requires grad": lambda module, x: reentrant(module.inner, x) + module.bias,
    "an argument requires grad": lambda module, x: reentrant(module.inner, x * module.bias),
    "one of two requires grad": lambda module, x: reentrant(lambda one, two: module.inner(one) + two, x, module.bias),
    "a list holds what requires grad": lambda module, x: (
        reentrant(lambda some: module.inner(some[0]), [x * module.bias]) + module.bias
    ),
    "used outside as well": lambda module, x: reentrant(module.inner, x) + module.inner(x) + module.bias,
    "used in two of them": lambda module, x: reentrant(module.inner, x) + reentrant(module.inner, x * module.bias),
    "one in another": lambda module, x: reentrant(lambda y: reentrant(module.inner, y), x) + module.bias,
    "in a sequence": lambda module, x: (
        checkpoint_sequential(nn.Sequential(module.inner, nn.Tanh()), 2, x, use_reentrant=True) + module.bias
    ),
    "not reentrant": lambda module, x: checkpoint(module.inner, x, use_reentrant=False) + module.bias,
}


class Checkpointed(nn.Module):
    def __init__(self, way: Ways) -> None:
        super().__init__()
        self.inner, self.bias = nn.Linear(3, 3), nn.Parameter(torch.ones(3))
        self._way = way

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._way(self, x)


@pytest.mark.filterwarnings("ignore")  # PyTorch warns of both
@pytest.mark.parametrize("way", CHECKPOINTS)
def test_a_checkpoint_without_grad_is_found(way: str) -> None:
    model, x = Checkpointed(CHECKPOINTS[way]), torch.ones(2, 3)
    fired = []
    model.inner.register_full_backward_hook(lambda module, grad_input, grad_output: fired.append(1))
    model.inner.weight.register_hook(lambda grad: fired.append(1))
    trace = fxgrad.trace(model, (x,))
    found = [finding.code for finding in trace.explain().findings if finding.code in ("FXG201", "FXG204", "FXG206")]
    never = [site.fires is False for site in trace.graph.sites]
    model(x).sum().backward()
    assert found == ([] if fired else ["FXG206"])
    assert all(never) is not bool(fired)


def test_where_nothing_requires_grad_the_checkpoint_is_told():
    model = Checkpointed(lambda module, x: reentrant(module.inner, x))
    with pytest.raises(TargetError, match="a reentrant checkpoint gets no tensor that requires grad"):
        fxgrad.trace(model, (torch.ones(2, 3),))
