"""What the code of a whole module does, where one function's own code does not tell."""

from __future__ import annotations

import dis
import functools
import inspect
import sys
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

from fxgrad.observe.real_types import is_a

_SETS = ("STORE_ATTR", "DELETE_ATTR", "STORE_GLOBAL", "DELETE_GLOBAL")


def module_of(value: Any) -> str:
    """The name of the module that a function or class was defined in."""
    name = value.__module__ if is_a(value, FunctionType) else inspect.getattr_static(value, "__module__", None)
    return name if type(name) is str else ""


def names_set_in(module: str) -> frozenset[str]:
    """The names under which the functions of a module set attributes of any object, or global variables."""
    names = vars(sys.modules.get(module, ModuleType(module)))
    return _names_set_in(module, len(names))  # in a notebook there are more with every cell


@lru_cache(maxsize=256)
def _names_set_in(module: str, n_names: int) -> frozenset[str]:  # noqa: ARG001
    codes = [function.__code__ for function in _functions_of(vars(sys.modules.get(module, ModuleType(module))))]
    names = set[str]()
    while codes:
        code = codes.pop()
        codes += [constant for constant in code.co_consts if is_a(constant, CodeType)]
        names |= {each.argval for each in dis.get_instructions(code) if each.opname in _SETS}
    return frozenset(names)


def _functions_of(names: dict[str, Any]) -> Iterator[FunctionType]:
    """The functions of a module and of the classes in it, which decorators may have wrapped."""
    waiting = list(names.values())
    seen = set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if is_a(value, FunctionType):
            yield value
        elif is_a(value, type) and module_of(value) == names.get("__name__"):
            waiting += list(vars(value).values())
        elif type(value) is property:
            waiting += [value.fget, value.fset]
        elif type(value) is functools.cached_property:
            waiting.append(value.func)
        elif type(value) in (staticmethod, classmethod):
            waiting.append(value.__func__)
