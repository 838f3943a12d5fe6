"""Reads the statements of a ``backward`` that is not run, and says what it returns for each argument of forward."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from types import FunctionType, MethodType
from typing import Any, ClassVar

from fxgrad.observe.backward_code.assignments import Assignments
from fxgrad.observe.backward_code.builtins import MOST_UNROLLED
from fxgrad.observe.backward_code.modules import module_of
from fxgrad.observe.backward_code.scope import Loop, Scope
from fxgrad.observe.backward_code.source import definition_of
from fxgrad.observe.backward_code.state import GivenUp, State, Unreachable, is_shared_by_holding, kept
from fxgrad.observe.backward_code.values import (
    ANYTHING,
    CONTEXT,
    NONE,
    OTHER,
    Exactly,
    Held,
    Items,
    Value,
    join_all,
)
from fxgrad.observe.real_types import is_a

_MOST_ROUNDS = 6
_MOST_BACKWARDS = 4


class Reader(Assignments):
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
        iterated = statement.iter.id if isinstance(statement.iter, ast.Name) else ""
        if iterated in _names_in(statement.body) and is_shared_by_holding(scope.find(iterated, state)):
            state.let_go(iterated)  # what the body does to a list changes what comes next
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
        if isinstance(made_by, Held) and is_a(
            made_by.object, MethodType
        ):  # as those that torch.no_grad() decorates use
            return _is_in_torch(type(made_by.object.__self__))
        return isinstance(made_by, Exactly) and _is_in_torch(made_by.object)

    def _try(self, statement: ast.Try, state: State, scope: Scope) -> State | None:
        failed = state.copy()
        n_returns, n_left = len(scope.returns), sum(len(loop.left) + len(loop.repeated) for loop in scope.loops)
        end = self._block(statement.orelse, self._block(statement.body, state, scope), scope)
        self._forget(statement.body, failed, scope)
        for handler in statement.handlers:
            start = failed.copy()
            if handler.name is not None:
                self.bind_name(handler.name, OTHER, start, scope)
            end = self.joined(end, self._block(handler.body, start, scope))
        if not statement.finalbody:
            return end
        if n_left != sum(len(loop.left) + len(loop.repeated) for loop in scope.loops) or _leaves(statement.finalbody):
            raise GivenUp
        # a list that is returned is still the one that the last statements may change
        returns = [
            (kept(value), self._block(statement.finalbody, at, scope)) for value, at in scope.returns[n_returns:]
        ]
        scope.returns[n_returns:] = [(value, at) for value, at in returns if at is not None]
        return self._block(statement.finalbody, end, scope)

    def _forget(self, body: list[ast.stmt], state: State, scope: Scope) -> None:
        """What the body may have done to the variables, if it was left somewhere."""
        names = _names_in(body)
        lists = {name for name in names if is_shared_by_holding(scope.find(name, state))}
        state.forget((_names_in(body, stored=True) | lists) & scope.names.assigned)

    _STATEMENTS: ClassVar[dict[type[ast.stmt], Callable[..., Any]]] = {
        ast.Expr: _expression,
        ast.Assign: Assignments.assign,
        ast.AnnAssign: Assignments.assign_annotated,
        ast.AugAssign: Assignments.assign_augmented,
        ast.Delete: Assignments.delete,
        ast.Import: Assignments.import_module,
        ast.ImportFrom: Assignments.import_from,
        ast.FunctionDef: Assignments.define,
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


def _is_in_torch(value: Any) -> bool:
    return module_of(value).partition(".")[0] == "torch"


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
