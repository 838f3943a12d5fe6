"""Reads the statements of a ``backward`` that is not run, and says what it returns for each argument of forward."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, ClassVar

from fxgrad.observe.backward_code.calls import MOST_UNROLLED, Calls
from fxgrad.observe.backward_code.operations import operation
from fxgrad.observe.backward_code.scope import Loop, Scope
from fxgrad.observe.backward_code.source import definition_of
from fxgrad.observe.backward_code.state import GivenUp, State, Unreachable, is_shared_by_holding, kept
from fxgrad.observe.backward_code.values import (
    ANYTHING,
    CONTEXT,
    NONE,
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

_MOST_ROUNDS = 6
_MOST_BACKWARDS = 4


class Reader(Calls):
    """Reads functions as a chain of states; a path that raises, or returns, has no state behind it.

    `context` says what attributes of ``ctx`` hold when backward is called for the first time.
    """

    def __init__(self, context: Callable[[str], Value]) -> None:
        super().__init__()
        self._context = context
        self.asked: dict[str, Value] = {}

    def initially(self, name: str) -> Value:
        """What ``ctx.name`` is when backward begins; noted as ``asked``."""
        return self.asked.setdefault(name, self._context(name))

    def returned(self, function: FunctionType, arguments: Iterable[Value]) -> Value:
        """What a backward returns whenever it is called. Raises GivenUp where nothing can be said."""
        definition = definition_of(function)
        if definition is None:
            raise GivenUp
        state, values = State(), list[Value]()
        for _ in range(_MOST_BACKWARDS):
            end = state.copy()
            try:
                values.append(self._call_function(function, Items((CONTEXT, *arguments)), {}, end))
            except Unreachable:  # it always raises
                break
            again = self.joined(state, end)
            if again == state or again is None:
                break
            state = again
        else:
            raise GivenUp
        if self.contradicts_itself:
            raise GivenUp
        return join_all(values)

    def run(self, scope: Scope, state: State) -> Value:
        """What a function returns that starts in a state; the state is then as the function leaves it."""
        body = scope.definition.body
        if isinstance(body, list):
            end = self._block(body, state.copy(), scope)
            if end is not None:
                scope.returns.append((NONE, end))
        else:
            end = state.copy()
            scope.returns.append((self.value(body, end, scope), end))
        if not scope.returns:
            raise Unreachable
        last: State | None = None
        for _, each in scope.returns:
            last = self.joined(last, each)
        state.take(last or state)
        return join_all([value for value, _ in scope.returns])

    def _block(self, statements: Iterable[ast.stmt], state: State | None, scope: Scope) -> State | None:
        for statement in statements:
            if state is None:
                return None
            read = self._STATEMENTS.get(type(statement))
            if read is None:
                raise GivenUp
            self._step(1)
            try:
                state = read(self, statement, state, scope)
            except Unreachable:
                state = None
            finally:
                self._nested -= 1
        return state

    # Names

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

    def _assign(self, statement: ast.Assign, state: State, scope: Scope) -> State | None:
        unpacks = isinstance(statement.targets[0], (ast.Tuple, ast.List))
        value = self.look(statement.value, state, scope) if unpacks else self.value(statement.value, state, scope)
        if len(statement.targets) > 1:
            value = kept(value)
        for target in statement.targets:
            self.bind(target, value, state, scope)
        return state

    def _assign_annotated(self, statement: ast.AnnAssign, state: State, scope: Scope) -> State | None:
        if statement.value is not None:
            self.bind(statement.target, self.value(statement.value, state, scope), state, scope)
        return state

    def _assign_augmented(self, statement: ast.AugAssign, state: State, scope: Scope) -> State | None:
        target = statement.target
        before = self.look(_as_read(target), state, scope)
        change = self.value(statement.value, state, scope)
        if isinstance(before, Items) and before.is_list and not isinstance(change, Items):
            change = Items((), ANYTHING, is_list=True) if isinstance(statement.op, ast.Add) else change
        self.bind(target, operation(type(statement.op), before, change), state, scope)
        return state

    def _delete(self, statement: ast.Delete, state: State, scope: Scope) -> State | None:
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

    def _import(self, statement: ast.Import, state: State, scope: Scope) -> State | None:
        for name in statement.names:
            module = sys.modules.get(name.name if name.asname else name.name.partition(".")[0])
            bound = name.asname or name.name.partition(".")[0]
            self._bind_name(bound, ANYTHING if module is None else later(module), state, scope)
        return state

    def _import_from(self, statement: ast.ImportFrom, state: State, scope: Scope) -> State | None:
        module = None if statement.level else sys.modules.get(statement.module or "")
        for name in statement.names:
            if name.name == "*":
                raise GivenUp
            found = ANYTHING if module is None else self.attribute(Exactly(module), name.name, state)
            self._bind_name(name.asname or name.name, found, state, scope)
        return state

    def _define(self, statement: ast.FunctionDef, state: State, scope: Scope) -> State | None:
        self.values(statement.decorator_list, state, scope)
        made = ANYTHING if statement.decorator_list else Local(statement, scope)
        self._bind_name(statement.name, made, state, scope)
        return state

    def _bind_name(self, name: str, value: Value, state: State, scope: Scope) -> None:
        if name in scope.names.assigned:
            state.variables[name] = value

    # Ways through the code

    def _expression(self, statement: ast.Expr, state: State, scope: Scope) -> State | None:
        self.value(statement.value, state, scope)
        return state

    def _return(self, statement: ast.Return, state: State, scope: Scope) -> State | None:
        value = NONE if statement.value is None else self.look(statement.value, state, scope)
        scope.returns.append((value, state))
        return None

    def _raise(self, statement: ast.Raise, state: State, scope: Scope) -> State | None:  # noqa: ARG002
        return None

    def _pass(self, statement: ast.stmt, state: State, scope: Scope) -> State | None:  # noqa: ARG002
        return state

    def _if(self, statement: ast.If, state: State, scope: Scope) -> State | None:
        _, true, false = self.branches(statement.test, state, scope)
        return self.joined(self._block(statement.body, true, scope), self._block(statement.orelse, false, scope))

    def _assert(self, statement: ast.Assert, state: State, scope: Scope) -> State | None:
        if not __debug__:
            return state
        _, true, _ = self.branches(statement.test, state, scope)
        return true

    def _for(self, statement: ast.For, state: State, scope: Scope) -> State | None:
        items = self.iterated(statement.iter, state, scope)
        if isinstance(statement.iter, ast.Name) and statement.iter.id in _names_in(statement.body):
            state.let_go(statement.iter.id)  # what the body does to a list changes what comes next
            items = Items((), ANYTHING)

        def begin(value: Value) -> Callable[[State], State | None]:
            def bound(at_start: State) -> State | None:
                self.bind(statement.target, value, at_start, scope)
                return at_start

            return bound

        if items.rest is None and len(items.members) <= MOST_UNROLLED:
            return self._unrolled(statement, [begin(value) for value in items.members], state, scope)
        after, loop = self._repeated(statement.body, begin(items.any), state, scope)
        return self._behind_loop(statement, after, loop, scope)

    def _unrolled(
        self, statement: ast.For, begins: list[Callable[[State], State | None]], state: State | None, scope: Scope
    ) -> State | None:
        loop = Loop()
        for begin in begins:
            if state is not None:
                state = self._once(statement.body, begin, state, scope, loop)
        return self._behind_loop(statement, state, loop, scope)

    def _once(
        self, body: list[ast.stmt], begin: Callable[[State], State | None], state: State, scope: Scope, loop: Loop
    ) -> State | None:
        """The state in which the body of a loop ends, or goes on with the next round."""
        scope.loops.append(loop)
        try:
            end = self._block(body, begin(state), scope)
        except Unreachable:  # by what comes before the body
            end = None
        finally:
            scope.loops.pop()
        for again in loop.repeated:
            end = self.joined(end, again)
        loop.repeated.clear()
        return end

    def _behind_loop(
        self, statement: ast.For | ast.While, state: State | None, loop: Loop, scope: Scope
    ) -> State | None:
        state = self._block(statement.orelse, state, scope)
        for left in loop.left:
            state = self.joined(state, left)
        return state

    def _while(self, statement: ast.While, state: State, scope: Scope) -> State | None:
        ends: list[State | None] = [None]

        def begin(at_start: State) -> State | None:
            _, true, false = self.branches(statement.test, at_start, scope)
            ends[0] = self.joined(ends[0], false)
            return true

        _, loop = self._repeated(statement.body, begin, state, scope)
        return self._behind_loop(statement, ends[0], loop, scope)

    def _repeated(
        self, body: list[ast.stmt], begin: Callable[[State], State | None], state: State, scope: Scope
    ) -> tuple[State | None, Loop]:
        """A body that runs any number of times: what holds before each of them."""
        for round_number in range(_MOST_ROUNDS + 1):
            if round_number == _MOST_ROUNDS:
                self._forget(body, state, scope)
            loop, n_returns = Loop(), len(scope.returns)
            end = self._once(body, begin, state.copy(), scope, loop)
            after = self.joined(state, end)
            if after == state or after is None or round_number == _MOST_ROUNDS:
                return after, loop
            del scope.returns[n_returns:]  # the next round, which knows less, comes to them again
            state = after
        raise GivenUp

    def _break(self, statement: ast.stmt, state: State, scope: Scope) -> State | None:  # noqa: ARG002
        scope.loops[-1].left.append(state)
        return None

    def _continue(self, statement: ast.stmt, state: State, scope: Scope) -> State | None:  # noqa: ARG002
        scope.loops[-1].repeated.append(state)
        return None

    def _with(self, statement: ast.With, state: State, scope: Scope) -> State | None:
        lets_errors_through = True
        for item in statement.items:
            lets_errors_through &= self._is_of_torch(item.context_expr, state, scope)
            self.value(item.context_expr, state, scope)
            if item.optional_vars is not None:
                self.bind(item.optional_vars, ANYTHING, state, scope)
        before = state.copy()
        end = self._block(statement.body, state, scope)
        if lets_errors_through:
            return end
        self._forget(statement.body, before, scope)
        return self.joined(end, before)

    def _is_of_torch(self, expression: ast.expr, state: State, scope: Scope) -> bool:
        """Whether a context manager is one of torch's, none of which keeps an error to itself."""
        if not isinstance(expression, ast.Call) or not isinstance(expression.func, (ast.Attribute, ast.Name)):
            return False
        made_by = self.look(expression.func, state, scope)
        module = getattr(made_by.object, "__module__", None) if isinstance(made_by, Exactly) else None
        return isinstance(module, str) and module.partition(".")[0] == "torch"

    def _try(self, statement: ast.Try, state: State, scope: Scope) -> State | None:
        failed = state.copy()
        n_returns, n_left = len(scope.returns), sum(len(loop.left) + len(loop.repeated) for loop in scope.loops)
        end = self._block(statement.orelse, self._block(statement.body, state, scope), scope)
        self._forget(statement.body, failed, scope)
        for handler in statement.handlers:
            start = failed.copy()
            if handler.name is not None:
                self._bind_name(handler.name, OTHER, start, scope)
            end = self.joined(end, self._block(handler.body, start, scope))
        if not statement.finalbody:
            return end
        if n_left != sum(len(loop.left) + len(loop.repeated) for loop in scope.loops) or _leaves(statement.finalbody):
            raise GivenUp
        returns = [(value, self._block(statement.finalbody, at, scope)) for value, at in scope.returns[n_returns:]]
        scope.returns[n_returns:] = [(value, at) for value, at in returns if at is not None]
        return self._block(statement.finalbody, end, scope)

    def _forget(self, body: list[ast.stmt], state: State, scope: Scope) -> None:
        """What the body may have done to the variables, if it was left somewhere."""
        names = _names_in(body)
        lists = {name for name in names if is_shared_by_holding(scope.find(name, state))}
        state.forget((_names_in(body, stored=True) | lists) & scope.names.assigned)

    _STATEMENTS: ClassVar[dict[type[ast.stmt], Callable[..., Any]]] = {
        ast.Expr: _expression,
        ast.Assign: _assign,
        ast.AnnAssign: _assign_annotated,
        ast.AugAssign: _assign_augmented,
        ast.Delete: _delete,
        ast.Import: _import,
        ast.ImportFrom: _import_from,
        ast.FunctionDef: _define,
        ast.Return: _return,
        ast.Raise: _raise,
        ast.Pass: _pass,
        ast.Global: _pass,
        ast.If: _if,
        ast.Assert: _assert,
        ast.For: _for,
        ast.While: _while,
        ast.Break: _break,
        ast.Continue: _continue,
        ast.With: _with,
        ast.Try: _try,
    }


def _as_read(target: ast.expr) -> ast.expr:
    """What stands on the left of ``+=``, as an expression."""
    if isinstance(target, ast.Name):
        return ast.Name(target.id, ast.Load())
    if isinstance(target, ast.Attribute):
        return ast.Attribute(target.value, target.attr, ast.Load())
    assert isinstance(target, ast.Subscript)
    return ast.Subscript(target.value, target.slice, ast.Load())


def _names_in(body: Iterable[ast.stmt], *, stored: bool = False) -> set[str]:
    nodes = [node for statement in body for node in ast.walk(statement)]
    names = {
        node.id for node in nodes if isinstance(node, ast.Name) and not (stored and isinstance(node.ctx, ast.Load))
    }
    names |= {node.asname or node.name.partition(".")[0] for node in nodes if isinstance(node, ast.alias)}
    names |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ExceptHandler)) and node.name}
    return names


def _leaves(body: Iterable[ast.stmt]) -> bool:
    """Whether a ``finally`` may end in another way than it was come to."""
    return any(isinstance(node, (ast.Return, ast.Break, ast.Continue)) for each in body for node in ast.walk(each))


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
