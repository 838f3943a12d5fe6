"""Where the programs of the slice are gathered, and what they share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from comparison import Comparison

Slice = dict[str, Callable[[], Comparison]]
SLICE: Slice = {}


def part(function: Callable[[], Comparison]) -> Callable[[], Comparison]:
    SLICE[function.__name__] = function
    return function


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (3,), requires_grad=True)
