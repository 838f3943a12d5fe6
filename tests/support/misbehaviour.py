"""Models whose forward raises or changes the model, and hooks that raise, remove themselves or do more than look."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as module_hooks


class Odd(BaseException):
    """An exception that is no Exception, and cannot be shown."""

    def __str__(self) -> str:
        raise ValueError("\x1b[31m")

    __repr__ = __str__


def recurse(depth: int = 0) -> int:
    return recurse(depth + 1)


def in_a_circle() -> None:
    first, second = ValueError("\x1b[31mred"), KeyError("\ud800")
    first.__context__, second.__context__ = second, first
    raise first


def raiser(error: BaseException | type[BaseException]) -> Callable[[], Any]:
    def raising() -> None:
        raise error

    return raising


RAISING: dict[str, Callable[[], Any]] = {
    "ValueError": raiser(ValueError("\x1b[31m\n\ud800 not <this>")),
    "SystemExit": raiser(SystemExit(3)),
    "StopIteration": raiser(StopIteration),
    "GeneratorExit": raiser(GeneratorExit),
    "MemoryError": raiser(MemoryError),
    "AssertionError": raiser(AssertionError),
    "an exception of no class known": raiser(Odd()),
    "an exception with a hostile name": raiser(type("\x1b[31m", (Exception,), {})()),
    "an exception in a circle": in_a_circle,
    "RecursionError": recurse,
    "an error of torch": lambda: torch.ones(2) @ torch.ones(3),
}


class Raising(nn.Module):
    """Changes itself, then does what it is given, half way through forward."""

    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__()
        self.act, self.inner, self.norm = act, nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.calls: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(1)
        x = self.norm(self.inner(x))
        self.act()
        return x


Change = Callable[["Changing", torch.Tensor], Any]


def _no_grad(change: Change) -> Change:
    def changed(model: Changing, x: torch.Tensor) -> None:
        with torch.no_grad():
            change(model, x)

    return changed


CHANGES: dict[str, Change] = {
    "adds a module": lambda m, x: m.add_module("late", nn.Linear(3, 3)),
    "takes a module out": lambda m, x: vars(m)["_modules"].pop("spare", None),
    "replaces a parameter": lambda m, x: setattr(m.inner, "bias", nn.Parameter(torch.zeros(3))),
    "changes a parameter": _no_grad(lambda m, x: m.inner.weight.add_(1)),
    "gives a parameter other data": lambda m, x: setattr(m.inner.weight, "data", torch.zeros(3, 3)),
    "freezes a parameter": lambda m, x: m.inner.bias.requires_grad_(False),
    "changes a buffer": lambda m, x: m.norm.running_mean.add_(1),
    "adds a buffer": lambda m, x: m.register_buffer("late", torch.ones(3)),
    "registers a full hook": lambda m, x: m.spare.register_full_backward_hook(lambda *_: None),
    "registers a hook on itself": lambda m, x: m.register_full_backward_pre_hook(lambda *_: None),
    "registers a forward hook": lambda m, x: m.inner.register_forward_hook(lambda *_: None),
    "registers a global hook": lambda m, x: module_hooks.register_module_full_backward_hook(lambda *_: None),
    "registers a hook on a parameter": lambda m, x: m.inner.weight.register_hook(lambda grad: None),
    "registers a hook on its input": lambda m, x: x.requires_grad and x.register_hook(lambda grad: None),
    "removes a hook": lambda m, x: m.handle.remove(),
    "trains": lambda m, x: m.train(not m.training),
    "becomes of another class": lambda m, x: setattr(m.spare, "__class__", nn.Identity),
    "keeps its input": lambda m, x: m.kept.append(x),
    "throws a dict away": lambda m, x: vars(m).pop("table", None),
    "draws random numbers": lambda m, x: (torch.rand(3), random.random()),
    "changes the default dtype": lambda m, x: torch.set_default_dtype(torch.float64),
    "turns gradients off": lambda m, x: torch.set_grad_enabled(False),
    "sets a gradient": lambda m, x: setattr(m.inner.weight, "grad", torch.ones(3, 3)),
    "changes its input": _no_grad(lambda m, x: x.mul_(2)),
    "holds itself": lambda m, x: m.add_module("myself", m),
    "runs a backward": lambda m, x: m.inner(torch.ones(1, 3)).sum().backward(),
    "calls forward again": lambda m, x: m.spare(x),
    "deletes an attribute": lambda m, x: vars(m).pop("table", None),
}


class Changing(nn.Module):
    """Changes itself between two calls of its modules."""

    def __init__(self, changes: list[Change]) -> None:
        super().__init__()
        self.changes = changes
        self.inner, self.spare, self.norm = nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.kept: list[torch.Tensor] = []
        self.table = {"a": 1}
        self.handle = self.inner.register_full_backward_hook(lambda *_: None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.inner(x))
        for change in self.changes:
            change(self, x)
        return self.inner(y).sin()


def changing(rng: random.Random) -> Changing:
    names = rng.sample(list(CHANGES), rng.randint(1, 3))
    return Changing([CHANGES[name] for name in names])


# Hooks


class Acting(nn.Module):
    """A model whose hooks do what they are given, once each backward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).tanh())


