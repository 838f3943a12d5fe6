"""What the expressions of code that is not run come to."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from fxgrad.observe.backward_code.attributes import Attributes
from fxgrad.observe.backward_code.operations import indexed, iterated_value, only_tensor, operation, sliced
from fxgrad.observe.backward_code.scope import Scope
from fxgrad.observe.backward_code.state import GivenUp, State, Unreachable, is_shared_by_holding, joined, kept
from fxgrad.observe.backward_code.values import (
    ANYTHING,
    NONE,
    NOT_NONE,
    OTHER,
    TENSOR,
    Exactly,
    Items,
    Kind,
    Local,
    Value,
    join_all,
    kinds_of,
)

MOST_STEPS = 20_000
MOST_NESTED = 120
Branches = tuple[Value, "State | None", "State | None"]
"""What a condition comes to, and the states behind it where it counts as true and where it does not."""


class Expressions(Attributes, ABC):
    """Reads expressions. A state is changed as running the expression would change it."""

    def __init__(self) -> None:
        super().__init__()
        self._steps = MOST_STEPS
        self._nested = 0

    @abstractmethod
    def branches(self, test: ast.expr, state: State, scope: Scope) -> Branches:
        """Take both ways behind a condition, as far as there are two. The state is used up."""

    @abstractmethod
    def call(self, expression: ast.Call, state: State, scope: Scope) -> Value:
        """What a call returns."""

    # Values

    def value(self, expression: ast.expr, state: State, scope: Scope) -> Value:
        """What an expression comes to, where somebody may keep it: a variable's list is given away."""
        if isinstance(expression, ast.Name):
            found = scope.find(expression.id, state)
            if is_shared_by_holding(found):
                state.let_go(expression.id)
            return kept(found)
        return self.look(expression, state, scope)

    def look(self, expression: ast.expr, state: State, scope: Scope) -> Value:
        """What an expression comes to, where it is only looked at."""
        if isinstance(expression, ast.Name):
            return scope.find(expression.id, state)
        read = self._READERS.get(type(expression))
        if read is None:
            raise GivenUp
        self._step(1)
        try:
            return read(self, expression, state, scope)
        finally:
            self._nested -= 1

    def _step(self, deeper: int) -> None:
        self._steps -= 1
        self._nested += deeper
        if self._steps < 0 or self._nested > MOST_NESTED:
            raise GivenUp

    def values(self, expressions: Iterable[ast.expr | None], state: State, scope: Scope) -> list[Value]:
        """What several expressions come to, one after the other."""
        return [self.value(each, state, scope) for each in expressions if each is not None]

    def _constant(self, expression: ast.Constant, state: State, scope: Scope) -> Value:  # noqa: ARG002
        return Exactly(expression.value)

    def _other(self, expression: ast.expr, state: State, scope: Scope) -> Value:
        """Numbers, texts and containers that are not followed."""
        children = [child for child in ast.iter_child_nodes(expression) if isinstance(child, ast.expr)]
        state.hand_over(self.values(children, state, scope))
        return OTHER

    def _function(self, expression: ast.Lambda, state: State, scope: Scope) -> Value:  # noqa: ARG002
        return Local(expression, scope)

    def _attribute(self, expression: ast.Attribute, state: State, scope: Scope) -> Value:
        return self.attribute(self.look(expression.value, state, scope), expression.attr, state)

    def _named(self, expression: ast.NamedExpr, state: State, scope: Scope) -> Value:
        value = kept(self.value(expression.value, state, scope))
        if not isinstance(expression.target, ast.Name) or expression.target.id not in scope.names.assigned:
            raise GivenUp
        state.variables[expression.target.id] = value
        return value

    # Containers

    def _tuple(self, expression: ast.Tuple | ast.List, state: State, scope: Scope) -> Value:
        items = self.items(expression.elts, state, scope)
        state.hand_over(items.members if isinstance(expression, ast.List) else ())
        return Items(items.members, items.rest, isinstance(expression, ast.List))

    def items(self, members: Sequence[ast.expr], state: State, scope: Scope) -> Items:
        """A container of these members, as they are displayed or passed to a function."""
        known: list[Value] = []
        rest: Value | None = None
        for member in members:
            if isinstance(member, ast.Starred):
                inner = self.iterated(member.value, state, scope)
            else:
                inner = Items((self.value(member, state, scope),))
            if rest is None:
                known += inner.members
                rest = inner.rest
            else:
                rest = join_all([rest, *inner.members, *([] if inner.rest is None else [inner.rest])])
        return Items(tuple([kept(value) for value in known]), rest)

    def iterated(self, expression: ast.expr, state: State, scope: Scope) -> Items:
        """What iterating over an expression gives."""
        if isinstance(expression, (ast.ListComp, ast.GeneratorExp)):
            return self._comprehended(expression, state, scope)
        return iterated_value(self.look(expression, state, scope))

    def _comprehension(self, expression: ast.ListComp, state: State, scope: Scope) -> Value:
        items = self._comprehended(expression, state, scope)
        return Items(items.members, items.rest, is_list=True)

    def _generator(self, expression: ast.expr, state: State, scope: Scope) -> Value:
        """It runs later, if at all: what it uses may have changed by then."""
        for node in ast.walk(expression):
            if isinstance(node, (ast.NamedExpr, ast.Await)):
                raise GivenUp
            if isinstance(node, ast.Name):
                found = scope.find(node.id, state)
                state.hand_over([found])
                if is_shared_by_holding(found):
                    state.let_go(node.id)
        return OTHER

    def _comprehended(self, expression: ast.ListComp | ast.GeneratorExp, state: State, scope: Scope) -> Items:
        (*several, loop) = expression.generators
        if several or loop.is_async:
            raise GivenUp
        source = self.iterated(loop.iter, state, scope)
        around = dict(state.variables)
        members = [self._member(expression.elt, loop, each, state, scope) for each in source.members]
        rest = None if source.rest is None else self._further_member(expression.elt, loop, source.rest, state, scope)
        shadowed = {node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
        for name in shadowed:
            state.variables.pop(name, None)
        state.variables |= {name: around[name] for name in shadowed if name in around}
        if all(certain for _, certain in members):
            return Items(tuple([kept(value) for value, _ in members]), None if rest is None else kept(rest))
        each = [kept(value) for value, _ in members] + ([] if rest is None else [kept(rest)])
        return Items((), join_all(each))

    def _member(
        self, element: ast.expr, loop: ast.comprehension, each: Value, state: State, scope: Scope
    ) -> tuple[Value, bool]:
        """One member of a comprehension, and whether there is one for certain."""
        going, left = state.copy(), list[State]()
        self.bind(loop.target, each, going, scope)
        for condition in loop.ifs:
            _, true, false = self.branches(condition, going, scope)
            left += [] if false is None else [false]
            if true is None:
                return self._behind_member(left, state, ANYTHING)
            going = true
        try:
            value = self.value(element, going, scope)
        except Unreachable:
            if not left:
                raise
            return self._behind_member(left, state, ANYTHING)
        return self._behind_member([*left, going], state, value, certain=not left)

    def _behind_member(
        self, ends: list[State], state: State, value: Value, *, certain: bool = False
    ) -> tuple[Value, bool]:
        end: State | None = None
        for each in ends:
            end = self.joined(end, each)
        state.take(end or state)
        return value, certain

    def _further_member(
        self, element: ast.expr, loop: ast.comprehension, each: Value, state: State, scope: Scope
    ) -> Value:
        """A member of which there may be none."""
        try:
            return self._member(element, loop, each, state, scope)[0]
        except Unreachable:
            return ANYTHING

    @abstractmethod
    def bind(self, target: ast.expr, value: Value, state: State, scope: Scope) -> None:
        """Assign a value to what stands on the left."""

    def _subscript(self, expression: ast.Subscript, state: State, scope: Scope) -> Value:
        container = self.look(expression.value, state, scope)
        if isinstance(expression.slice, ast.Slice):
            bounds = [expression.slice.lower, expression.slice.upper, expression.slice.step]
            ends = [NONE if bound is None else self.value(bound, state, scope) for bound in bounds]
            return sliced(container, ends)
        return indexed(container, self.value(expression.slice, state, scope))

    def _slice(self, expression: ast.Slice, state: State, scope: Scope) -> Value:
        self.values([expression.lower, expression.upper, expression.step], state, scope)
        return OTHER

    # Operations

    def _binary(self, expression: ast.BinOp, state: State, scope: Scope) -> Value:
        left, right = self.look(expression.left, state, scope), self.look(expression.right, state, scope)
        return operation(type(expression.op), left, right)

    def _unary(self, expression: ast.UnaryOp, state: State, scope: Scope) -> Value:
        if isinstance(expression.op, ast.Not):
            value, true, false = self.branches(expression, state, scope)
            state.take(self.joined(true, false) or state)
            return value
        operand = self.look(expression.operand, state, scope)
        if isinstance(expression.op, ast.USub) and isinstance(operand, Exactly) and type(operand.object) is int:
            return Exactly(-operand.object)
        return TENSOR if only_tensor(operand) else NOT_NONE if Kind.TENSOR in kinds_of(operand) else OTHER

    def _either(self, expression: ast.IfExp, state: State, scope: Scope) -> Value:
        _, true, false = self.branches(expression.test, state, scope)
        values: list[Value] = []
        ends: list[State] = []
        for each, path in ((expression.body, true), (expression.orelse, false)):
            try:
                if path is not None:
                    values.append(self.value(each, path, scope))
                    ends.append(path)
            except Unreachable:
                continue
        if not ends:
            raise Unreachable
        state.take(self.joined(ends[0], ends[-1]) or state)
        return kept(join_all(values))

    def _condition(self, expression: ast.expr, state: State, scope: Scope) -> Value:
        value, true, false = self.branches(expression, state, scope)
        state.take(self.joined(true, false) or state)
        return value

    def joined(self, one: State | None, other: State | None) -> State | None:
        """The state where two paths meet."""
        return joined(one, other, self.initially)

    _READERS: ClassVar[dict[type[ast.expr], Callable[..., Value]]] = {
        ast.Constant: _constant,
        ast.Tuple: _tuple,
        ast.List: _tuple,
        ast.Set: _other,
        ast.Dict: _other,
        ast.JoinedStr: _other,
        ast.FormattedValue: _other,
        ast.Lambda: _function,
        ast.Attribute: _attribute,
        ast.Subscript: _subscript,
        ast.Slice: _slice,
        ast.NamedExpr: _named,
        ast.BinOp: _binary,
        ast.UnaryOp: _unary,
        ast.IfExp: _either,
        ast.BoolOp: _condition,
        ast.Compare: _condition,
        ast.ListComp: _comprehension,
        ast.GeneratorExp: _generator,
        ast.SetComp: _generator,
        ast.DictComp: _generator,
        ast.Call: lambda self, expression, state, scope: self.call(expression, state, scope),
    }
