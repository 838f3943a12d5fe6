"""Reads the code of Python functions without calling anything: where it is defined, what its names stand for, and whether
it may return a value.

Bytecode is read with ``dis``. Only the names of a few instructions are relied on, and what is not recognised tells
nothing, so any version of Python may be read.
"""

from __future__ import annotations

import ast
import dis
import functools
import inspect
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FunctionType, MethodType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch.autograd.function import once_differentiable
from torch.utils._contextlib import context_decorator

from fxgrad.graph import Source
from fxgrad.observe.real_types import is_a
from fxgrad.observe.record.frames import make_source, read_lines

UNKNOWN: Any = object()
"""What a name stands for that is not found, or that may stand for something else when the code runs."""
KEEPS_VALUE = ("CACHE", "COPY", "DUP_TOP", "EXTENDED_ARG", "NOP", "PRECALL", "PUSH_NULL")
"""Instructions that leave what is on top of the stack, or put the same there once more."""
LOADS_ATTRIBUTE = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR")
_BOUND = (staticmethod, classmethod, MethodType)
_MAKES_AN_OBJECT = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


# Functions and their names


def find_function(value: Any) -> FunctionType | None:
    """The function that calling `value` runs: that behind methods and partials, or its class's ``__call__``.

    >>> find_function(functools.partial(find_function)) is find_function, find_function(len)
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


_WRAPPERS: tuple[tuple[Any, str], ...] = (
    (once_differentiable, "fn"),
    (torch.amp.custom_bwd, "bwd"),
    (context_decorator, "func"),
)
"""Torch's decorators of a backward, with the name by which their wrappers close over the function inside."""
MANAGERS = (torch.no_grad, torch.enable_grad, torch.inference_mode, torch.set_grad_enabled)
"""Context managers that let errors through: where another keeps one to itself, its decorator returns None."""


def unwrap_backward(function: FunctionType) -> FunctionType | None:
    """The user's function behind decorators of torch that return what it returns; None where there is no function.

    >>> unwrap_backward(torch.no_grad()(closure_of)) is closure_of
    True
    """
    found: Any = function
    while is_a(found, FunctionType):
        made_here = [(each, name) for decorator, name in _WRAPPERS for each in decorator.__code__.co_consts]
        name = next((name for code, name in made_here if code is found.__code__), None)
        if name is None:
            return found
        cells = closure_of(found)
        factory = cells.get("ctx_factory")
        lets_errors_through = is_a(factory, MethodType) and any(type(factory.__self__) is each for each in MANAGERS)
        if name == "func" and not lets_errors_through:
            return None
        found = cells.get(name)
    return None


def closure_of(function: FunctionType) -> dict[str, Any]:
    """The names that a function closes over, with their values. Names that are not assigned yet are left out."""
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def look_up_name(function: FunctionType, name: str) -> Any:
    """What a name that is not the function's own stands for in it: in its closure, its globals or among the builtins.

    >>> look_up_name(find_function, "functools") is functools, look_up_name(find_function, "len") is len
    (True, True)
    """
    if name in function.__code__.co_freevars:
        return closure_of(function).get(name, UNKNOWN)
    if type(function.__globals__) is not dict:  # a class of the user's may look names up in its own way
        return UNKNOWN
    return function.__globals__.get(name, getattr(function, "__builtins__", {}).get(name, UNKNOWN))


def look_up_attribute(owner: Any, name: str) -> Any:
    """An attribute as it is stored: no property and no ``__getattr__`` is called."""
    return UNKNOWN if owner is UNKNOWN else inspect.getattr_static(owner, name, UNKNOWN)


def find_source(function: Any) -> Source | None:
    """Where a function, the function behind a partial, or the class of a callable object is defined."""
    found = find_function(function)
    return None if found is None else make_source(found.__code__, found.__code__.co_firstlineno)


def makes_an_object(code: CodeType) -> bool:
    """Whether calling the code returns a generator or coroutine and runs none of it."""
    return bool(code.co_flags & _MAKES_AN_OBJECT)


# Where a function is defined

Definition = ast.FunctionDef | ast.Lambda


class _File(NamedTuple):
    """The functions of a file by name and first line: their definitions, and the code that they compile to."""

    definitions: dict[tuple[str, int], list[Definition]]
    codes: dict[tuple[str, int], list[CodeType]]


def find_definition(function: FunctionType) -> Definition | None:
    """The syntax tree that a function was compiled from; None where that is not certain.

    A file is believed only where compiling it gives the very code that runs: files change while programs run, and
    decorators, coverage tools and test runners rewrite code.

    >>> find_definition(torch.autograd.function.once_differentiable).name
    'once_differentiable'
    """
    code = function.__code__
    known = _DEFINITIONS.get(function)
    if known is None or known[0] is not code:  # a program may replace the code of a function
        known = _DEFINITIONS[function] = code, _find_definition(function, code)
    return known[1]


def _find_definition(function: FunctionType, code: CodeType) -> Definition | None:
    file = _read_file("".join(read_lines(code.co_filename, function.__globals__)))
    place = (code.co_name, code.co_firstlineno)
    if file is None or file.codes.get(place) != [code] or len(file.definitions.get(place, ())) != 1:
        return None
    return file.definitions[place][0]


_DEFINITIONS: WeakKeyDictionary[FunctionType, tuple[CodeType, Definition | None]] = WeakKeyDictionary()


@lru_cache(maxsize=4)
def _read_file(text: str) -> _File | None:
    try:
        tree = ast.parse(text)
        code = compile(text, "", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    file = _File({}, {})
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            file.definitions.setdefault(_place_of(node), []).append(node)
    for inner in list_inner_code(code):
        file.codes.setdefault((inner.co_name, inner.co_firstlineno), []).append(inner)
    return file


def _place_of(node: Definition) -> tuple[str, int]:
    """The name and first line of the code of a definition: decorators belong to it."""
    if isinstance(node, ast.Lambda):
        return "<lambda>", node.lineno
    return node.name, min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def list_inner_code(code: CodeType) -> Iterator[CodeType]:
    """The code, and that of the functions and comprehensions that are written inside it."""
    waiting = [code]
    while waiting:
        inner = waiting.pop()
        yield inner
        waiting.extend(constant for constant in inner.co_consts if is_a(constant, CodeType))


# What a hook returns


def may_return_a_value(function: Any) -> bool | None:
    """Whether the code of a hook can return something other than None; None where there is no code to look at.

    >>> may_return_a_value(lambda grad: None), may_return_a_value(lambda grad: grad * 2), may_return_a_value(print)
    (False, True, None)
    """
    plain = find_function(function)
    if plain is None:
        return None
    if makes_an_object(plain.__code__):
        return True
    before: dis.Instruction | None = None
    for instruction in dis.get_instructions(plain.__code__):
        if instruction.opname == "RETURN_CONST" and instruction.argval is not None:
            return True
        if instruction.opname == "RETURN_VALUE" and not _loads_none(before, instruction):
            return True
        if instruction.opname not in ("EXTENDED_ARG", "CACHE", "NOP"):
            before = instruction
    return False


def _loads_none(before: dis.Instruction | None, returns: dis.Instruction) -> bool:
    """Whether what is returned is surely None: loaded just before, and not jumped to with another value."""
    loads = before is not None and before.opname == "LOAD_CONST" and before.argval is None
    return loads and not returns.is_jump_target
