"""A program with hooks of all twelve kinds, shared modules, nested arguments and keywords. Also a TARGET."""

from __future__ import annotations

import functools
import typing
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import register_multi_grad_hook
from torch.nn.modules import module as module_hooks


def show(*arguments: Any) -> None:
    """A hook."""


class Callable:
    """A hook that is an object."""

    def __call__(self, *arguments: Any) -> None:
        """Called like a hook."""


@dataclass
class State:
    """An argument of a class of its own."""

    hidden: torch.Tensor
    names: frozenset[str]


class Double(torch.autograd.Function):
    """A custom Function."""

    @staticmethod
    def forward(ctx, x, factor):
        return x * factor

    @staticmethod
    def backward(ctx, grad):
        return grad * 2, None


class Block(nn.Module):
    """Uses a shared layer, says of itself which function it applies, and draws random numbers of its own."""

    def __init__(self, shared: nn.Module, width: int) -> None:
        super().__init__()
        self.shared = shared
        self.own = nn.Linear(width, width)
        self.activation = torch.tanh if width % 2 else nn.functional.relu
        self.generator = torch.Generator().manual_seed(0)

    def extra_repr(self) -> str:
        return f"activation={self.activation}"

    def forward(self, x: torch.Tensor, *, scale: torch.Tensor | None = None) -> torch.Tensor:
        y = self.activation(self.own(self.shared(x)))
        warnings.warn(f"drawn by {self.generator}", stacklevel=2)
        y = y + torch.rand(y.shape, generator=self.generator)
        y.register_hook(show)
        y.grad_fn.register_hook(Callable())
        y.grad_fn.register_prehook(functools.partial(show, 1))
        y.retain_grad()
        return y if scale is None else y * scale


class Model(nn.Module):
    """Two blocks around one layer."""

    def __init__(self) -> None:
        super().__init__()
        shared = nn.Linear(3, 3)
        self.blocks = nn.ModuleDict({name: Block(shared, 3) for name in ("first", "second", "third")})
        self.again = self.blocks["second"]
        self.unused = nn.Linear(3, 3)
        self.tags = {"x", "y", "z"}

    def forward(
        self, tensors: dict[Any, torch.Tensor], names: set[str], state: State, *, scale: torch.Tensor
    ) -> dict[str, Any]:
        x = tensors["x"] + tensors[0, 1] * tensors[None]
        for name in sorted(names):
            x = self.blocks[name](x, scale=scale)
        x = self.again(x) + Double.apply(state.hidden, 3)
        register_multi_grad_hook((x, scale), show, mode="any")
        return {"result": x, "parts": [x.sum(), x.unbind()], "count": 3}


Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


def build() -> Built:
    """The model with its hooks, its arguments and its keywords."""
    torch.manual_seed(0)
    model = Model()
    model.blocks["first"].register_backward_hook(show)
    model.blocks["second"].register_full_backward_hook(show)
    model.blocks["second"].register_full_backward_hook(Callable(), prepend=True)
    model.blocks["third"].register_full_backward_pre_hook(lambda module, grad_output: None)
    model.unused.register_full_backward_hook(show)
    for parameter in model.parameters():
        parameter.register_hook(show)
        parameter.register_post_accumulate_grad_hook(show)
    register_multi_grad_hook(tuple(model.blocks["first"].parameters()), show)
    tensors = {"x": torch.randn(2, 3, requires_grad=True), (0, 1): torch.randn(3), None: torch.ones(3)}
    state = State(torch.randn(2, 3, requires_grad=True), frozenset({"h", "i"}))
    scale = torch.ones(3, requires_grad=True)
    return model, (tensors, {"first", "second", "third"}, state), {"scale": scale}


def build_with_global_hooks() -> Built:
    """The same, with full hooks on all modules instead."""
    return with_global(
        module_hooks.register_module_full_backward_pre_hook, module_hooks.register_module_full_backward_hook
    )


def build_with_global_legacy_hooks() -> Built:
    """The same, with legacy hooks on all modules instead."""
    return with_global(module_hooks.register_module_backward_hook)


def with_global(*registering: typing.Callable[..., Any]) -> Built:
    """PyTorch refuses legacy and full hooks together, so all those on modules are taken away first."""
    model, args, kwargs = build()
    module_hooks._global_backward_hooks.clear()
    module_hooks._global_backward_pre_hooks.clear()
    module_hooks._global_is_full_backward_hook = None
    for module in model.modules():
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
        module._is_full_backward_hook = None
    for register in registering:
        register(show)
    return model, args, kwargs
