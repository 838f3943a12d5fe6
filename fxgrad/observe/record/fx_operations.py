"""Which torch.fx operation a recorded call is, and which values torch.fx can hold.

Sources relied on: torch/fx/graph.py (``_get_repr`` prints an argument by its ``repr``, which has to be Python that makes
the same value again), torch/fx/node.py (``_get_qualified_name``), torch/utils/_pytree.py.
"""

from __future__ import annotations

import builtins
import cmath
import dataclasses
import enum
import functools
import keyword
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    MethodDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

import torch
from torch.fx.graph import _is_from_torch
from torch.fx.node import _get_qualified_name
from torch.utils import _pytree as pytree

from fxgrad.errors import UsageError
from fxgrad.graph.text import escape
from fxgrad.observe.real_types import is_a
from fxgrad.observe.record.events import OpEvent

Operation = tuple[str, Any, tuple[Any, ...], dict[str, Any]]
"""op, target, args and kwargs, as ``torch.fx.Graph.create_node`` takes them."""


def find_operation(event: OpEvent) -> Operation:
    """What an fx node for the call does. Of a custom Function's ``apply`` the target is the class."""
    target, args, kwargs = event.target, event.args, event.kwargs
    if is_a(target, type):
        return "call_function", target, args, kwargs
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
    return "call_function", target, args, kwargs


def _method_name(target: Any, name: str) -> str | None:
    """The attribute of Tensor that the function is; ``Tensor.__pow__`` calls itself "pow" (torch/_tensor.py)."""
    candidates = (name, f"__{name}__", f"__r{name}__", f"__i{name}__")
    return next((each for each in candidates if each and getattr(torch.Tensor, each, None) is target), None)


