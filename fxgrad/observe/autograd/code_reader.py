"""Goes through the code of a Python function without running it, and notes what its ``return`` statements may give.

It follows assignments, ``if``, ``return``, ``raise`` and ``with torch.no_grad()``. Any other statement may run in part, or
many times: behind it, the names that it binds may be anything. What is known of a value, and of the result of an
expression, is up to the class that derives from this: the values of a custom Function's backward (``backward_code.py``)
and those of a hook (``hook_returns.py``).
"""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import lru_cache, reduce
from types import FunctionType, ModuleType
from typing import Any, Generic, NamedTuple, TypeVar

from fxgrad.observe.autograd.python_code import MANAGERS, UNKNOWN, Definition, look_up_name

Value = TypeVar("Value")
_MOST_NESTED = 100
"""Levels of a syntax tree: reading one recurses."""
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Names(NamedTuple):
    """The local names of a function.

    ``bound``       all of them
    ``unfollowed``  those that ``:=`` binds, in the middle of an expression
    """

    bound: frozenset[str]
    unfollowed: frozenset[str]


@lru_cache(maxsize=512)
def find_names(definition: Definition) -> Names | None:
    """The local names of a function; None where its code is too deep to read, or binds names of other scopes."""
    level: list[ast.AST] = [definition]
    for _ in range(_MOST_NESTED):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    if level:
        return None
    body = list_statements(definition)
    nodes = [node for statement in body for node in ast.walk(statement)]
    if any(isinstance(node, (ast.Global, ast.Nonlocal)) for node in nodes):
        return None
    bound = set().union(*map(find_bound_names, body))
    bound |= {node.arg for node in ast.walk(definition.args) if isinstance(node, ast.arg)}
    unfollowed = set().union(*[find_bound_names(node) for node in nodes if isinstance(node, ast.NamedExpr)])
    return Names(frozenset(bound), frozenset(unfollowed))


def list_statements(definition: Definition) -> list[Any]:
    """The statements of a function, or the one expression of a ``lambda``."""
    return definition.body if isinstance(definition.body, list) else [definition.body]


