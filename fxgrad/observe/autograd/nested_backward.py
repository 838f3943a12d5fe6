"""Finds out whether the backward of a custom Function starts another backward, from its code and from what it holds.

Nothing is called. Bytecode is read with ``dis`` for what starts a backward, the syntax tree for calls of what is known
only at run time: through these, code that nobody has seen may start one.
"""

from __future__ import annotations

import ast
import builtins
import dis
import functools
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.autograd.function import FunctionCtx

from fxgrad.observe.autograd.python_code import (
    KEEPS_VALUE,
    LOADS_ATTRIBUTE,
    UNKNOWN,
    closure_of,
    find_definition,
    find_function,
    list_inner_code,
    look_up_attribute,
    look_up_name,
)
from fxgrad.observe.real_types import is_a
from fxgrad.observe.record.frames import find_package, is_user_code
from fxgrad.observe.record.names import list_modules
from fxgrad.observe.record.tensors import is_leaf

_STARTS = (torch.autograd.backward, torch.autograd.grad, torch.Tensor.backward, torch.enable_grad)
"""Functions that start a backward, and ``enable_grad``: a backward builds a graph in order to start a backward on it.
Not so torch's own code: operators like ``torch.cond`` turn gradients on to trace a function."""
_STARTS_BY_NAME = ("backward", "run_backward", "enable_grad")
_STARTS_IF_CALLED = ("grad", "set_grad_enabled")
"""The same as attributes of what is known only at run time. ``tensor.grad`` is not called."""
_MOST_FUNCTIONS = 200

_OF_VALUES = frozenset(
    name for kind in (torch.Tensor, torch.Size, FunctionCtx, dict, list, set, str, int) for name in dir(kind)
)
"""Methods of what most backwards work with: they call none of the user's functions."""
_CALLS_ARGUMENTS = (map, filter, getattr, functools.partial, functools.reduce, exec, eval)
_RUNS_ARGUMENTS = tuple(
    f"torch.{name}"
    for name in ("func", "_functorch", "utils", "_higher_order_ops", "distributed", "autograd.functional", "jit")
)
"""Modules of torch whose functions may run a function that they are given."""
_DEEPEST = 3
_MOST_MEMBERS = 1_000


class NestedBackward(NamedTuple):
    """The backward that the backward of a Function starts, or may start.

    ``detaches``  whether it starts from detached copies: of the graph around it then reaches nothing but leaves
    """

    detaches: bool


class _Reading(NamedTuple):
    """What the code of a backward says by itself.

    ``nested``    the backward that it starts; None: none
    ``is_read``   whether it calls nothing but functions that were searched, and those that call no others
    ``methods``   the methods that it calls of what is known only at run time, if Tensors and the like have them, too
    """

    nested: NestedBackward | None
    is_read: bool
    methods: frozenset[str]


_READINGS: WeakKeyDictionary[FunctionType, _Reading] = WeakKeyDictionary()


def find_backward(function_class: type) -> Any:
    """What the engine calls: ``vjp`` is another name for ``backward`` (torch/autograd/function.py, BackwardCFunction)."""
    vjp = inspect.getattr_static(function_class, "vjp", None)
    if vjp is not inspect.getattr_static(torch.autograd.Function, "vjp"):
        return vjp
    return inspect.getattr_static(function_class, "backward", None)


def find_nested_backward(
    function_class: type, held: Mapping[str, Any] | None = None, used: Iterable[Any] = ()
) -> NestedBackward | None:
    """The backward that a Function's backward starts, or may start; None where it starts none.

    Reentrant checkpoints start one, and so do reversible blocks and Functions that run a module again. It calls hooks
    that no edge of the graph leads to. The functions that the code names are read too, if they are the program's own.

    `held` are the attributes of ``ctx``, `used` the modules and the leaves that forward used without being given them.
    The methods that backward calls are looked for in their classes. Where that does not tell what it calls, and there are
    modules, leaves or functions among them, it may start one.

    >>> from torch.utils.checkpoint import CheckpointFunction
    >>> find_nested_backward(CheckpointFunction)
    NestedBackward(detaches=True)
    >>> class Double(torch.autograd.Function):
    ...     @staticmethod
    ...     def backward(ctx, gradient):
    ...         return 2 * gradient
    >>> find_nested_backward(Double) is None
    True
    """
    function = find_function(find_backward(function_class))
    reading = _read_code(function)
    if function is None or reading.nested is not None:
        return reading.nested
    reach = _Reach(held or {}, used)
    if reading.is_read and not any(map(reach.find_methods, reading.methods)):
        return None
    search = _BackwardSearch(function, reach)
    is_open = reach.has_code and not search.is_read
    return search.read().nested or (NestedBackward(detaches=False) if is_open else None)


def starts_backward(function_class: type) -> bool | None:
    """Whether a Function's backward starts another one; None if what it calls depends on what its ``ctx`` holds."""
    reading = _read_code(find_function(find_backward(function_class)))
    if reading.nested is not None:
        return True
    return None if not reading.is_read or reading.methods else False


