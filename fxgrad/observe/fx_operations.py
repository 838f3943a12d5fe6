"""Which torch.fx operation a recorded call is, and how its meta describes it."""

from __future__ import annotations

import builtins
import inspect
import keyword
import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.fx.graph import _is_from_torch
from torch.fx.node import _get_qualified_name
from torch.fx.passes.shape_prop import _extract_tensor_metadata

from fxgrad.graph import TensorMeta
from fxgrad.graph.records import Shape
from fxgrad.observe.real_types import is_a
from fxgrad.observe.seen import SeenFunctionCall

Operation = tuple[str, Any, tuple[Any, ...], dict[str, Any]]
"""op, target, args and kwargs, as ``torch.fx.Graph.create_node`` takes them."""


def operation(seen: SeenFunctionCall) -> Operation:
    """What an fx node for the call does."""
    target, args, kwargs = seen.target, seen.args, seen.kwargs
    if is_a(target, type):
        return "call_function", named(target.apply), args, kwargs  # type: ignore[attr-defined]
    name = getattr(target, "__name__", "")
    owner = getattr(target, "__self__", None)
    if name == "__get__":
        return "call_function", getattr, (args[0], owner.__name__), {}  # type: ignore[union-attr]
    if name == "__set__":
        return "call_function", setattr, (args[0], owner.__name__, *args[1:]), {}  # type: ignore[union-attr]
    if args and is_a(args[0], torch.Tensor):
        method = _method_name(target, name)
        if method is not None:
            return _method(method, args, kwargs)
    return "call_function", named(target), args, kwargs


def _method_name(target: Any, name: str) -> str | None:
    """The attribute of Tensor that the function is; ``Tensor.__pow__`` calls itself "pow" (torch/_tensor.py)."""
    candidates = (name, f"__{name}__", f"__r{name}__", f"__i{name}__")
    return next((each for each in candidates if each and getattr(torch.Tensor, each, None) is target), None)


def _method(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Operation:
    """``x.__rsub__(1)`` becomes ``operator.sub(1, x)``, as torch.fx writes it; other methods stay methods."""
    if not (name.startswith("__") and name.endswith("__")) or kwargs:
        return "call_method", name, args, kwargs
    bare = name.strip("_")
    if hasattr(operator, name):
        return "call_function", getattr(operator, bare, getattr(operator, name)), args, kwargs
    if len(args) == 2 and bare.startswith("r") and hasattr(operator, f"__{bare[1:]}__"):  # noqa: PLR2004
        return "call_function", getattr(operator, f"__{bare[1:]}__"), args[::-1], kwargs
    return "call_method", name, args, kwargs


def named(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, or a wrapper of it where the name that torch.fx would write for it does not lead to it."""
    try:
        name = _get_qualified_name(function)
        if not _is_from_torch(function) or _is_called(function, name):
            return function
    except Exception:  # it looks through modules, which may be the user's
        pass

    def recorded(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    recorded.__name__ = recorded.__qualname__ = str(getattr(function, "__name__", "recorded"))
    recorded.__wrapped__ = function  # type: ignore[attr-defined]
    return recorded


def _is_called(function: Callable[..., Any], name: str) -> bool:
    """Whether code in a module that imports torch finds the function under its dotted name."""
    first, *rest = name.split(".")
    found: Any = torch if first == "torch" else vars(builtins).get(first)
    for part in rest:
        found = getattr(found, part, None)
    return bool(found == function)


def tensor_metas(tensors: Iterable[torch.Tensor], metas: Iterable[TensorMeta]) -> Any:
    """``meta["tensor_meta"]``: one TensorMetadata, a tuple of several, None for none.

    `metas` are the shapes that the tensors had when they were seen.
    """
    found = [
        meta if meta is None or not _is_readable(before.shape) else meta._replace(shape=torch.Size(before.shape))  # type: ignore[arg-type]
        for meta, before in zip(map(_tensor_meta, tensors), metas, strict=True)
    ]
    return found[0] if len(found) == 1 else tuple(found) or None


def _is_readable(shape: Shape | None) -> bool:
    """Whether a shape is known, and made of numbers: one of a jagged tensor has a name for a size that differs."""
    return shape is not None and all(type(size) is int for size in shape)


def _tensor_meta(tensor: torch.Tensor) -> Any:
    try:
        return _extract_tensor_metadata(tensor)
    except (NotImplementedError, RuntimeError):  # strided nested tensors have no shape
        return None


def argument_names(module: nn.Module, n_args: int) -> tuple[str, ...]:
    """The names that ``module.forward`` gives to its first `n_args` positional arguments: ``rest[0]`` for varargs."""
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except Exception:  # no signature, or the user's own __getattr__
        return tuple(f"argument {position}" for position in range(n_args))
    names: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}[{position}]" for position in range(max(0, n_args - len(names)))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    names += [f"argument {position}" for position in range(len(names), n_args)]
    return tuple(names[:n_args])


def placeholder_names(names: Iterable[str], taken: Iterable[str]) -> list[str]:
    """Names for positional placeholders: identifiers, each different, and none like a keyword argument's.

    >>> placeholder_names(["input", "rest[0]", "mask"], ["mask"])
    ['input', 'rest_0', 'mask_']
    """
    used = {"self", *taken}
    found = []
    for name in names:
        made = name.replace("[", "_").replace("]", "").replace(" ", "_")
        while made in used or keyword.iskeyword(made):
            made += "_"
        used.add(made)
        found.append(made)
    return found
