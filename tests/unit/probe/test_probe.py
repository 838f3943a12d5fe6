"""What a hook would get, held against really registering it and running backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import fxgrad
from fxgrad import HookKind

KINDS = [HookKind.MODULE_BACKWARD, HookKind.MODULE_FULL_BACKWARD, HookKind.MODULE_FULL_BACKWARD_PRE]
REGISTER = {
    HookKind.MODULE_BACKWARD: nn.Module.register_backward_hook,
    HookKind.MODULE_FULL_BACKWARD: nn.Module.register_full_backward_hook,
    HookKind.MODULE_FULL_BACKWARD_PRE: nn.Module.register_full_backward_pre_hook,
}


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(torch.tanh(self.inner(x)))


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LSTMCell(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.inner(x)
        return self.inner(x, state)[0]


def sequential() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.0)))


CASES: list[tuple[Callable[[], nn.Module], str]] = [
    (sequential, ""),
    (sequential, "0"),
    (sequential, "1"),
    (sequential, "2"),
    (Twice, "inner"),
    (Cell, "inner"),
]


def contents(sites) -> list[object]:
    return [
        (
            site.call,
            site.fires,
            site.times,
            [(g.status, g.shape, g.dtype) for g in site.grad_input],
            [(g.status, g.shape, g.dtype) for g in site.grad_output],
        )
        for site in sites
    ]


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("make", "path"), CASES)
def test_probe_agrees_with_really_registering(make, path: str, kind: HookKind, requires_grad: bool) -> None:
    model, x = make(), torch.randn(3, 4, requires_grad=requires_grad)
    probe = fxgrad.trace(model, x).probe(path, kind)
    REGISTER[kind](model.get_submodule(path), lambda *arguments: None)
    verification = fxgrad.verify(model, x)
    assert probe.refused is None
    assert verification.ok
    assert contents(probe.sites) == contents(verification.graph.sites)


def test_probe_registers_nothing() -> None:
    model = sequential()
    fxgrad.trace(model, torch.randn(3, 4)).probe("0", HookKind.MODULE_FULL_BACKWARD)
    assert not model[0]._backward_hooks
    assert model[0]._is_full_backward_hook is None


def test_a_legacy_hook_beside_a_full_one_is_refused() -> None:
    model = sequential()
    model[0].register_full_backward_hook(lambda *arguments: None)
    probe = fxgrad.trace(model, torch.randn(3, 4)).probe("0", HookKind.MODULE_BACKWARD)
    assert probe.sites == ()
    assert probe.refused
