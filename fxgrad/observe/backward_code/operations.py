"""What Python's operators make of values of which only something is known."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

from fxgrad.observe.backward_code.state import Unreachable
from fxgrad.observe.backward_code.values import (
    ANYTHING,
    NOT_NONE,
    OTHER,
    TENSOR,
    Exactly,
    Items,
    Kind,
    Value,
    join_all,
    kinds_of,
)

_MOST_ITEMS = 1_000
_NUMBERS = (int, bool)
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
}
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
"""What a tensor may answer with a tensor."""


def iterated_value(value: Value) -> Items:
    """What iterating over a value gives."""
    if isinstance(value, Items):
        return value
    return Items((), TENSOR if only_tensor(value) else ANYTHING)


def only_tensor(value: Value) -> bool:
    """Whether it is a tensor wherever the program does not raise: nothing can be done with None."""
    kinds = kinds_of(value)
    return Kind.TENSOR in kinds and Kind.OTHER not in kinds


def indexed(container: Value, index: Value) -> Value:
    """What ``container[index]`` is."""
    if not isinstance(container, Items):
        return TENSOR if only_tensor(container) else ANYTHING
    if not isinstance(index, Exactly) or type(index.object) not in _NUMBERS:
        return container.any
    place = int(index.object)
    if container.rest is not None:
        return container.item(place) if place >= 0 else container.any
    if not -len(container.members) <= place < len(container.members):
        raise Unreachable
    return container.members[place]


def sliced(container: Value, ends: list[Value]) -> Value:
    """What ``container[start:stop:step]`` is; `ends` are these three."""
    if not isinstance(container, Items):
        return TENSOR if only_tensor(container) else ANYTHING
    if ends[2] == Exactly(0):
        raise Unreachable
    bounds: list[Any] = [end.object if isinstance(end, Exactly) else "" for end in ends]
    if container.rest is None and all(bound is None or type(bound) is int for bound in bounds):
        return Items(container.members[slice(bounds[0], bounds[1], bounds[2])], None, container.is_list)
    return Items((), container.any, container.is_list)


def operation(kind: type[ast.operator], left: Value, right: Value) -> Value:
    """What an operator makes of two values. No type that is worth its name returns None from one."""
    if isinstance(left, Items) or isinstance(right, Items):
        return _operation_on_items(kind, left, right)
    if isinstance(left, Exactly) and isinstance(right, Exactly) and kind in _ARITHMETIC:
        one, other = left.object, right.object
        if type(one) is int and type(other) is int:
            return Exactly(_ARITHMETIC[kind](one, other))
    if only_tensor(left) or only_tensor(right):
        return TENSOR
    return NOT_NONE if Kind.TENSOR in kinds_of(left) | kinds_of(right) else OTHER


def _operation_on_items(kind: type[ast.operator], left: Value, right: Value) -> Value:
    if kind is ast.Add and isinstance(left, Items) and isinstance(right, Items) and left.is_list == right.is_list:
        if left.rest is None:
            return Items(left.members + right.members, right.rest, left.is_list)
        return Items(left.members, join_all([left.rest, right.any]), left.is_list)
    if kind is ast.Mult:
        items, times = (left, right) if isinstance(left, Items) else (right, left)
        return _repeated(items, times) if isinstance(items, Items) else NOT_NONE
    return NOT_NONE


def _repeated(items: Items, times: Value) -> Value:
    if isinstance(times, Exactly) and type(times.object) is int and items.rest is None:
        count = len(items.members) * times.object
        return Items(items.members * times.object, None, items.is_list) if count <= _MOST_ITEMS else OTHER
    if kinds_of(times) is not Kind.OTHER or isinstance(times, Items):
        return NOT_NONE
    return Items((), items.any, items.is_list) if items.members else NOT_NONE


def compared(comparison: ast.cmpop, left: Value, right: Value) -> bool | None:
    """How a comparison ends, where that is known."""
    if isinstance(comparison, (ast.Is, ast.IsNot)):
        same = _is_same(left, right)
        return None if same is None else same == isinstance(comparison, ast.Is)
    if not (isinstance(left, Exactly) and left.is_constant):
        return None
    if isinstance(comparison, (ast.In, ast.NotIn)):
        if not (isinstance(right, Items) and right.rest is None):
            return None
        members = [member.object for member in right.members if isinstance(member, Exactly) and member.is_constant]
        found = left.object in members
        return found == isinstance(comparison, ast.In) if found or len(members) == len(right.members) else None
    if not (isinstance(right, Exactly) and right.is_constant):
        return None
    try:
        return bool(COMPARISONS[type(comparison)](left.object, right.object))
    except TypeError:
        raise Unreachable from None


def _is_same(left: Value, right: Value) -> bool | None:
    """Of constants only True, False, None and ... are the same object wherever they are equal."""
    if kinds_of(left) & kinds_of(right) == Kind(0):
        return False
    singletons = (bool, type(None), type(...))
    if isinstance(left, Exactly) and isinstance(right, Exactly) and type(left.object) in singletons:
        return left.object is right.object
    return None
