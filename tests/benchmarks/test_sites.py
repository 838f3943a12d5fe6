"""What the places, contents and explanations of hooks cost, and that each site costs the same however many there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import nn

import fxgrad
from fxgrad.predict import predict
from fxgrad.resolve import resolve
from tests.benchmarks.conftest import timed

COUNTS = (10, 100, 1_000, 10_000)


def hooked(count: int, register: str) -> nn.Module:
    """As many modules in a row, each with a hook."""
    model = nn.Sequential(*[nn.Tanh() for _ in range(count)])
    for module in model:
        getattr(module, register)(lambda module, grad_input, grad_output: None)
    return model


class Costs:
    """Microseconds for each site of one model."""

    def __init__(self, count: int, register: str) -> None:
        self._model = hooked(count, register)
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
            "resolve": self.each(lambda: resolve(bare[0])),
            "resolve and predict": self.each(lambda: predict(bare[1])),
            "explain": self.each(lambda: str(self.traced.explain())),
            "report": self.each(lambda: str(self.traced.report())),
        }


@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_backward_hook"])
@pytest.mark.filterwarnings("ignore")
def test_cost_of_a_site_with(benchmark: Any, figure: Callable[[str], None], register: str) -> None:
    Costs(1, register).row()  # what is made once in a process is made
    costs = {count: Costs(count, register) for count in COUNTS}
    rows = benchmark.pedantic(lambda: {count: made.row() for count, made in costs.items()}, rounds=1)
    for what in rows[10]:
        figures = [rows[count][what] for count in COUNTS]
        each = " ".join(f"{took:8.1f}" for took in figures)
        figure(f"{what:<20}{each} us a site, for {' '.join(f'{count:,}' for count in COUNTS)} sites")
