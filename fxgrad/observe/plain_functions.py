"""The Python functions behind what a program calls, and what they close over. Nothing is called, no property asked."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any

import torch

from fxgrad.observe.real_types import is_a

KEEPS_VALUE = ("CACHE", "COPY", "DUP_TOP", "EXTENDED_ARG", "NOP", "PRECALL", "PUSH_NULL")
"""Instructions of ``dis`` that leave what is on top of the stack, or put the same there once more."""
_BOUND = (staticmethod, classmethod, MethodType)


def plain_function(value: Any) -> FunctionType | None:
    """The function that calling `value` runs: that behind methods and partials, or its class's ``__call__``.

    >>> plain_function(functools.partial(plain_function)) is plain_function, plain_function(len)
    (True, None)
    """
    while True:
        if is_a(value, functools.partial):
            value = value.func
        elif type(value) in _BOUND:
            value = value.__func__
        else:
            break
    if not is_a(value, FunctionType):
        value = inspect.getattr_static(type(value), "__call__", None)
    return value if is_a(value, FunctionType) else None


def closure_of(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The names that a function closes over, with their values, as far as they are assigned yet."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def backward_of(function_class: type) -> Any:
    """What is called: ``vjp`` is another name for ``backward`` (torch/autograd/function.py, BackwardCFunction.apply)."""
    vjp = inspect.getattr_static(function_class, "vjp", None)
    if vjp is not inspect.getattr_static(torch.autograd.Function, "vjp"):
        return vjp
    return inspect.getattr_static(function_class, "backward", None)
