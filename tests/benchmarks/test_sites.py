"""What the places, contents and explanations of hooks cost, and that each site costs the same however many there are."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import nn
from torch.utils.checkpoint import checkpoint

import fxgrad
from fxgrad.predict import find_places, predict
from tests.benchmarks.conftest import timed

COUNTS = (10, 100, 1_000, 10_000)
MakeModel = Callable[[int], nn.Module]


def in_a_row(register: str, hook: Callable[..., object], make: Callable[[], nn.Module] = nn.Tanh) -> MakeModel:
    """As many modules in a row, each with a hook."""

    def model(count: int) -> nn.Module:
        made = nn.Sequential(*[make() for _ in range(count)])
        for module in made:
            getattr(module, register)(hook)
        return made

    return model


class Stepwise(nn.Module):
    """Hooks registered in forward, or on modules that it does not come to: all over a chain of operations."""

    def __init__(self, count: int, step: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.linear, self.count, self.step = nn.Linear(4, 4), count, step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linear(x)
        for _ in range(self.count):
            x = x * 2
            self.step(x)
        return x


def changed_after(x: torch.Tensor) -> None:
    x.register_hook(lambda grad: None)
    x.add_(1)


def silent(count: int) -> nn.Module:
    model = Stepwise(0, changed_after)
    model.spare = nn.ModuleList([nn.Linear(4, 4) for _ in range(count)])
    for module in model.spare:
        module.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    return model


class Checkpointed(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.segments = nn.ModuleList([nn.Linear(4, 4) for _ in range(count)])
        for segment in self.segments:
            segment.weight.register_hook(lambda grad: None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for segment in self.segments:
            x = checkpoint(segment, x, use_reentrant=True)
        return x


MODELS: dict[str, MakeModel] = {
    "full hooks": in_a_row("register_full_backward_hook", lambda module, grad_input, grad_output: None),
    "non-full hooks": in_a_row("register_backward_hook", lambda module, grad_input, grad_output: None),
    "hooks that return values": in_a_row("register_full_backward_hook", lambda module, inputs, outputs: inputs),
    "hooks that read .grad": in_a_row(
        "register_full_backward_hook",
        lambda module, grad_input, grad_output: print(module.weight.grad),
        lambda: nn.Linear(4, 4),
    ),
    "tensor hooks before in-place": lambda count: Stepwise(count, changed_after),
    "hooks that never fire": silent,
    "hooks on leaves in checkpoints": Checkpointed,
}


class Costs:
    """Microseconds for each site of one model."""

    def __init__(self, count: int, make: MakeModel) -> None:
        self._model = make(count)
        self._inputs = torch.randn(2, 4, requires_grad=True)
        self._count = count

    @cached_property
    def traced(self) -> fxgrad.Trace:
        return self._trace()

    def _trace(self) -> fxgrad.Trace:
        return fxgrad.trace(self._model, self._inputs)

    def each(self, work: Callable[[], object]) -> float:
        return timed(work) / self._count * 1e6

    def row(self) -> dict[str, float]:
        assert len(self.traced.sites) == self._count
        bare = [replace(self.traced.graph, sites=()) for _ in range(2)]  # look-ups are kept by the graph
        return {
            "trace": self.each(self._trace),
            "find the places": self.each(lambda: find_places(bare[0])),
            "find and predict": self.each(lambda: predict(bare[1])),
            "explain": self.each(lambda: str(self.traced.explain())),
            "report": self.each(lambda: str(self.traced.report())),
        }


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_cost_of_a_site_with(benchmark: Any, figure: Callable[[str], None], model: str) -> None:
    Costs(1, MODELS[model]).row()  # what is made once in a process is made
    costs = {count: Costs(count, MODELS[model]) for count in COUNTS}
    rows = benchmark.pedantic(lambda: {count: made.row() for count, made in costs.items()}, rounds=1)
    for what in rows[10]:
        figures = [rows[count][what] for count in COUNTS]
        each = " ".join(f"{took:8.1f}" for took in figures)
        figure(f"{what:<20}{each} us a site, for {' '.join(f'{count:,}' for count in COUNTS)} sites")