def _method(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Operation:
    """``x.__rsub__(1)`` becomes ``operator.sub(1, x)``, as torch.fx writes it; other methods stay methods.

    ``x.__rpow__(-2)`` stays one, too: torch.fx writes the operator as ``-2 ** x``, which Python reads as ``-(2 ** x)``.
    """
    if not (name.startswith("__") and name.endswith("__")) or kwargs:
        return "call_method", name, args, kwargs
    bare = name.strip("_")
    if hasattr(operator, name):
        return "call_function", getattr(operator, bare, getattr(operator, name)), args, kwargs
    is_reflected = len(args) == 2 and bare.startswith("r") and hasattr(operator, f"__{bare[1:]}__")  # noqa: PLR2004
    if is_reflected and not (bare == "rpow" and str(args[1]).startswith("-")):
        return "call_function", getattr(operator, f"__{bare[1:]}__"), args[::-1], kwargs
    return "call_method", name, args, kwargs


def make_apply(function_class: Any) -> Callable[..., Any]:
    """Calls a custom Function. While a forward is recorded, its ``apply`` is a patch that holds the recording."""

    def recorded(*args: Any, **kwargs: Any) -> Any:
        return function_class.apply(*args, **kwargs)

    recorded.__name__ = recorded.__qualname__ = "apply"
    return recorded


def wrap_for_printing(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, or a wrapper of it where the name that torch.fx would write for it does not lead to it."""
    try:
        name = _get_qualified_name(function)
        if not _is_from_torch(function) or _leads_to(function, name):
            return function
    except Exception:  # it looks through modules, which may be the user's
        pass

    def recorded(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    recorded.__name__ = recorded.__qualname__ = name_of_function(function)
    return recorded


def make_stand_in(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the same name, which nothing of the run hangs on. It cannot be called."""
    name = name_of_function(function)

    def recorded(*_: Any, **__: Any) -> Any:
        raise UsageError(
            f"a call of {escape(name)}, which ran once and was not kept",
            "to look at the recorded graph",
            "run the model itself",
        )

    recorded.__name__ = recorded.__qualname__ = name
    return recorded


def name_of_function(function: Any) -> str:
    """What a function or class calls itself; else the name of its class."""
    name = getattr(function, "__name__", None) or getattr(function, "name", None)
    return str.__str__(name) if is_a(name, str) else type(function).__name__


def _leads_to(function: Callable[..., Any], name: str) -> bool:
    """Whether code in a module that imports torch finds the function under its dotted name."""
    first, *rest = name.split(".")
    found: Any = torch if first == "torch" else vars(builtins).get(first)
    for part in rest:
        found = getattr(found, part, None)
    return bool(found == function)


# Which values fx can hold

_LITERALS = frozenset(
    {
        *(int, float, bool, str, bytes, type(None), type(...)),
        *(torch.dtype, torch.device, torch.layout, torch.memory_format),
    }
)
"""Exactly these types: a subclass (an enum's member, numpy.float64) has a repr() of its own."""
_PLAIN = (
    *(int, float, complex, str, bytes, range, enum.Enum, torch.Size, pytree.TreeSpec),
    *(type, ModuleType, MethodDescriptorType, WrapperDescriptorType, torch._C.ScriptFunction),
    *(torch._ops.OpOverload, torch._ops.OpOverloadPacket, torch._ops.HigherOrderOperator),
)
"""Classes whose objects hold no tensor, or none that is theirs alone: a module's globals are the program's."""


def is_literal(value: Any) -> bool:
    """Whether the value's repr() in the code of a GraphModule makes it again.

    >>> is_literal(1.5), is_literal(torch.float32), is_literal(complex("inf")), is_literal(print)
    (True, True, False, False)
    >>> is_literal(1 - 2j), is_literal(complex(-0.0, 2))  # read from code, a negative zero before a sign is lost
    (True, False)
    """
    if type(value) is complex:
        return cmath.isfinite(value) and all(part or math.copysign(1, part) > 0 for part in (value.real, value.imag))
    return type(value) in _LITERALS


def is_plain(value: Any) -> bool:
    """Whether a value is known to hold no tensor, so that keeping it keeps nothing of a run.

    Functions are looked into: a closure, or a default, may hold a tensor that the run has made.

    >>> is_plain([1, {"a": slice(2)}]), is_plain(torch.add), is_plain(lambda x: x + 1)
    (True, True, True)
    >>> tensor = torch.ones(2)
    >>> is_plain(tensor.add), is_plain(lambda x, y=tensor: x + y), is_plain(torch.nn.ReLU())
    (False, False, False)
    """
    entered: dict[int, Any] = {}
    stack = [value]
    while stack:
        part = stack.pop()
        if id(part) in entered or is_literal(part) or is_a(part, _PLAIN):
            continue
        members = None if is_a(part, torch.Tensor) else _members(part)
        if members is None and not _is_numpy(part):
            return False
        entered[id(part)] = part
        stack += members or ()
    return True


def _members(part: Any) -> Sequence[Any] | None:
    """What a container or a function holds; None for any other object."""
    kind = type(part)
    if kind in (tuple, list, set, frozenset):
        return [*part]
    if kind is dict:
        return [*part.keys(), *part.values()]
    if kind is slice:
        return [part.start, part.stop, part.step]
    if kind is functools.partial:
        return [part.func, part.args, part.keywords]
    if kind is FunctionType:
        cells = [cell.cell_contents for cell in part.__closure__ or () if _is_filled(cell)]
        return [*cells, part.__defaults__, part.__kwdefaults__]
    if kind is BuiltinFunctionType:
        return [part.__self__]
    return _fields(part) if dataclasses.is_dataclass(kind) else None


def _fields(part: Any) -> Sequence[Any] | None:
    try:
        slots = [getattr(part, field.name, None) for field in dataclasses.fields(part)]
        return [*slots, *getattr(part, "__dict__", {}).values()]
    except Exception:  # the user's own class
        return None


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # not assigned yet
        return False


def _is_numpy(value: Any) -> bool:
    """An array or a number of numpy's, not one of objects."""
    dtype = getattr(value, "dtype", None)
    return type(value).__module__ == "numpy" and not getattr(dtype, "hasobject", True)


def flatten(value: Any) -> tuple[list[Any], pytree.TreeSpec | None]:
    """The leaves of a container that PyTorch knows how to rebuild, and how; None for any other."""
    try:
        leaves, spec = pytree.tree_flatten(value)
    except Exception:  # the user's own class, or a list that holds itself
        return [], None
    return leaves, None if spec.is_leaf() else spec


def make_placeholder_names(names: Iterable[str], taken: Iterable[str]) -> list[str]:
    """Names for positional placeholders: identifiers, each different, and none like a keyword argument's.

    >>> make_placeholder_names(["input", "rest[0]", "mask"], ["mask"])
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
