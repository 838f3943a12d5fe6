"""A tensor hook on what a module returned belongs to that module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrad


def keep(grad: Tensor) -> None:
    del grad


def hook_result(module: nn.Module, args: Any, result: Any) -> None:
    del module, args
    first = result[0] if isinstance(result, tuple) else result
    first.register_hook(keep)
    first.cpu().detach()  # on the CPU, cpu() returns its argument itself


@pytest.mark.parametrize(
    ("layer", "owner"),
    [
        (lambda: nn.Linear(4, 4), "result of layer"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "result of layer.1"),
        (lambda: nn.LSTM(4, 4), "result[0] of layer"),
    ],
)
def test_the_hook_is_found_at_the_module(layer: Callable[[], nn.Module], owner: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer()

        def forward(self, x: Tensor) -> Tensor:
            result = self.layer(x)
            return (result[0] if isinstance(result, tuple) else result).sum()

    model = Net()
    model.layer.register_forward_hook(hook_result)
    trace = fxgrad.trace(model, torch.ones(2, 4))
    path = owner.partition(" of ")[2]
    assert trace.sites_of(path) == trace.sites
    assert trace.sites_of("") == ()
    assert [site.hook.owner for site in trace.sites] != ["cpu"]
    assert f"\n{owner}   " in str(trace.explain(path))
    assert fxgrad.verify(model, torch.ones(2, 4)).ok


def test_a_hook_on_what_an_operation_of_forward_makes_belongs_to_no_module() -> None:
    class Net(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            hidden = super().forward(x) * 2
            hidden.register_hook(keep)
            return hidden.sum()

    trace = fxgrad.trace(Net(4, 4), torch.ones(2, 4))
    assert trace.sites_of("") == ()
    assert [site.hook.owner for site in trace.sites] == ["mul"]
