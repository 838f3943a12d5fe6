"""The forms in which programs come besides Python: what makes each of a module, and what its nodes must be tied to."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fxgrad.graph import BackwardGraph


class Around(nn.Module):
    """A Python module around a program in another form: a ScriptModule itself accepts no hooks, not even forward hooks."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the program returns."""
        return self.inner(*args, **kwargs)


Maker = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], nn.Module]


def forget_types() -> None:
    """Scripted modules of one class share their code, and with it what was optimized when one of them ran."""
    torch._C._jit_clear_class_registry()
    torch.jit._recursive.concrete_type_store = torch.jit._recursive.ConcreteTypeStore()
    torch.jit._state._clear_class_state()


def script(model: nn.Module, _: tuple[Any, ...], __: dict[str, Any]) -> nn.Module:
    """The module as ``torch.jit.script`` compiles it."""
    forget_types()
    return torch.jit.script(model)


def trace(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> nn.Module:
    """What ``torch.jit.trace`` records of the module."""
    given = {"example_kwarg_inputs": kwargs} if kwargs and not args else {}
    if kwargs and args:
        raise ValueError("torch.jit.trace takes args or kwargs")
    return torch.jit.trace(model, args or None, check_trace=False, **given)


def reload(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> nn.Module:
    """The scripted module after it was saved and loaded."""
    file = io.BytesIO()
    torch.jit.save(script(model, args, kwargs), file)
    file.seek(0)
    return torch.jit.load(file)


def optimize(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> nn.Module:
    """The scripted module after two runs: from then on some nodes are joined."""
    scripted = script(model, args, kwargs)
    for _ in range(2):
        scripted(*args, **kwargs)
    return scripted


MAKERS: dict[str, Maker] = {"scripted": script, "traced": trace, "saved and loaded": reload, "optimized": optimize}
"""Forms of TorchScript. For each the same is asked: are hooks predicted as they are called, and nodes tied as in Python?"""


def compare_owners(form: BackwardGraph, python: BackwardGraph) -> tuple[int, list[str]] | None:
    """How many operators' nodes of a program that `Around` holds are tied to a module, and those that are to a wrong one.

    None where the graphs are not the same, as when the form has other operators, or joined some.
    """
    found = [node for node in form.nodes if not node.kind.is_leaf]
    wanted = [node for node in python.nodes if not node.kind.is_leaf]
    if [node.name.rstrip("0123456789") for node in found] != [node.name.rstrip("0123456789") for node in wanted]:
        return None
    mapped, wrong = 0, []
    for node, other in zip(found, wanted, strict=True):
        if node.script is None or node.script.module is None or other.call is None:
            continue
        mapped += 1
        path = f"inner.{other.call.rpartition('#')[0]}".rstrip(".")
        if node.script.module != path:
            wrong.append(f"{node.label} is tied to {node.script.module!r}; in Python {path!r} made it")
    return mapped, wrong
