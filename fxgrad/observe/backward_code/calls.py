"""What calls return in code that is not run: functions of the program are read in turn, those of torch are known by their
schemas, and any other may do and return anything."""

from __future__ import annotations

import ast
from abc import abstractmethod
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType
from typing import Any

import torch

from fxgrad.observe.backward_code.builtins import CONTAINERS, Builtins
from fxgrad.observe.backward_code.scope import Scope, names_of
from fxgrad.observe.backward_code.source import Definition, definition_of
from fxgrad.observe.backward_code.state import State, Unreachable, is_shared_by_holding, kept
from fxgrad.observe.backward_code.torch_results import is_of_torch, result_of, result_of_operator
from fxgrad.observe.backward_code.values import (
    ANYTHING,
    MAYBE_TENSOR,
    NONE,
    NOT_NONE,
    OTHER,
    TENSOR,
    Bound,
    Exactly,
    Items,
    Keywords,
    Local,
    Made,
    TensorMethod,
    Value,
    constant,
    join_all,
)
from fxgrad.observe.real_types import is_a

MOST_CALLS = 8
"""Of functions inside of functions."""
_DELAYED_ERROR: Any = torch._C._functions.DelayedError
"""What ``once_differentiable`` puts behind the results: None where it is given None (autograd/functions/basic_ops.cpp)."""
_OPERATORS = (BuiltinFunctionType, MethodDescriptorType, torch._ops.OpOverload, torch._ops.OpOverloadPacket)

Named = dict[str, Value]


