"""What assignments, imports and definitions of code that is not run do to the variables."""

from __future__ import annotations

import ast
import sys

from fxgrad.observe.backward_code.builtins import MOST_UNROLLED
from fxgrad.observe.backward_code.calls import Calls
from fxgrad.observe.backward_code.operations import operation
from fxgrad.observe.backward_code.scope import Scope
from fxgrad.observe.backward_code.state import GivenUp, State, Unreachable, kept
from fxgrad.observe.backward_code.values import (
    ANYTHING,
    CONTEXT,
    OTHER,
    TENSOR,
    Context,
    Exactly,
    Items,
    Kind,
    Local,
    Value,
    join_all,
    kinds_of,
    later,
)


class Assignments(Calls):
    """Reads the statements that give names to values."""

    def bind(self, target: ast.expr, value: Value, state: State, scope: Scope) -> None:
        """Assign a value to what stands on the left."""
        if isinstance(target, ast.Name):
            if target.id in scope.names.assigned:
                state.variables[target.id] = kept(value) if target.id in scope.names.captured else value
        elif isinstance(target, (ast.Tuple, ast.List)):
            self._unpack(target.elts, value, state, scope)
        elif isinstance(target, ast.Attribute):
            self._bind_attribute(target, value, state, scope)
        elif isinstance(target, ast.Subscript):
            self._bind_item(target, value, state, scope)
        else:
            raise GivenUp

    def _bind_attribute(self, target: ast.Attribute, value: Value, state: State, scope: Scope) -> None:
        owner = self.look(target.value, state, scope)
        if isinstance(owner, Context):
            state.context[target.attr] = kept(value)
            return
        self.set_attribute(target.attr)
        state.hand_over([value])

    def _bind_item(self, target: ast.Subscript, value: Value, state: State, scope: Scope) -> None:
        index = self.value(target.slice, state, scope)
        state.hand_over([value])
        owner = target.value
        found = scope.find(owner.id, state) if isinstance(owner, ast.Name) else self.value(owner, state, scope)
        if isinstance(owner, ast.Name) and isinstance(found, Items) and found.is_list and owner.id in state.variables:
            state.variables[owner.id] = _with_item(found, index, kept(value))

    def _unpack(self, targets: list[ast.expr], value: Value, state: State, scope: Scope) -> None:
        starred = next((place for place, each in enumerate(targets) if isinstance(each, ast.Starred)), None)
        for target, each in zip(targets, _unpacked(value, len(targets), starred), strict=True):
            self.bind(target.value if isinstance(target, ast.Starred) else target, each, state, scope)

    def assign(self, statement: ast.Assign, state: State, scope: Scope) -> State | None:
        """``a = b = value``."""
        unpacks = isinstance(statement.targets[0], (ast.Tuple, ast.List))
        value = self.look(statement.value, state, scope) if unpacks else self.value(statement.value, state, scope)
        if len(statement.targets) > 1:
            value = kept(value)
        for target in statement.targets:
            self.bind(target, value, state, scope)
        return state

    def assign_annotated(self, statement: ast.AnnAssign, state: State, scope: Scope) -> State | None:
        """``a: int = value``."""
        if statement.value is not None:
            self.bind(statement.target, self.value(statement.value, state, scope), state, scope)
        return state

    def assign_augmented(self, statement: ast.AugAssign, state: State, scope: Scope) -> State | None:
        """``a += value``."""
        target = statement.target
        before = self.look(_as_read(target), state, scope)
        change = self.value(statement.value, state, scope)
        if isinstance(before, Items) and before.is_list and not isinstance(change, Items):
            change = Items((), ANYTHING, is_list=True) if isinstance(statement.op, ast.Add) else change
        self.bind(target, operation(type(statement.op), before, change), state, scope)
        return state

    def delete(self, statement: ast.Delete, state: State, scope: Scope) -> State | None:
        """``del a``."""
        for target in statement.targets:
            if isinstance(target, ast.Name):
                state.variables[target.id] = ANYTHING
            elif isinstance(target, ast.Attribute) and self.look(target.value, state, scope) == CONTEXT:
                state.context[target.attr] = ANYTHING
            elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
                state.let_go(target.value.id)
            elif isinstance(target, ast.Attribute):
                self.set_attribute(target.attr)
        return state

    def import_module(self, statement: ast.Import, state: State, scope: Scope) -> State | None:
        """``import a.b as c``: of modules that are loaded."""
        for name in statement.names:
            module = sys.modules.get(name.name if name.asname else name.name.partition(".")[0])
            bound = name.asname or name.name.partition(".")[0]
            self.bind_name(bound, ANYTHING if module is None else later(module), state, scope)
        return state

    def import_from(self, statement: ast.ImportFrom, state: State, scope: Scope) -> State | None:
        """``from a import b``."""
        module = None if statement.level else sys.modules.get(statement.module or "")
        for name in statement.names:
            if name.name == "*":
                raise GivenUp
            found = ANYTHING if module is None else self.attribute(Exactly(module), name.name, state)
            self.bind_name(name.asname or name.name, found, state, scope)
        return state

    def define(self, statement: ast.FunctionDef, state: State, scope: Scope) -> State | None:
        """A function inside the one that is read."""
        self.values(statement.decorator_list, state, scope)
        made = ANYTHING if statement.decorator_list else Local(statement, scope)
        self.bind_name(statement.name, made, state, scope)
        return state

    def bind_name(self, name: str, value: Value, state: State, scope: Scope) -> None:
        """Assign to a name, where it is the function's own."""
        if name in scope.names.assigned:
            state.variables[name] = value


def _as_read(target: ast.expr) -> ast.expr:
    """What stands on the left of ``+=``, as an expression."""
    if isinstance(target, ast.Name):
        return ast.Name(target.id, ast.Load())
    if isinstance(target, ast.Attribute):
        return ast.Attribute(target.value, target.attr, ast.Load())
    assert isinstance(target, ast.Subscript)
    return ast.Subscript(target.value, target.slice, ast.Load())


def _with_item(items: Items, index: Value, value: Value) -> Value:
    """A list in which one member is another."""
    place = index.object if isinstance(index, Exactly) and type(index.object) is int else None
    members = list(items.members)
    if items.rest is None and place is not None:
        if not -len(members) <= place < len(members):
            raise Unreachable
        members[place] = value
    elif place is not None and 0 <= place <= MOST_UNROLLED:
        members += [items.item(number) for number in range(len(members), place + 1)]
        members[place] = value
    else:
        return Items((), join_all([items.any, value]), is_list=True) if isinstance(index, Exactly) else OTHER
    return Items(tuple(members), items.rest, is_list=True)


def _unpacked(value: Value, n_targets: int, starred: int | None) -> list[Value]:
    """What each of several targets gets of a value that is unpacked."""
    if not isinstance(value, Items):
        of_tensor = Kind.TENSOR in kinds_of(value) and Kind.OTHER not in kinds_of(value)
        each: Value = TENSOR if of_tensor else ANYTHING
        return [OTHER if place == starred else each for place in range(n_targets)]
    if value.rest is not None:
        if starred is None:
            return [value.item(place) for place in range(n_targets)]
        taken: list[Value] = [value.item(place) for place in range(starred)]
        return [*taken, OTHER, *[value.any] * (n_targets - starred - 1)]
    members = list(value.members)
    if starred is None:
        if len(members) != n_targets:
            raise Unreachable
        return members
    behind = n_targets - starred - 1
    if len(members) < n_targets - 1:
        raise Unreachable
    middle = Items(tuple(members[starred : len(members) - behind]), None, is_list=True)
    return [*members[:starred], middle, *members[len(members) - behind :]]