def _own_backward(*_: Any) -> None:
    leaf = torch.ones(2, requires_grad=True)
    (leaf * 2).sum().backward()


def _register_more(model: Acting) -> Callable[..., None]:
    def register(*_: Any) -> None:
        model.first.weight.register_hook(lambda grad: None)
        model.first.register_full_backward_hook(lambda *_: None)

    return register


ACTS: dict[str, Callable[[Acting], Callable[..., Any]]] = {
    "raises": lambda m: lambda *_: RAISING["ValueError"](),
    "exits": lambda m: lambda *_: RAISING["SystemExit"](),
    "stops an iteration": lambda m: lambda *_: RAISING["StopIteration"](),
    "recurses": lambda m: lambda *_: recurse(),
    "returns a wrong count": lambda m: lambda *_: (None,) * 7,
    "returns no tensor": lambda m: lambda *_: "\x1b[31m",
    "returns an empty tuple": lambda m: lambda *_: (),
    "registers others": _register_more,
    "runs a nested backward": lambda m: _own_backward,
    "turns gradients on": lambda m: lambda *_: torch.set_grad_enabled(True) and None,
    "changes a parameter": lambda m: lambda *_: m.first.bias.data.add_(1) and None,
    "clears gradients": lambda m: lambda *_: m.zero_grad(),
    "sets an attribute": lambda m: lambda *_: vars(m).__setitem__("seen", 1),
    "does nothing": lambda m: lambda *_: None,
}
RETURNING = ("returns a wrong count", "returns no tensor", "returns an empty tuple")
"""What these return takes the place of gradients, or is refused: predictions assume None."""


def acting(rng: random.Random) -> tuple[Acting, list[str]]:
    """The model with up to three such hooks, and what they do; some remove themselves, too."""
    model, names = Acting(), rng.sample(list(ACTS), rng.randint(1, 3))
    for name in names:
        _register(rng, model, ACTS[name](model))
    return model, names


def _register(rng: random.Random, model: Acting, act: Callable[..., Any]) -> None:
    module = rng.choice([model, model.first, model.second])
    leaf = rng.choice(list(model.parameters()))
    handles: list[Any] = []
    removes = rng.random() < 0.4

    def hook(*args: Any) -> Any:
        if removes:
            handles[0].remove()
        return act(*args)

    register = rng.choice(
        [
            module.register_full_backward_hook,
            module.register_full_backward_pre_hook,
            leaf.register_hook,
            leaf.register_post_accumulate_grad_hook,
            torch.autograd.graph.get_gradient_edge(leaf).node.register_hook,
        ]
    )
    handles.append(register(hook))
