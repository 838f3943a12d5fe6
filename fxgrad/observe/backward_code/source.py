"""The syntax tree of a function that is loaded. It is only believed where compiling it gives the very code that runs:
files change while programs run, and decorators, coverage tools and test runners rewrite code.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FunctionType
from typing import NamedTuple
from weakref import WeakKeyDictionary

from fxgrad.observe.frames import lines_of
from fxgrad.observe.real_types import is_a

Definition = ast.FunctionDef | ast.Lambda

_KNOWN: WeakKeyDictionary[FunctionType, Definition | None] = WeakKeyDictionary()
_LAMBDA = "<lambda>"


class _File(NamedTuple):
    """The functions of a file by name and first line: their definitions and what they compile to."""

    definitions: dict[tuple[str, int], list[Definition]]
    codes: dict[tuple[str, int], list[CodeType]]


def definition_of(function: FunctionType) -> Definition | None:
    """The definition that a function was made from; None where it cannot be had, or is another one by now.

    >>> import torch
    >>> definition_of(torch.autograd.function.once_differentiable).name
    'once_differentiable'
    """
    if function not in _KNOWN:
        _KNOWN[function] = _definition_of(function)
    return _KNOWN[function]


def _definition_of(function: FunctionType) -> Definition | None:
    code = function.__code__
    file = _read("".join(lines_of(code.co_filename, function.__globals__)))
    place = (code.co_name, code.co_firstlineno)
    if file is None or file.codes.get(place) != [code] or len(file.definitions.get(place, ())) != 1:
        return None
    return file.definitions[place][0]


@lru_cache(maxsize=4)
def _read(text: str) -> _File | None:
    try:
        tree = ast.parse(text)
        code = compile(text, "", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    file = _File({}, {})
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            file.definitions.setdefault(_place(node), []).append(node)
    for inner in _inner(code):
        file.codes.setdefault((inner.co_name, inner.co_firstlineno), []).append(inner)
    return file


def _place(node: Definition) -> tuple[str, int]:
    """Where its code begins: with the first decorator."""
    if isinstance(node, ast.Lambda):
        return _LAMBDA, node.lineno
    return node.name, min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _inner(code: CodeType) -> Iterator[CodeType]:
    waiting = [code]
    while waiting:
        outer = waiting.pop()
        inner = [constant for constant in outer.co_consts if is_a(constant, CodeType)]
        yield from inner
        waiting += inner
