"""What the programs are made of, and the table of all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from module_hooks import FromFunction
from probed_hooks import Build, Built
from torch import nn

PROGRAMS: dict[str, Build] = {}


def program(build: Build) -> Build:
    PROGRAMS[build.__name__] = build
    return build


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (2, 3), requires_grad=True)


def inner(*shape: int) -> torch.Tensor:
    return leaf(*shape) * 1


def given(model: nn.Module, *args: Any, **kwargs: Any) -> Built:
    return model, args, kwargs


def around(module: nn.Module, forward: Callable[..., Any]) -> nn.Module:
    """A module that calls another, which is its ``m``."""
    parent = FromFunction(forward)
    parent.m = module
    return parent


def residual(*modules: nn.Module, forward: Callable[..., Any]) -> nn.Module:
    """A module with the children a, b and c."""
    parent = FromFunction(forward)
    for name, module in zip("abc", modules, strict=False):
        parent.add_module(name, module)
    return parent


def nested() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2), nn.Tanh()))


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        return x * factor, x + 1

    @staticmethod
    def backward(ctx, a, b):
        return a * 2 + b, None
