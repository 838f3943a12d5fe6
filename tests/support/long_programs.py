"""Programs of as many nodes as one likes, and what a node costs in each step from forward to JSON."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

import fxgrad

COSTS = ("trace", "report", "explain", "JSON")
_Result = TypeVar("_Result")


class Long(nn.Module):
    """A hooked layer and so many operations, of which each uses two results."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.nodes, self.layer = nodes, nn.Linear(2, 2)
        self.layer.register_full_backward_hook(lambda module, grad_input, grad_output: None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = total = self.layer(x)
        for _ in range(self.nodes // 2):
            total = total + y * 2
        return total


def measure_costs(nodes: int) -> dict[str, float]:
    """The seconds of this process that each step takes for one node of a program of about so many."""
    model, x = Long(nodes), torch.ones(1, 2)
    spent = {}

    def measure(what: str, work: Callable[[], _Result]) -> _Result:
        start = time.process_time()
        result = work()
        spent[what] = (time.process_time() - start) / nodes
        return result

    trace = measure("trace", lambda: fxgrad.trace(model, x))
    assert nodes <= len(trace.graph.nodes) < nodes + 10
    assert [site.fires for site in trace.sites] == [True]
    assert measure("report", lambda: str(trace.report()))
    assert measure("explain", lambda: str(trace.explain()))
    assert measure("JSON", trace.to_json)
    return spent
