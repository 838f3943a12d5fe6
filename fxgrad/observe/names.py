"""Names of modules and tensors, as the model itself has them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from fxgrad.graph import Path
from fxgrad.observe.structure import tensors_in


class NamedTensor:
    """A tensor with its first name, its other names and what it is to the model."""

    __slots__ = ("aliases", "kind", "name", "tensor")

    def __init__(self, name: str, kind: str, tensor: torch.Tensor) -> None:
        self.name = name
        self.kind = kind
        self.tensor = tensor
        self.aliases: list[str] = []


class ModuleNames:
    """The path of every module, by identity; modules outside the model get a name in angle brackets."""

    def __init__(self, model: nn.Module | None) -> None:
        self.modules: dict[int, nn.Module] = {}
        self.paths: dict[int, list[str]] = {}
        self._outside: dict[str, int] = {}
        if model is not None:
            for path, module in model.named_modules(remove_duplicate=False):
                self.modules[id(module)] = module
                self.paths.setdefault(id(module), []).append(path)

    def path_of(self, module: nn.Module) -> str:
        """The first path of a module; ``<Linear>``, ``<Linear 2>`` … for one that the model does not hold."""
        if id(module) not in self.paths:
            kind = type(module).__name__
            count = self._outside[kind] = self._outside.get(kind, 0) + 1
            self.modules[id(module)] = module
            self.paths[id(module)] = [f"<{kind}>" if count == 1 else f"<{kind} {count}>"]
        return self.paths[id(module)][0]


def shown_path(names: tuple[str, ...], path: Path) -> str:
    """The name of a tensor inside the arguments: ``hx[0]`` for ("args", 1, 0) where argument 1 is called hx.

    >>> shown_path(("input", "hx"), ("args", 1, 0))
    'hx[0]'
    >>> shown_path((), ("kwargs", "mask"))
    'mask'
    """
    place, first, *rest = path
    name = names[first] if place == "args" and isinstance(first, int) and first < len(names) else str(first)
    return name + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in rest)


def named_tensors(model: nn.Module | None, inputs: Iterable[tuple[str, torch.Tensor]]) -> dict[int, NamedTensor]:
    """Every tensor that has a name, by identity: parameters, buffers, other tensor attributes, then inputs."""
    named: dict[int, NamedTensor] = {}
    taken: set[str] = set()

    def add(name: str, kind: str, tensor: torch.Tensor) -> None:
        known = named.get(id(tensor))
        if known is not None:
            known.aliases.append(name)
            return
        if name in taken:
            name = f"{name} ({kind})"
        taken.add(name)
        named[id(tensor)] = NamedTensor(name, kind, tensor)

    if model is not None:
        for name, parameter in model.named_parameters(remove_duplicate=False):
            add(name, "parameter", parameter)
        for name, buffer in model.named_buffers(remove_duplicate=False):
            add(name, "buffer", buffer)
    for name, tensor in inputs:
        add(name, "input", tensor)
    if model is not None:
        for path, module in model.named_modules():
            for attribute, value in _plain_attributes(module):
                for inner, tensor in tensors_in(value, (attribute,)).tensors:
                    add(_dotted(path, inner), "other leaf", tensor)
    return named


def _plain_attributes(module: nn.Module) -> list[tuple[str, Any]]:
    own = ("_parameters", "_buffers", "_modules")
    values = [(name, value) for name, value in vars(module).items() if name not in own]
    return [(name, value) for name, value in values if isinstance(value, (torch.Tensor, list, tuple, dict))]


def _dotted(path: str, inner: Path) -> str:
    first, *rest = inner
    name = f"{path}.{first}" if path else str(first)
    return name + "".join(f"[{step}]" if isinstance(step, int) else f"[{step!r}]" for step in rest)


def path_finder(model: nn.Module | None) -> Callable[[object], str | None]:
    """Finds the path of a module object, without keeping any module alive."""
    named = () if model is None else model.named_modules()
    known = {id(module): (weakref.ref(module), path) for path, module in named}

    def path_of(module: object) -> str | None:
        reference, path = known.get(id(module), (None, None))
        return path if reference is not None and reference() is module else None

    return path_of
