"""Whether the ``backward`` of a Python Function starts a backward of its own, as far as its code tells. Nothing is called.

Reentrant checkpoints do, and what is written like them: reversible blocks, Functions that run a module again. Such a
backward calls hooks that no edge of the graph leads to. Bytecode is read with ``dis``: the names that code uses are
looked up in its globals and closure, and the functions found there, as far as they are the program's own, are read too.
"""

from __future__ import annotations

import dis
import inspect
import sys
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch

from fxgrad.observe.frames import package_of
from fxgrad.observe.plain_functions import KEEPS_VALUE, backward_of, closure_of, plain_function
from fxgrad.observe.real_types import is_a

_UNKNOWN: Any = object()
_STARTS = (torch.autograd.backward, torch.autograd.grad, torch.Tensor.backward, torch.enable_grad)
"""What starts a backward; a backward that turns gradients on builds a graph, and has no other use for one. In torch's own
code it has: operators like ``torch.cond`` turn them on to trace a function, with tensors that stand for others."""
_STARTS_BY_NAME = ("backward", "run_backward", "enable_grad")
_STARTS_IF_CALLED = ("grad", "set_grad_enabled")
"""Of what is only known at run time; a tensor has an attribute ``grad`` as well."""
_TOLD = "requires_grad_"
_MOST_FUNCTIONS = 200


class NestedBackward(NamedTuple):
    """What is known of the backward that a Function's backward starts.

    ``detaches``  whether it starts from copies that are detached: it then comes to nothing of the graph around but leaves
    """

    detaches: bool


_KNOWN: WeakKeyDictionary[FunctionType, NestedBackward | None] = WeakKeyDictionary()


def nested_backward(function_class: type) -> NestedBackward | None:
    """What a Function's backward starts; None where its code starts no backward.

    >>> from torch.utils.checkpoint import CheckpointFunction
    >>> nested_backward(CheckpointFunction)
    NestedBackward(detaches=True)
    >>> class Double(torch.autograd.Function):
    ...     @staticmethod
    ...     def backward(ctx, gradient):
    ...         return 2 * gradient
    >>> nested_backward(Double) is None
    True
    """
    function = plain_function(backward_of(function_class))
    if function is None:
        return None
    if function not in _KNOWN:
        reader = _Reader(function)
        reader.read()
        _KNOWN[function] = NestedBackward(reader.detaches) if reader.starts else None
    return _KNOWN[function]


class _Reader:
    """Reads a function and those that it names, one after the other."""

    def __init__(self, function: FunctionType) -> None:
        self.starts = False
        self._names: set[str] = set()
        self._waiting = [function]
        self._seen = {function.__code__}
        self._packages = {"", package_of(function.__code__)} - {None}

    @property
    def detaches(self) -> bool:
        """A detached tensor has to be told that it requires grad before anything is differentiated by it."""
        return "detach_variable" in self._names or {"detach", _TOLD} <= self._names

    def read(self) -> None:
        """Read everything that is waiting."""
        while self._waiting:
            function = self._waiting.pop()
            cells = dict(closure_of(function))
            for code in _with_inner(function.__code__):
                self._read_code(code, function.__globals__, cells)
        self.starts |= len(self._seen) >= _MOST_FUNCTIONS

    def _read_code(self, code: CodeType, names: Mapping[str, Any], cells: Mapping[str, Any]) -> None:
        value = module = _UNKNOWN
        for instruction in dis.get_instructions(code):
            operation, argument = instruction.opname, instruction.argval
            if operation in ("LOAD_GLOBAL", "LOAD_NAME"):
                value = names.get(argument, _UNKNOWN)
            elif operation.startswith(("LOAD_DEREF", "LOAD_CLASSDEREF")):
                value = cells.get(argument, _UNKNOWN)
            elif operation == "IMPORT_NAME":
                value = module = sys.modules.get(argument, _UNKNOWN)
            elif operation in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"):
                owner = module if operation == "IMPORT_FROM" else value
                value = _member(owner, argument)
                if value is _UNKNOWN:
                    self.starts |= argument in _STARTS_BY_NAME
                    self.starts |= argument in _STARTS_IF_CALLED and (owner is _UNKNOWN and _is_called(instruction))
            elif operation not in KEEPS_VALUE:
                value = _UNKNOWN
                if operation == "STORE_ATTR" and argument == "requires_grad":
                    self._note_name(code, _TOLD)
                continue
            else:
                continue
            self._note_name(code, argument)
            self._consider(value, code)

    def _note_name(self, code: CodeType, name: str) -> None:
        """Of torch's own code only that of checkpoints detaches what it starts from: wrappers like once_differentiable
        detach what they return."""
        if package_of(code) is not None or name == "detach_variable":
            self._names.add(name)

    def _consider(self, value: Any, code: CodeType) -> None:
        if any(value is starter for starter in _STARTS):
            self.starts |= value is not torch.enable_grad or package_of(code) is not None
            return
        function = plain_function(value)
        if function is None or function.__code__ in self._seen or len(self._seen) >= _MOST_FUNCTIONS:
            return
        if package_of(function.__code__) in self._packages:
            self._seen.add(function.__code__)
            self._waiting.append(function)


def _is_called(instruction: dis.Instruction) -> bool:
    """Whether an attribute is looked up to be called as a method: told apart since Python 3.12 by a flag alone."""
    return instruction.opname == "LOAD_METHOD" or "NULL" in instruction.argrepr


def _member(owner: Any, name: str) -> Any:
    """An attribute as it lies there: no property, and no ``__getattr__``, is asked."""
    return _UNKNOWN if owner is _UNKNOWN else inspect.getattr_static(owner, name, _UNKNOWN)


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    """The code, and that of the functions and comprehensions that are written inside it."""
    waiting = [code]
    while waiting:
        inner = waiting.pop()
        yield inner
        waiting.extend(constant for constant in inner.co_consts if is_a(constant, CodeType))
