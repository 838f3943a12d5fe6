"""Python's own functions that only look at what they are given, in code that is not run."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import torch

from fxgrad.observe.backward_code.conditions import Conditions
from fxgrad.observe.backward_code.scope import Scope
from fxgrad.observe.backward_code.state import State, Unreachable
from fxgrad.observe.backward_code.values import ANYTHING, NOT_NONE, OTHER, Exactly, Items, Kind, Value, kinds_of
from fxgrad.observe.real_types import is_a

MOST_UNROLLED = 64
"""Rounds of a loop that are gone through one by one."""
CONTAINERS = (tuple, list, dict, int, float, complex, str, bytes, bool, set, frozenset, type(None))


class Builtins(Conditions):
    """Reads calls of Python's own functions."""

    def call_of_builtin(self, callee: Value, expression: ast.Call, state: State, scope: Scope) -> Value | None:
        """What such a call returns; None where the callee is none of these functions."""
        looks = next((look for function, look in _LOOKERS if callee == Exactly(function)), None)
        if looks is None or any(keyword.arg != "strict" for keyword in expression.keywords):
            return None
        return looks(self, expression, state, scope)

    def _sequence(self, expression: ast.Call, state: State, scope: Scope) -> Value:
        items = self.iterated(expression.args[0], state, scope) if expression.args else Items(())
        is_list = self.look(expression.func, state, scope) == Exactly(list)
        return Items(items.members, items.rest, is_list)

    def _length(self, expression: ast.Call, state: State, scope: Scope) -> Value:
        (measured, *_) = [self.look(each, state, scope) for each in expression.args] or [OTHER]
        return Exactly(len(measured.members)) if isinstance(measured, Items) and measured.rest is None else OTHER

    def _any_or_all(self, expression: ast.Call, state: State, scope: Scope) -> Value:
        for each in expression.args:
            self.iterated(each, state, scope)
        return OTHER

    def _is_instance(self, expression: ast.Call, state: State, scope: Scope) -> Value:
        if len(expression.args) != 2:  # noqa: PLR2004
            raise Unreachable
        value, kind = [self.look(each, state, scope) for each in expression.args]
        kinds = list(kind.members) if isinstance(kind, Items) and kind.rest is None else [kind]
        known = is_instance(
            value, [each.object for each in kinds if isinstance(each, Exactly) and is_a(each.object, type)]
        )
        return OTHER if known is None or not all(isinstance(each, Exactly) for each in kinds) else Exactly(known)

    def _zipped(self, expression: ast.Call, state: State, scope: Scope) -> Value:
        columns = [self.iterated(each, state, scope) for each in expression.args if not isinstance(each, ast.Starred)]
        if not columns or len(columns) != len(expression.args):
            return ANYTHING
        if any(column.rest is not None for column in columns):
            return Items((), Items(tuple([column.any for column in columns])))
        return Items(tuple([Items(row) for row in zip(*(column.members for column in columns), strict=False)]))

    def _enumerated(self, expression: ast.Call, state: State, scope: Scope) -> Value:
        if len(expression.args) != 1:
            return ANYTHING
        items = self.iterated(expression.args[0], state, scope)
        members = tuple([Items((Exactly(number), member)) for number, member in enumerate(items.members)])
        return Items(members, None if items.rest is None else Items((OTHER, items.rest)))

    def _range(self, expression: ast.Call, state: State, scope: Scope) -> Value:
        bounds = [value.object for value in self.values(expression.args, state, scope) if isinstance(value, Exactly)]
        if not bounds or len(bounds) != len(expression.args) or not _are_small(bounds):
            return Items((), OTHER)
        return Items(tuple([Exactly(number) for number in range(*bounds)]))

    def _sum(self, expression: ast.Call, state: State, scope: Scope) -> Value:
        for each in expression.args:
            self.iterated(each, state, scope)
        return NOT_NONE

    def _got(self, expression: ast.Call, state: State, scope: Scope) -> Value:
        values = self.values(expression.args, state, scope)
        if len(values) == 2 and isinstance(values[1], Exactly) and type(values[1].object) is str:  # noqa: PLR2004
            return self.attribute(values[0], values[1].object, state)
        return ANYTHING

    def _told(self, expression: ast.Call, state: State, scope: Scope) -> Value:
        self.values(expression.args, state, scope)
        return OTHER


_LOOKERS: tuple[tuple[Any, Callable[[Builtins, ast.Call, State, Scope], Value]], ...] = (
    (tuple, Builtins._sequence),
    (list, Builtins._sequence),
    (len, Builtins._length),
    (any, Builtins._any_or_all),
    (all, Builtins._any_or_all),
    (isinstance, Builtins._is_instance),
    (zip, Builtins._zipped),
    (enumerate, Builtins._enumerated),
    (range, Builtins._range),
    (sum, Builtins._sum),
    (getattr, Builtins._got),
    (hasattr, Builtins._told),
    (callable, Builtins._told),
    (issubclass, Builtins._told),
)
"""Python's functions that keep nothing of what they are given."""


def _are_small(bounds: list[Any]) -> bool:
    return all(type(bound) is int and abs(bound) <= MOST_UNROLLED for bound in bounds) and 0 not in bounds[2:]


def is_instance(value: Value, kinds: list[type]) -> bool | None:
    """Whether a value is of one of the kinds; None where that is not known.

    >>> is_instance(Items(()), [tuple, list]), is_instance(Exactly(None), [torch.Tensor]), is_instance(OTHER, [tuple])
    (True, False, None)
    """
    own = _type_of(value)
    if own is None:
        return None
    if any(kind is own for kind in kinds):
        return True
    return False if all(any(kind is plain for plain in (torch.Tensor, *CONTAINERS)) for kind in kinds) else None


def _type_of(value: Value) -> type | None:
    if isinstance(value, Items):
        return list if value.is_list else tuple
    types: dict[Kind, type] = {Kind.TENSOR: torch.Tensor, Kind.NONE: type(None)}
    return types.get(kinds_of(value))
