"""Programs for the rules to speak of, and what they say."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

import fxgrad
from fxgrad.graph import Explanation
from fxgrad.rules import explain


def show(*given: Any) -> None:
    """A hook that does nothing."""


class Program(nn.Module):
    """A Linear and a forward that is given."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.run = forward

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self, x)


def tensor(*, grad: bool = True) -> torch.Tensor:
    """What a Program takes."""
    return torch.ones(2, 3, requires_grad=grad)


def found(model: nn.Module, code: str, x: torch.Tensor | None = None) -> list[Explanation]:
    """What one rule says of a model."""
    graph = fxgrad.trace(model, tensor() if x is None else x).graph
    return [told for told in explain(graph) if told.code == code]


def texts(told: Explanation) -> list[str]:
    """Headline, because and fix, without the places in the tests."""
    return [
        re.sub(r"tests/unit/rules/test_\w+\.py:\d+", "HERE", text) for text in (told.headline, told.because, told.fix)
    ]