class Calls(Builtins):
    """Reads calls."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    @abstractmethod
    def run(self, scope: Scope, state: State) -> Value:
        """What a function returns that starts in a state; the state is then as the function leaves it."""

    def call(self, expression: ast.Call, state: State, scope: Scope) -> Value:
        """What a call returns, with what it does to the state."""
        listed = self._call_on_list(expression, state, scope)
        if listed is not None:
            return listed
        callee = self.look(expression.func, state, scope)
        known = self.call_of_builtin(callee, expression, state, scope)
        if known is not None:
            return known
        arguments = self.items(expression.args, state, scope)
        keywords = self._keywords(expression, state, scope)
        return self.called(callee, arguments, keywords, state, scope)

    def _keywords(self, expression: ast.Call, state: State, scope: Scope) -> Named | None:
        """The keyword arguments; None where it is not known which there are."""
        given: Named = {}
        is_known = True
        for keyword in expression.keywords:
            value = self.look(keyword.value, state, scope)
            if keyword.arg is not None:
                given[keyword.arg] = (
                    kept(self.value(keyword.value, state, scope)) if is_shared_by_holding(value) else value
                )
            elif isinstance(value, Keywords):
                given |= dict(value.by_name)
            else:
                is_known = False
        if not is_known:
            state.hand_over(given.values())
        return given if is_known else None

    def called(self, callee: Value, arguments: Items, keywords: Named | None, state: State, scope: Scope) -> Value:
        """What calling a value returns."""
        if isinstance(callee, Bound):
            inner = Items((callee.receiver, *arguments.members), arguments.rest)
            return self.called(callee.function, inner, keywords, state, scope)
        if isinstance(callee, Local):
            return self._call_local(callee, arguments, keywords, state, scope)
        if isinstance(callee, TensorMethod):
            return result_of_operator(callee.name) or ANYTHING
        if isinstance(callee, Made) and callee.cls is _DELAYED_ERROR and arguments.rest is None:
            return arguments.members[0] if len(arguments.members) == 1 else arguments
        if isinstance(callee, Exactly):
            return self._call_object(callee.object, arguments, keywords, state)
        return self.unread(arguments, keywords, state)

    def unread(self, arguments: Items, keywords: Named | None, state: State, returned: Value = ANYTHING) -> Value:
        """What is known of a call of code that is not read."""
        state.hand_over([arguments, *(keywords or {}).values()])
        return returned

    def _call_object(self, callee: Any, arguments: Items, keywords: Named | None, state: State) -> Value:
        if callee is torch.autograd.grad:
            return self.unread(arguments, keywords, state, _differentiated(arguments, keywords))
        if is_a(callee, FunctionType):
            if callee.__module__ == torch.functional.__name__ and result_of_operator(callee.__name__) is not None:
                return self.unread(arguments, keywords, state, result_of_operator(callee.__name__) or ANYTHING)
            return self._call_function(callee, arguments, keywords, state)
        if is_a(callee, type):
            return self.unread(arguments, keywords, state, _made(callee))
        if is_a(callee, _OPERATORS) and is_of_torch(callee):
            return self.unread(arguments, keywords, state, result_of(callee) or ANYTHING)
        return self.unread(arguments, keywords, state)

    # Functions of the program

    def _call_function(self, function: FunctionType, arguments: Items, keywords: Named | None, state: State) -> Value:
        definition = definition_of(function)
        bound = None
        if definition is not None and keywords is not None:
            bound = bind(definition, arguments, keywords, _defaults(function, definition))
        if definition is None or bound is None:
            return self.unread(arguments, keywords, state)
        return self._enter(Scope.of(function, definition), bound, arguments, keywords, state)

    def _call_local(self, callee: Local, arguments: Items, keywords: Named | None, state: State, scope: Scope) -> Value:
        parameters = callee.definition.args
        optional = [*parameters.posonlyargs, *parameters.args][::-1][: len(parameters.defaults)]
        optional += [
            each for each, default in zip(parameters.kwonlyargs, parameters.kw_defaults, strict=True) if default
        ]
        defaults = {each.arg: ANYTHING for each in optional}
        bound = None if keywords is None else bind(callee.definition, arguments, keywords, defaults)
        if bound is None:
            return self.unread(Items((*arguments.members, callee), arguments.rest), keywords, state)
        is_at_hand = callee.scope is scope
        if not is_at_hand:  # what it closes over is not known here: ctx may be among it
            state.hand_over([callee])
        inner = callee.scope.inner(callee.definition, state if is_at_hand else None)
        return self._enter(inner, bound, arguments, keywords, state)

    def _enter(self, scope: Scope, bound: Named, arguments: Items, keywords: Named | None, state: State) -> Value:
        if scope.names.is_generator or self._depth >= MOST_CALLS:
            return self.unread(arguments, keywords, state)
        self._depth += 1
        inner = state.called(bound)
        try:
            value = self.run(scope, inner)
        finally:
            self._depth -= 1
        state.returned(inner)
        return value

    def property_of(self, function: FunctionType, receiver: Value, state: State) -> Value:
        """What a property of an object is: the code behind it is read."""
        return self._call_function(function, Items((receiver,)), {}, state)

    # Python's own functions

    def _call_on_list(self, expression: ast.Call, state: State, scope: Scope) -> Value | None:
        """A method of a list that a variable holds; None where it is none."""
        method = expression.func
        if not (isinstance(method, ast.Attribute) and isinstance(method.value, ast.Name)):
            return None
        name = method.value.id
        found = scope.find(name, state)
        if not (isinstance(found, Items) and found.is_list):
            return None
        if method.attr not in ("append", "extend") or len(expression.args) != 1 or name not in state.variables:
            state.let_go(name)
            self.values(expression.args, state, scope)
            return ANYTHING
        if method.attr == "append":
            added = self.items(expression.args, state, scope)
            state.hand_over(added.members)
        else:
            added = self.iterated(expression.args[0], state, scope)
        current = scope.find(name, state)
        if isinstance(current, Items):
            state.variables[name] = appended(current, added)
        return NONE


def appended(current: Items, added: Items) -> Items:
    """A list with more behind it."""
    if current.rest is None:
        return Items(current.members + added.members, added.rest, is_list=True)
    return Items(
        current.members, join_all([current.rest, added.any] if added != Items(()) else [current.rest]), is_list=True
    )


def bind(definition: Definition, arguments: Items, keywords: Named, defaults: Mapping[str, Value]) -> Named | None:
    """The variables of a function when it is called; None where it is not known which gets what."""
    parameters = definition.args
    names = [each.arg for each in (*parameters.posonlyargs, *parameters.args)]
    if arguments.rest is not None and (len(arguments.members) < len(names) or parameters.vararg is None):
        return None
    bound: Named = dict(zip(names, arguments.members, strict=False))
    further = Items(arguments.members[len(names) :], arguments.rest)
    if parameters.vararg is not None:
        bound[parameters.vararg.arg] = further
    elif further.members:
        raise Unreachable
    names += [each.arg for each in parameters.kwonlyargs]
    by_name = {each.arg for each in (*parameters.args, *parameters.kwonlyargs)}
    unknown = {name: value for name, value in keywords.items() if name not in by_name}
    bound |= {name: value for name, value in keywords.items() if name in by_name}
    if parameters.kwarg is not None:
        bound[parameters.kwarg.arg] = Keywords(tuple(unknown.items()))
    elif unknown:
        raise Unreachable
    for name in names:
        if name not in bound:
            if name not in defaults:
                raise Unreachable
            bound[name] = defaults[name]
    captured = names_of(definition).captured
    return {name: kept(value) if name in captured else value for name, value in bound.items()}


def _defaults(function: FunctionType, definition: Definition) -> Named:
    names = [each.arg for each in (*definition.args.posonlyargs, *definition.args.args)]
    values = function.__defaults__ or ()
    by_place = zip(names[len(names) - len(values) :], values, strict=False)
    return {name: kept(constant(value)) for name, value in (*by_place, *(function.__kwdefaults__ or {}).items())}


_BEFORE_ALLOW_UNUSED = 5
"""Positional arguments of ``torch.autograd.grad``."""


def _differentiated(arguments: Items, keywords: Named | None) -> Value:
    """What ``torch.autograd.grad`` returns: without ``allow_unused`` it raises where there would be None."""
    given = Exactly(None) if keywords is None else keywords.get("allow_unused", Exactly(False))
    positional = arguments.rest is None and len(arguments.members) <= _BEFORE_ALLOW_UNUSED
    return Items((), TENSOR if positional and given == Exactly(False) else MAYBE_TENSOR)


def _made(cls: type) -> Value:
    """What calling a class gives: an object of it, where neither its ``__new__`` nor its metaclass says otherwise."""
    if cls is _DELAYED_ERROR:
        return Made(cls)
    if cls is torch.Tensor or cls is torch.nn.Parameter:
        return TENSOR
    if any(cls is each for each in (*CONTAINERS, range, slice, torch.device, torch.Size)):
        return OTHER
    made_by_python: Any = cls
    if type(cls) is not type or made_by_python.__new__ is not object.__new__:
        return ANYTHING
    return Made(cls) if made_by_python.__getattribute__ is object.__getattribute__ else NOT_NONE