def find_bound_names(tree: ast.AST) -> set[str]:
    """The names that anything in a syntax tree binds: by assignment, import, definition, ``except`` or ``match``."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        for field in ("name", "asname", "rest"):
            name = getattr(node, field, None)
            names |= {name.partition(".")[0]} if isinstance(name, str) else set()
    return names


class CodeReader(ABC, Generic[Value]):
    """Reads one function. A name that is missing in a state may stand for anything.

    Evaluating an expression changes no state: names that ``:=`` binds are not followed.
    """

    NONE: Value
    ANYTHING: Value

    def __init__(self, function: FunctionType, definition: Definition, names: Names) -> None:
        self._function = function
        self._definition = definition
        self._names = names
        self._returned: list[Value] = []

    def read_returned(self, arguments: dict[str, Value]) -> list[Value]:
        """What each ``return`` gives that may be reached, and None where the code may run to its end.

        Nothing where it always raises.
        """
        state = {name: value for name, value in arguments.items() if name not in self._names.unfollowed}
        try:
            if isinstance(self._definition, ast.Lambda):
                return [self.value(self._definition.body, state)]
            if self._run(self._definition.body, state) is not None:
                self._returned.append(self.NONE)
        except RecursionError:  # the program calls fxgrad from deep inside
            return [self.ANYTHING]
        return self._returned

    # For the class that derives from this

    @abstractmethod
    def value(self, expression: ast.expr, state: dict[str, Value]) -> Value:
        """What is known of the value of an expression."""

    @abstractmethod
    def join(self, one: Value, other: Value) -> Value:
        """What is known of a value that is one of the two."""

    @abstractmethod
    def operate(self, op: ast.operator, left: Value, right: Value, /) -> Value:
        """``left op= right``."""

    @abstractmethod
    def take_member(self, value: Value, place: int) -> Value:
        """A member of a value that is taken apart, where it has so many; taking it apart raises where it has not."""

    def branches(self, choice: ast.If | ast.IfExp, state: dict[str, Value]) -> Iterator[tuple[Any, dict[str, Value]]]:
        """The body and the ``else`` of a choice, as far as they may be reached, with the state at their start."""
        yield choice.body, dict(state)
        yield choice.orelse, dict(state)

    def keep(self, value: Value) -> Value:
        """What is known of an assigned value for as long as it has its name."""
        return value

    # Statements

    def _run(self, statements: Iterable[ast.stmt], state: dict[str, Value]) -> dict[str, Value] | None:
        """The state behind the statements; None where no way through them leads there. Changes `state`."""
        for statement in statements:
            after = self._step(statement, state)
            if after is None:
                return None
            state = after
        return state

    def _step(self, statement: ast.stmt, state: dict[str, Value]) -> dict[str, Value] | None:
        match statement:
            case ast.Return(value=value):
                self._returned.append(self.NONE if value is None else self.value(value, state))
                return None
            case ast.Raise():
                return None
            case ast.Assign(targets=targets, value=value):
                assigned = self.value(value, state)
                for target in targets:
                    self._bind(target, assigned, state)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._bind(target, self.value(value, state), state)
            case ast.AugAssign(target=ast.Name(id=name) as target, op=op, value=value):
                self._bind(target, self.operate(op, state.get(name, self.ANYTHING), self.value(value, state)), state)
            case ast.If():
                ends = [self._run(body, branch) for body, branch in self.branches(statement, state)]
                reached = [end for end in ends if end is not None]
                return reduce(self._join_states, reached) if reached else None
            case ast.With(items=items, body=body) if all(map(self._lets_errors_through, items)):
                return self._run(body, state)
            case _:
                for name in find_bound_names(statement):
                    state.pop(name, None)
                for block in _list_blocks(statement):
                    self._run(block, dict(state))
        return state

    def _join_states(self, one: dict[str, Value], other: dict[str, Value]) -> dict[str, Value]:
        return {name: self.join(value, other[name]) for name, value in one.items() if name in other}

    def _lets_errors_through(self, item: ast.withitem) -> bool:
        manager = self.find_object(item.context_expr.func) if isinstance(item.context_expr, ast.Call) else UNKNOWN
        return item.optional_vars is None and any(manager is each for each in MANAGERS)

    def _bind(self, target: ast.expr, value: Value, state: dict[str, Value]) -> None:
        if isinstance(target, ast.Name) and target.id not in self._names.unfollowed:
            state[target.id] = self.keep(value)
        elif isinstance(target, (ast.Tuple, ast.List)):
            known = not any(isinstance(each, ast.Starred) for each in target.elts)
            for place, each in enumerate(target.elts):
                member = self.take_member(value, place) if known else self.ANYTHING
                self._bind(each, member, state)
        elif isinstance(target, ast.Starred):
            self._bind(target.value, self.ANYTHING, state)

    # Names

    def find_object(self, expression: ast.expr) -> Any:
        """The object that a dotted name stands for, if it is not a local variable's."""
        match expression:
            # inside a class, a name that begins with two underscores stands for another one
            case ast.Name(id=name) if name not in self._names.bound and not name.startswith("__"):
                return look_up_name(self._function, name)
            case ast.Attribute(value=owner, attr=name):
                module = self.find_object(owner)
                return vars(module).get(name, UNKNOWN) if type(module) is ModuleType else UNKNOWN
        return UNKNOWN


def _list_blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    """The blocks inside a statement that may run with it."""
    if isinstance(statement, _SCOPES):
        return []
    inner = [*getattr(statement, "handlers", []), *getattr(statement, "cases", [])]
    return [*[getattr(statement, name, []) for name in ("body", "orelse", "finalbody")], *[each.body for each in inner]]