def function_starts_backward(function: Any) -> bool:
    """Whether the code of a function, such as a hook's, or of those of its package that it calls, names what starts a backward.

    >>> function_starts_backward(lambda grad: grad.sum().backward()), function_starts_backward(lambda grad: grad * 2)
    (True, False)
    """
    found = find_function(function)
    return found is not None and _BackwardSearch(found, _Reach({}, ()), reads_calls=False).is_named


def _read_code(function: FunctionType | None) -> _Reading:
    if function is None:
        return _Reading(None, True, frozenset())
    if function not in _READINGS:
        _READINGS[function] = _BackwardSearch(function, _Reach({}, ())).read()
    return _READINGS[function]


class _Reach:
    """What a backward can get at besides torch: what ``ctx`` holds, and what its code names.

    ``has_code``   whether there are modules, leaves or functions among it: they may lead to a backward
    ``functions``  the functions; ``starts`` says whether one of them is what starts a backward
    """

    def __init__(self, held: Mapping[str, Any], used: Iterable[Any]) -> None:
        self.has_code = False
        self.starts = False
        self.functions: list[FunctionType] = []
        self._named = held
        self._classes: dict[type, None] = {}
        self.add(*held.values(), *used)

    def add(self, *values: Any) -> None:
        """Add values, and what is in one of Python's containers."""
        for value in values:
            for member in _list_members(value):
                self._add_one(member)

    def _add_one(self, value: Any) -> None:
        while is_a(value, functools.partial):
            value = value.func
        if is_a(value, MethodType):
            self._add_one(value.__self__)
            value = value.__func__
        self.starts |= any(value is starter for starter in _STARTS)
        if is_a(value, nn.Module):
            self._classes.update(dict.fromkeys(map(type, list_modules(value))))
            self.has_code = True
        elif is_a(value, FunctionType):
            if is_user_code(value.__code__):
                self.functions.append(value)
                self.has_code = True
        elif not is_a(value, (torch.Tensor, type)):
            self._classes[type(value)] = None
        self.has_code |= is_a(value, torch.Tensor) and value.requires_grad and is_leaf(value)

    def find_methods(self, name: str) -> list[FunctionType]:
        """The program's own functions that an attribute of this name may be."""
        found = [function for function in (self._find_named(name),) if function is not None]
        for kind in self._classes:
            function = find_function(inspect.getattr_static(kind, name, None))
            if function is not None and is_user_code(function.__code__):
                found.append(function)
        return found

    def _find_named(self, name: str) -> FunctionType | None:
        value = self._named.get(name)
        if is_a(value, nn.Module):
            value = inspect.getattr_static(type(value), "forward", None)
        return find_function(value)


def _list_members(value: Any) -> Iterator[Any]:
    values = [value]
    for _ in range(_DEEPEST):
        yield from values
        nested = [dict.values(each) if is_a(each, dict) else each for each in values if is_a(each, (dict, list, tuple))]
        values = [member for members in nested for member in list(members)[:_MOST_MEMBERS]]


def _is_users(kind: type) -> bool:
    """Whether a class is the program's own: it has a method that torch, or Python, has not written."""
    methods = (value for base in kind.__mro__ for value in vars(base).values())
    return any(is_a(method, FunctionType) and is_user_code(method.__code__) for method in methods)


