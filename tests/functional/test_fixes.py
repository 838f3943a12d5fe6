"""Fixes that are code, each applied to the program that it is told of: the finding goes, and backward does what was wanted.

Those of lost gradients are in test_lost_gradients.py, those of whole programs in tests/strangers and samples/rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import nn

import fxgrad


class Net(nn.Module):
    def __init__(self, forward: Callable[[nn.Module, torch.Tensor], torch.Tensor], **held: object) -> None:
        super().__init__()
        self.inner, self.run = nn.Linear(3, 3), forward
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(self, x)


class Case(NamedTuple):
    code: str
    fix: str
    program: Callable[[], nn.Module]
    mended: Callable[[], nn.Module]


def changed(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    gates = m.inner(x).sigmoid()
    gates += 1
    return gates


def added(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    gates = m.inner(x).sigmoid()
    gates = gates + 1
    return gates


def cloned(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    gates = m.inner(x).sigmoid().clone()
    gates += 1
    return gates


def in_list(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return m.layers[0](m.inner(x))


def in_dict(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return m.layers["a"](m.inner(x))


def scaled(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return m.inner(x) * m.scale


def scaled_by_one(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return m.inner(x) * m.scales[0]


def scaled_by_name(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return m.inner(x) * m.scales["a"]


def weight() -> nn.Parameter:
    return nn.Parameter(torch.ones(3))


def rounded(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return m.inner(x).round() * 2


def rounded_straight_through(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = m.inner(x)
    y = x.round()
    return (x + (y - x).detach()) * 2


CASES = {
    "out of place": Case(
        "FXG203",
        "replace `add_` with an out-of-place operation, or apply it to a clone",
        lambda: Net(changed),
        lambda: Net(added),
    ),
    "a clone": Case("FXG203", "or apply it to a clone", lambda: Net(changed), lambda: Net(cloned)),
    "a list of modules": Case(
        "FXG207",
        "make `layers` an nn.ModuleList",
        lambda: Net(in_list, layers=[nn.Linear(3, 3)]),
        lambda: Net(in_list, layers=nn.ModuleList([nn.Linear(3, 3)])),
    ),
    "a dict of modules": Case(
        "FXG207",
        "make `layers` an nn.ModuleDict",
        lambda: Net(in_dict, layers={"a": nn.Linear(3, 3)}),
        lambda: Net(in_dict, layers=nn.ModuleDict({"a": nn.Linear(3, 3)})),
    ),
    "a list of parameters": Case(
        "FXG207",
        "make `scales` an nn.ParameterList",
        lambda: Net(scaled_by_one, scales=[weight()]),
        lambda: Net(scaled_by_one, scales=nn.ParameterList([weight()])),
    ),
    "a dict of parameters": Case(
        "FXG207",
        "make `scales` an nn.ParameterDict",
        lambda: Net(scaled_by_name, scales={"a": weight()}),
        lambda: Net(scaled_by_name, scales=nn.ParameterDict({"a": weight()})),
    ),
    "a tensor": Case(
        "FXG207",
        "make `scale` an nn.Parameter",
        lambda: Net(scaled, scale=torch.ones(3, requires_grad=True)),
        lambda: Net(scaled, scale=weight()),
    ),
    "a computed tensor": Case(
        "FXG201",
        "make it a leaf: `scale = scale.detach().requires_grad_()`, or an nn.Parameter",
        lambda: Net(scaled, scale=torch.ones(3, requires_grad=True) * 2),
        lambda: Net(scaled, scale=nn.Parameter((torch.ones(3, requires_grad=True) * 2).detach())),
    ),
    "a computed tensor that retains its gradient": Case(
        "FXG201",
        "or call `scale`.retain_grad() before backward",
        lambda: Net(scaled, scale=torch.ones(3, requires_grad=True) * 2),
        lambda: retain(Net(scaled, scale=torch.ones(3, requires_grad=True) * 2)),
    ),
    "a step function": Case(
        "FXG205",
        "write `x + (y - x).detach()` for y, the result of `round` for x",
        lambda: Net(rounded),
        lambda: Net(rounded_straight_through),
    ),
}


def retain(model: nn.Module) -> nn.Module:
    model.scale.retain_grad()
    return model


def is_trained(model: nn.Module) -> bool:
    """Whether each parameter, and what the model scales by, gets a gradient that is not all zero and that an optimizer sees."""
    model(torch.ones(2, 3)).square().sum().backward()
    wanted = [*model.parameters(), *[model.scale for _ in range(hasattr(model, "scale"))]]
    return all(each.grad is not None and bool(each.grad.any()) for each in wanted)


@pytest.mark.parametrize("case", CASES)
def test_the_fix_takes_the_finding_away(case: str) -> None:
    code, fix, program, mended = CASES[case]
    torch.manual_seed(0)
    (told,) = [each for each in fxgrad.trace(program(), torch.ones(2, 3)).explain().findings if each.severity != "info"]
    assert told.code == code
    assert fix in told.fix
    model = mended()
    left = [each for each in fxgrad.trace(model, torch.ones(2, 3)).explain().findings if each.severity != "info"]
    assert left == []
    assert is_trained(model)
