"""A module that holds something of everything, and the table of the changes that its forward can make."""

from __future__ import annotations

import collections
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

Change = Callable[["Changing", torch.Tensor], torch.Tensor | None]
"""Changes a module, or what it holds, and may return another tensor to go on with: of three columns."""

CHANGES: dict[str, Change] = {}
GLOBAL: set[str] = set()
"""Those that change the process, not the model."""


class Stop(Exception):
    """Raised by a forward half way."""


class Member:
    """A class with an attribute of its own that a container may hold."""


class Hashless:
    """A key that may be anything but compared."""

    def __eq__(self, other: object) -> bool:
        raise TypeError("not to be compared")

    def __hash__(self) -> int:
        return 7


class Attributes(dict):
    """A dict whose members are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        return self[name]

    def clear(self) -> None:
        raise TypeError("not to be cleared")

    def update(self, *args: Any) -> None:
        raise TypeError("not to be updated")


class Other(nn.Module):
    """What a Changing module becomes."""


class Changing(nn.Module):
    """Holds something of everything. Its forward makes the changes one after the other, then calls its children.

    An exception among the changes is raised when its turn comes.
    """

    __slots__ = ("empty_slot", "slot", "slot_list")

    def __init__(self, changes: Sequence[str | BaseException] = (), *children: nn.Module) -> None:
        super().__init__()
        self.changes = changes
        self.inner = nn.ModuleList(children)
        self.linear = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.embedding = nn.Embedding(5, 3, max_norm=0.1)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
        self.frozen = nn.Parameter(torch.randn(3), requires_grad=False)
        self.scale = nn.Parameter(torch.randn(3))
        self.scale.grad = torch.ones(3)
        self.scale.register_hook(ignored)
        self.register_buffer("count", torch.zeros(3))
        self.register_buffer("codes", torch.arange(3))
        self.register_buffer("wave", torch.randn(3, dtype=torch.complex64))
        self.register_buffer("nothing", None)
        self.register_buffer("sparse", torch.eye(3).to_sparse())
        self.cache: Any = None
        self.number = 0
        self.kept: list[Any] = []
        self.table: dict[Any, Any] = {"list": [1, [2]], Hashless(): 1, (1, 2): {3}, float("nan"): 4, None: 5}
        self.members = {1, "two", (3,)}
        self.queue = collections.deque([1, 2], maxlen=3)
        self.counter = collections.Counter("aab")
        self.ordered = collections.OrderedDict(a=1, b=2)
        self.attributes = Attributes(depth=1, inside=[1])
        self.pair = (1, [torch.zeros(2)], frozenset([torch.zeros(1)]))
        self.hidden = [nn.BatchNorm1d(3), {"a": nn.Linear(3, 3)}]
        self.by_tensor = {torch.zeros(2): 1}
        self.itself = [self]
        self.__dict__["parent"] = self
        self.generator = torch.Generator()
        self.random = random.Random(0)
        self.numpy_random = np.random.default_rng(0)
        self.old_numpy_random = np.random.RandomState(0)
        self.slot = 1
        self.slot_list = [1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for change in self.changes:
            if isinstance(change, BaseException):
                raise change
            changed = CHANGES[change](self, x)
            x = x if changed is None else changed
        for child in self.inner:
            x = child(x)
        return x * self.scale

    @property
    def doubled(self) -> int:
        return self.number * 2

    @doubled.setter
    def doubled(self, value: int) -> None:
        self.number = value // 2


def ignored(*arguments: Any) -> None:
    """A hook."""


def change(function: Change) -> Change:
    CHANGES[function.__name__] = function
    return function


def process_change(function: Change) -> Change:
    GLOBAL.add(function.__name__)
    return change(function)
