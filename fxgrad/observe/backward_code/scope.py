"""The names of a function whose code is read, and where they lead."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import FunctionType
from typing import Any, NamedTuple

from fxgrad.observe.backward_code.modules import names_set_in
from fxgrad.observe.backward_code.source import Definition
from fxgrad.observe.backward_code.state import GivenUp, State
from fxgrad.observe.backward_code.values import ANYTHING, Exactly, Held, Value, later
from fxgrad.observe.plain_functions import closure_of

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_YIELDS = (ast.Yield, ast.YieldFrom, ast.Await)


class Names(NamedTuple):
    """What a definition does with names: those that it assigns, those that functions inside it use, and the globals that
    it assigns; and whether it makes a generator."""

    assigned: frozenset[str]
    captured: frozenset[str]
    declared_global: frozenset[str]
    is_generator: bool


@lru_cache(maxsize=512)
def names_of(definition: Definition) -> Names:
    """Read the names of a definition. Raises GivenUp where a function inside it changes what is not its own."""
    assigned, captured, declared = set(parameters_of(definition)), set[str](), set[str]()
    generates = False
    for node in own_nodes(definition):
        if isinstance(node, _FUNCTIONS):
            captured |= _used_inside(node)
        if isinstance(node, (*_FUNCTIONS[:2], ast.ClassDef)):
            assigned.add(node.name)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            assigned.add(node.id)
        elif isinstance(node, ast.alias):
            assigned.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            assigned.add(node.name)
        elif isinstance(node, ast.Global):
            declared.update(node.names)
        elif isinstance(node, ast.Nonlocal):
            raise GivenUp
        generates |= isinstance(node, _YIELDS)
    return Names(frozenset(assigned - declared), frozenset(captured), frozenset(declared), generates)


def parameters_of(definition: Definition) -> list[str]:
    """All parameters of a definition."""
    arguments = definition.args
    plain = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [each.arg for each in (*plain, arguments.vararg, arguments.kwarg) if each is not None]


def own_nodes(definition: Definition) -> Iterator[ast.AST]:
    """Every node of a definition's body, without the bodies of functions and classes inside it."""
    body = definition.body
    waiting: list[ast.AST] = list(body) if isinstance(body, list) else [body]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            waiting.extend(ast.iter_child_nodes(node))


def _used_inside(function: ast.AST) -> set[str]:
    """The names that a function inside the one that is read uses."""
    used = set[str]()
    stored = set[str]()
    own = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    for node in ast.walk(function):
        if isinstance(node, ast.Nonlocal):
            raise GivenUp
        if isinstance(node, ast.Name):
            used.add(node.id)
            if isinstance(node.ctx, ast.Store):
                own.add(node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            stored |= {node.value.id} if isinstance(node.value, ast.Name) else {""}
    if stored - own:
        raise GivenUp
    return used


@dataclass(slots=True)
class Loop:
    """The states in which the loop that is read is left, and in which its body is."""

    left: list[State] = field(default_factory=list)
    repeated: list[State] = field(default_factory=list)


@dataclass(slots=True)
class Scope:
    """A function that is running. ``outer`` is the scope around one that is defined inside another."""

    definition: Definition
    names: Names
    globals: Mapping[str, Any]
    cells: Mapping[str, Any]
    outer: Scope | None = None
    outer_state: State | None = None
    returns: list[tuple[Value, State]] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)

    @classmethod
    def of(cls, function: FunctionType, definition: Definition) -> Scope:
        """That of a function of the program."""
        return cls(definition, names_of(definition), function.__globals__, dict(closure_of(function)))

    def inner(self, definition: Definition, state: State | None) -> Scope:
        """That of a function that is defined inside this one."""
        return Scope(definition, names_of(definition), self.globals, self.cells, self, state)

    def find(self, name: str, state: State) -> Value:
        """What a name stands for."""
        if name in self.names.assigned:
            return state.variables.get(name, ANYTHING)
        if name.startswith("__"):  # inside of a class it stands for another name
            return ANYTHING
        if self.outer is not None and self._is_outer(name):
            return ANYTHING if self.outer_state is None else self.outer.find(name, self.outer_state)
        if name in self.names.declared_global:
            return ANYTHING
        if name in self.cells:
            found = later(self.cells[name])
            return Held(self.cells[name]) if found == ANYTHING else found
        if name in self.globals:
            found = later(self.globals[name])
            is_set = not isinstance(found, Exactly) and name in names_set_in(str(self.globals.get("__name__")))
            return ANYTHING if is_set else found
        return Exactly(vars(builtins)[name]) if name in vars(builtins) else ANYTHING

    def _is_outer(self, name: str) -> bool:
        scope = self.outer
        while scope is not None:
            if name in scope.names.assigned:
                return True
            scope = scope.outer
        return False
