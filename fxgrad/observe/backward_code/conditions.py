"""Which ways lead on behind a condition of code that is not run, and what is known on each of them."""

from __future__ import annotations

import ast

import torch

from fxgrad.observe.backward_code.expressions import Branches, Expressions
from fxgrad.observe.backward_code.operations import COMPARISONS, compared
from fxgrad.observe.backward_code.scope import Scope
from fxgrad.observe.backward_code.state import State, Unreachable, kept
from fxgrad.observe.backward_code.values import (
    CONTEXT,
    NONE,
    NOT_NONE,
    OTHER,
    Exactly,
    Kind,
    Value,
    join_all,
    kinds_of,
    narrowed,
    truth,
)


class Conditions(Expressions):
    """Reads conditions."""

    def branches(self, test: ast.expr, state: State, scope: Scope) -> Branches:
        """Take both ways behind a condition, as far as there are two. The state is used up."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            value, true, false = self.branches(test.operand, state, scope)
            known = truth(value)
            return OTHER if known is None else Exactly(not known), false, true
        if isinstance(test, ast.BoolOp):
            return self._connected(test, state, scope)
        if isinstance(test, ast.Compare):
            return self._compared(test, state, scope)
        tested = self._tested_for_tensor(test, state, scope)
        value = self.value(test, state, scope)
        if tested is not None:
            others = Kind.NONE | Kind.OTHER
            return self._split(tested, value, state, scope, truth(value), if_true=others, if_false=Kind.TENSOR)
        return self._split(test, value, state, scope, truth(value), if_true=Kind.NONE)

    def _tested_for_tensor(self, test: ast.expr, state: State, scope: Scope) -> ast.expr | None:
        """What a condition calls a tensor where it is true: the argument of ``isinstance(argument, torch.Tensor)``."""
        if not (isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and len(test.args) == 2):  # noqa: PLR2004
            return None
        if scope.find(test.func.id, state) != Exactly(isinstance) or not isinstance(
            test.args[1], ast.Attribute | ast.Name
        ):
            return None
        return test.args[0] if self.look(test.args[1], state, scope) == Exactly(torch.Tensor) else None

    def _split(
        self,
        subject: ast.expr,
        value: Value,
        state: State,
        scope: Scope,
        known: bool | None,
        *,
        if_true: Kind | None = None,
        if_false: Kind | None = None,
    ) -> Branches:
        """Both ways, or the one that is `known`; `subject` is then not of the kinds that the way rules out."""
        true, false = (None if known is False else state.copy()), (None if known is True else state.copy())
        for path, ruled_out in ((true, if_true), (false, if_false)):
            if path is not None and ruled_out is not None:
                self._narrow(subject, ruled_out, path, scope)
        return value, true, false

    def _narrow(self, subject: ast.expr, without: Kind, state: State, scope: Scope) -> None:
        if isinstance(subject, ast.NamedExpr):
            subject = subject.target
        if isinstance(subject, ast.Name) and subject.id in scope.names.assigned:
            state.variables[subject.id] = narrowed(scope.find(subject.id, state), without)
        elif isinstance(subject, ast.Attribute) and self.look(subject.value, state, scope) == CONTEXT:
            state.context[subject.attr] = narrowed(self.attribute(CONTEXT, subject.attr, state), without)

    def _connected(self, test: ast.BoolOp, state: State, scope: Scope) -> Branches:
        """``and`` goes on where the condition so far is true, ``or`` where it is not."""
        goes_on_if = isinstance(test.op, ast.And)
        going: State | None = state
        ended: State | None = None
        values: list[Value] = []
        for number, operand in enumerate(test.values):
            assert going is not None
            try:
                value, true, false = self.branches(operand, going, scope)
            except Unreachable:
                if number == 0:
                    raise
                going = None
                break
            going, stops = (true, false) if goes_on_if else (false, true)
            last = number == len(test.values) - 1
            if last or stops is not None:
                values.append(value if last or goes_on_if else narrowed(value, Kind.NONE))
            ended = self.joined(ended, stops)
            if going is None:
                break
        if going is None and ended is None:
            raise Unreachable
        value = kept(join_all(values))
        return (value, going, ended) if goes_on_if else (value, ended, going)

    def _compared(self, test: ast.Compare, state: State, scope: Scope) -> Branches:
        if len(test.ops) > 1:
            values = self.values([test.left, *test.comparators], state, scope)
            may_be_tensor = any(Kind.TENSOR in kinds_of(value) for value in values)
            return (NOT_NONE if may_be_tensor else OTHER), state.copy(), state.copy()
        ((comparison, right_side),) = zip(test.ops, test.comparators, strict=True)
        left, right = self.value(test.left, state, scope), self.value(right_side, state, scope)
        if isinstance(comparison, (ast.Is, ast.IsNot)) and right == NONE:
            return self._compared_to_none(test.left, left, state, scope, is_none=isinstance(comparison, ast.Is))
        known = compared(comparison, left, right)
        if known is not None:
            return Exactly(known), (state if known else None), (None if known else state)
        may_be_tensor = Kind.TENSOR in kinds_of(left) | kinds_of(right)
        value = NOT_NONE if may_be_tensor and type(comparison) in COMPARISONS else OTHER
        return value, state.copy(), state.copy()

    def _compared_to_none(
        self, subject: ast.expr, value: Value, state: State, scope: Scope, *, is_none: bool
    ) -> Branches:
        kinds = kinds_of(value)
        known = None if Kind.NONE in kinds and kinds is not Kind.NONE else (kinds is Kind.NONE) == is_none
        not_none, none = Kind.NONE, Kind.TENSOR | Kind.OTHER
        if_true, if_false = (none, not_none) if is_none else (not_none, none)
        told = OTHER if known is None else Exactly(known)
        return self._split(subject, told, state, scope, known, if_true=if_true, if_false=if_false)
