"""What torch.fx can write into the code of a GraphModule; everything else is held as an attribute of it.

Sources relied on: torch/fx/graph.py (``_get_repr`` prints an argument by its ``repr``, which has to be Python that makes
the same value again), torch/fx/node.py (which containers ``map_aggregate`` looks into).
"""

from __future__ import annotations

import cmath
import math
import operator
from typing import Any

import torch

_LITERALS = frozenset(
    {
        int,
        float,
        bool,
        str,
        bytes,
        complex,
        type(None),
        type(...),
        torch.dtype,
        torch.device,
        torch.layout,
        torch.memory_format,
    }
)
"""Exactly these types: a subclass (an enum's member, numpy.float64) has a repr() of its own."""
_DEEPEST = 20


def is_literal(value: Any) -> bool:
    """Whether the value's repr() in the code of a GraphModule makes it again.

    >>> is_literal(1.5), is_literal(torch.float32), is_literal(complex("inf")), is_literal(print)
    (True, True, False, False)
    >>> is_literal(1 - 2j), is_literal(complex(-0.0, 2))  # read from code, a negative zero before a sign is lost
    (True, False)
    """
    if type(value) is complex:
        return cmath.isfinite(value) and not any(map(_is_negative_zero, (value.real, value.imag)))
    return type(value) in _LITERALS


def _is_negative_zero(value: float) -> bool:
    return value == 0 and math.copysign(1, value) < 0


def is_misread(function: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether the code of a call means something else: torch.fx writes ``-2 ** x``, and Python reads ``-(2 ** x)``.

    >>> is_misread(operator.pow, (-2, 3)), is_misread(operator.pow, (2, -3)), is_misread(pow, (-2, 3))
    (True, False, False)
    """
    return function is operator.pow and type(arguments[0]) in (int, float) and repr(arguments[0]).startswith("-")


def is_plain_tree(value: Any) -> bool:
    """Whether fx can write the containers of the value: builtin ones, not too deep, none of them in there twice.

    >>> is_plain_tree([1, {"a": (None, slice(2))}]), is_plain_tree({1: 2}), is_plain_tree([[]] * 2)
    (True, False, False)
    """
    entered: set[int] = set()
    stack = [(value, 0)]
    while stack:
        part, depth = stack.pop()
        members = _members(part)
        if members is None:
            if isinstance(part, (tuple, list, dict)):
                return False
            continue
        if depth > _DEEPEST or id(part) in entered:
            return False
        if type(part) in (list, dict):
            entered.add(id(part))
        stack.extend([(member, depth + 1) for member in members])
    return True


def _members(part: Any) -> list[Any] | None:
    """The members of a container that fx can write down; None for anything else."""
    if type(part) in (tuple, list, torch.Size):
        return list(part)
    if type(part) is slice:
        return [part.start, part.stop, part.step]
    if type(part) is dict and all(type(key) is str for key in part):
        return list(part.values())
    return None
