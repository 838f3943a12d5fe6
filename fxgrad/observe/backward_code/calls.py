"""What calls return in code that is not run: functions of the program are read in turn, those of torch are known by their
schemas, and any other may do and return anything."""

from __future__ import annotations

import ast
from abc import abstractmethod
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType
from typing import Any

import torch

from fxgrad.observe.backward_code.conditions import Conditions
from fxgrad.observe.backward_code.scope import Scope, names_of
from fxgrad.observe.backward_code.source import Definition, definition_of
from fxgrad.observe.backward_code.state import State, Unreachable, is_shared_by_holding, kept
from fxgrad.observe.backward_code.torch_results import is_of_torch, result_of, result_of_operator
from fxgrad.observe.backward_code.values import (
    ANYTHING,
    NONE,
    NOT_NONE,
    OTHER,
    TENSOR,
    Bound,
    Exactly,
    Items,
    Keywords,
    Kind,
    Local,
    Made,
    TensorMethod,
    Value,
    constant,
    join_all,
    kinds_of,
)
from fxgrad.observe.real_types import is_a

MOST_UNROLLED = 64
"""Rounds of a loop that are gone through one by one."""
MOST_CALLS = 8
"""Of functions inside of functions."""
_CONTAINERS = (tuple, list, dict, int, float, complex, str, bytes, bool, set, frozenset, type(None))
_DELAYED_ERROR: Any = torch._C._functions.DelayedError
"""What ``once_differentiable`` puts behind the results: None where it is given None (autograd/functions/basic_ops.cpp)."""
_OPERATORS = (BuiltinFunctionType, MethodDescriptorType, torch._ops.OpOverload, torch._ops.OpOverloadPacket)

Named = dict[str, Value]


class Calls(Conditions):
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
        looks = next((look for function, look in _LOOKERS if callee == Exactly(function)), None)
        if looks is not None and all(keyword.arg == "strict" for keyword in expression.keywords):
            return looks(self, expression, state, scope)
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
            return result_of(callee) or ANYTHING
        if is_a(callee, FunctionType):
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
        inner = callee.scope.inner(callee.definition, state if callee.scope is scope else None)
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
        numbers = range(*bounds) if bounds and len(bounds) == len(expression.args) and _are_ints(bounds) else None
        if numbers is None or len(numbers) > MOST_UNROLLED:
            return Items((), OTHER)
        return Items(tuple([Exactly(number) for number in numbers]))

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


_LOOKERS: tuple[tuple[Any, Callable[[Calls, ast.Call, State, Scope], Value]], ...] = (
    (tuple, Calls._sequence),
    (list, Calls._sequence),
    (len, Calls._length),
    (any, Calls._any_or_all),
    (all, Calls._any_or_all),
    (isinstance, Calls._is_instance),
    (zip, Calls._zipped),
    (enumerate, Calls._enumerated),
    (range, Calls._range),
    (sum, Calls._sum),
    (getattr, Calls._got),
    (hasattr, Calls._told),
    (callable, Calls._told),
    (issubclass, Calls._told),
)
"""Python's functions that keep nothing of what they are given."""


def _are_ints(values: list[Any]) -> bool:
    return all(type(value) is int for value in values) and 0 not in values[2:]


def appended(current: Items, added: Items) -> Items:
    """A list with more behind it."""
    if current.rest is None:
        return Items(current.members + added.members, added.rest, is_list=True)
    return Items(
        current.members, join_all([current.rest, added.any] if added != Items(()) else [current.rest]), is_list=True
    )


def is_instance(value: Value, kinds: list[type]) -> bool | None:
    """Whether a value is of one of the kinds; None where that is not known.

    >>> is_instance(TENSOR, [torch.Tensor]), is_instance(NONE, [torch.Tensor]), is_instance(OTHER, [tuple])
    (True, False, None)
    """
    own = _type_of(value)
    if own is None:
        return None
    if any(kind is own for kind in kinds):
        return True
    return False if all(any(kind is plain for plain in (torch.Tensor, *_CONTAINERS)) for kind in kinds) else None


def _type_of(value: Value) -> type | None:
    if isinstance(value, Items):
        return list if value.is_list else tuple
    types: dict[Kind, type] = {Kind.TENSOR: torch.Tensor, Kind.NONE: type(None)}
    return types.get(kinds_of(value))


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
    by_place = zip(names[len(names) - len(values) :], values, strict=True)
    return {name: kept(constant(value)) for name, value in (*by_place, *(function.__kwdefaults__ or {}).items())}


def _made(cls: type) -> Value:
    """What calling a class gives: an object of it, where neither its ``__new__`` nor its metaclass says otherwise."""
    if cls is _DELAYED_ERROR:
        return Made(cls)
    if issubclass(cls, torch.Tensor):
        return TENSOR if cls in (torch.Tensor, torch.nn.Parameter) else NOT_NONE
    if cls in _CONTAINERS or cls in (range, slice, torch.device, torch.Size):
        return OTHER
    plain = type(cls) is type and cls.__new__ is object.__new__
    return Made(cls) if plain else ANYTHING