class _BackwardSearch:
    """Searches a function, and those that it calls, for what starts a backward. ``is_named``: their code calls it by name."""

    def __init__(self, function: FunctionType, reach: _Reach, *, reads_calls: bool = True) -> None:
        self.starts = reach.starts
        self.is_read = reads_calls
        self.is_named = False
        self._methods: set[str] = set()
        self._reach = reach
        self._names: set[str] = set()
        self._waiting = [function]
        self._seen = {function}
        self._packages = {"", find_package(function.__code__)} - {None}
        while self._waiting:
            found = self._waiting.pop()
            for code in list_inner_code(found.__code__):
                self._search_code(code, found)
            if reads_calls and is_user_code(found.__code__):
                self._search_calls(found)
        self.starts |= len(self._seen) >= _MOST_FUNCTIONS

    def read(self) -> _Reading:
        """What was found. A detached tensor must be made to require grad before anything is differentiated by it."""
        detaches = "detach_variable" in self._names or {"detach", "requires_grad_"} <= self._names
        nested = NestedBackward(detaches) if self.starts else None
        return _Reading(nested, self.is_read, frozenset(self._methods))

    def _search_code(self, code: CodeType, function: FunctionType) -> None:
        """Follow the value on top of the stack through each dotted name, like ``torch.autograd.grad``."""
        cells = closure_of(function)
        value = module = UNKNOWN
        for instruction in dis.get_instructions(code):
            operation, argument = instruction.opname, instruction.argval
            if operation in ("LOAD_GLOBAL", "LOAD_NAME"):
                value = look_up_name(function, argument)
            elif operation.startswith(("LOAD_DEREF", "LOAD_CLASSDEREF")):
                value = cells.get(argument, UNKNOWN)
            elif operation == "IMPORT_NAME":
                value = module = sys.modules.get(argument, UNKNOWN)
            elif operation in (*LOADS_ATTRIBUTE, "IMPORT_FROM"):
                owner = module if operation == "IMPORT_FROM" else value
                value = look_up_attribute(owner, argument)
                if value is UNKNOWN:
                    self.starts |= argument in _STARTS_BY_NAME
                    self.starts |= argument in _STARTS_IF_CALLED and (owner is UNKNOWN and _is_called(instruction))
                    self.is_named |= argument == "backward" and owner is UNKNOWN and _is_called(instruction)
            elif operation not in KEEPS_VALUE:
                value = UNKNOWN
                if operation == "STORE_ATTR" and argument == "requires_grad":
                    self._note_name(code, "requires_grad_")
                continue
            else:
                continue
            self._note_name(code, argument)
            self._note_value(code, value)

    def _note_name(self, code: CodeType, name: str) -> None:
        # torch's own code counts only for checkpoints: wrappers like once_differentiable detach what they return
        if find_package(code) is not None or name == "detach_variable":
            self._names.add(name)

    def _note_value(self, code: CodeType, value: Any) -> None:
        if any(value is starter for starter in _STARTS):
            self.starts |= value is not torch.enable_grad or find_package(code) is not None
            self.is_named |= value is not torch.enable_grad
            return
        if is_a(value, (nn.Module, list, tuple, dict)):
            self._reach.add(value)
        function = find_function(value)
        package = None if function is None else find_package(function.__code__)
        if function is not None and package is not None and find_package(code) is None:
            self._packages.add(package)  # torch's own backward calls the one that the program has registered
        if function is not None and package in self._packages:
            self._follow(function)

    def _follow(self, function: FunctionType) -> None:
        if function not in self._seen and len(self._seen) < _MOST_FUNCTIONS:
            self._seen.add(function)
            self._waiting.append(function)

    # Calls

    def _search_calls(self, function: FunctionType) -> None:
        """Look at each call in a function's definition: at what is known only at run time, and at functions unread."""
        definition = find_definition(function)
        if definition is None:
            self._give_up()
            return
        written_inside = {node.name for node in ast.walk(definition) if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(definition):
            if isinstance(node, ast.Call):
                self._search_callee(node.func, function, _list_locals(function), written_inside)

    def _search_callee(
        self, callee: ast.expr, function: FunctionType, local: frozenset[str], written_inside: set[str]
    ) -> None:
        value = _resolve(callee, function, local)
        if value is not UNKNOWN:
            self.is_read &= self._is_harmless(value)
        elif isinstance(callee, ast.Attribute):
            methods = self._reach.find_methods(callee.attr)
            for method in methods:
                self._follow(method)
            if callee.attr in _OF_VALUES:
                self._methods.add(callee.attr)
            elif not methods:
                self._give_up()
        elif not (isinstance(callee, ast.Name) and callee.id in written_inside):
            self._give_up()

    def _give_up(self) -> None:
        """Something unknown is called: it may be any function that is held."""
        self.is_read = False
        for function in self._reach.functions:
            self._follow(function)

    def _is_harmless(self, value: Any) -> bool:
        """Whether a call of it runs nothing that was not searched."""
        if is_a(value, nn.Module) or any(value is calls for calls in _CALLS_ARGUMENTS):
            return False
        if is_a(value, type):
            return not _is_users(value)
        function = find_function(value)
        if function is None:
            return True
        return function in self._seen or not (
            is_user_code(function.__code__) or str(function.__module__).startswith(_RUNS_ARGUMENTS)
        )


def _list_locals(function: FunctionType) -> frozenset[str]:
    codes = list(list_inner_code(function.__code__))
    return frozenset(name for code in codes for name in (*code.co_varnames, *code.co_cellvars))


def _resolve(callee: ast.expr, function: FunctionType, local: frozenset[str]) -> Any:
    """What a dotted name stands for; UNKNOWN for what is known only at run time."""
    names: list[str] = []
    while isinstance(callee, ast.Attribute):
        names.append(callee.attr)
        callee = callee.value
    if not isinstance(callee, ast.Name) or callee.id in local:
        return UNKNOWN
    value = look_up_name(function, callee.id)
    if value is UNKNOWN:
        value = vars(builtins).get(callee.id, UNKNOWN)
    for name in reversed(names):
        value = look_up_attribute(value, name)
    return value


def _is_called(instruction: dis.Instruction) -> bool:
    """Whether an attribute is loaded to be called as a method. Since Python 3.12 only a flag tells."""
    return instruction.opname == "LOAD_METHOD" or "NULL" in instruction.argrepr
