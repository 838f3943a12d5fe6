"""Reads what a hook returns from its code, before it runs. Nothing is called.

A call of an unknown function may give anything.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType
from typing import Any

import torch
from msgspec.structs import replace

from fxgrad.graph import HookKind, HookReturn
from fxgrad.graph.hook_kinds import HookArguments
from fxgrad.graph.records import ReturnKind
from fxgrad.observe.autograd.backward_code import returns_one_tensor
from fxgrad.observe.autograd.code_reader import CodeReader, find_names
from fxgrad.observe.autograd.python_code import (
    UNKNOWN,
    find_definition,
    find_function,
    look_up_attribute,
    makes_an_object,
    may_return_a_value,
)
from fxgrad.observe.real_types import is_a

_NONE, _TENSOR, _OTHER, _ANYTHING = HookReturn("none"), HookReturn("tensor"), HookReturn("other"), HookReturn("unknown")
_ARGUMENTS = {
    HookArguments.NODE_GRADIENTS: ("grad_input", "grad_output"),
    HookArguments.NODE_GRAD_OUTPUT: ("grad_output",),
    HookArguments.CALL_GRADIENTS: ("grad_input", "grad_output"),
    HookArguments.CALL_GRAD_OUTPUT: ("grad_output",),
    HookArguments.GRADIENT: ("gradient",),
    HookArguments.LEAF: ("leaf",),
}
_TUPLES = ("grad_input", "grad_output")
_IN_PLACE = "_"
_CASTS = {"half": "float16", "bfloat16": "bfloat16", "float": "float32", "double": "float64"}
_REDUCTIONS = ("max", "mean", "min", "norm", "prod", "std", "sum", "var")
"""Methods that return a tensor of shape () where they get no argument."""
_CHANGES_A_BUILTIN: dict[type, tuple[str, ...]] = {
    list: ("append", "extend", "insert", "clear", "remove", "reverse", "sort"),
    dict: ("update", "clear"),
}
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)

Variables = dict[str, HookReturn]
"""What the local variables stand for. One that is missing may be anything."""


def find_returns(function: Any, kind: HookKind) -> tuple[HookReturn, ...]:
    """What a hook of this kind may return: one `HookReturn` for each way to an end of its code; () if it cannot be read."""
    plain = find_function(function)
    definition = None if plain is None or makes_an_object(plain.__code__) else find_definition(plain)
    names = None if definition is None else find_names(definition)
    if plain is None or definition is None or names is None:
        return ()
    returned = _Reader(plain, definition, names).read_returned(_name_arguments(function, plain, kind))
    return tuple(dict.fromkeys(returned))


def changes_leaf(function: Any, kind: HookKind) -> bool:
    """Whether the code of a post-accumulate hook changes the leaf that it gets in place, and never reads its ``.grad``."""
    plain = find_function(function)
    definition = None if plain is None else find_definition(plain)
    if plain is None or definition is None or kind.arguments is not HookArguments.LEAF:
        return False
    name = next(iter(_name_arguments(function, plain, kind)), None)
    nodes = [node for node in ast.walk(definition) if not isinstance(node, _SCOPES) or node is definition]
    stores = [node for node in nodes if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr | ast.For)]
    reads_grad = any(isinstance(node, ast.Attribute) and node.attr == "grad" for node in nodes)
    renamed = any(isinstance(each, ast.Name) and each.id == name for node in stores for each in _list_targets(node))
    return not reads_grad and not renamed and any(_changes(node, name) for node in nodes)


def _list_targets(node: Any) -> Iterable[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def _changes(node: ast.AST, name: str | None) -> bool:
    """``p /= 2``, ``p.mul_(2)`` or ``p[0] = 0``."""
    changed: list[ast.expr] = []
    if isinstance(node, ast.AugAssign):
        changed = [node.target]
    elif isinstance(node, ast.Assign):
        changed = [target.value for target in node.targets if isinstance(target, ast.Subscript)]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_in_place(node.func.attr):
        changed = [node.func.value]
    data = [each.value for each in changed if isinstance(each, ast.Attribute) and each.attr == "data"]
    return any(isinstance(each, ast.Name) and each.id == name for each in (*changed, *data))


def _is_in_place(method: str) -> bool:
    return method.endswith(_IN_PLACE) and not method.endswith("__") and method != "requires_grad_"


def _name_arguments(function: Any, plain: FunctionType, kind: HookKind) -> Variables:
    """The names of the arguments that PyTorch passes, which come after those of a partial and ``self``."""
    bound = 0
    while is_a(function, functools.partial):
        if set(function.keywords) & set(plain.__code__.co_varnames[: plain.__code__.co_argcount]):
            return {}
        bound += len(function.args)
        function = function.func
    bound += not is_a(function, FunctionType)
    code = plain.__code__
    names = code.co_varnames[bound : code.co_argcount][kind.is_module :]
    return {
        name: _make_argument(argument)
        for name, argument in zip(names, _ARGUMENTS.get(kind.arguments, ()), strict=False)
    }


def _make_argument(name: str) -> HookReturn:
    if name in _TUPLES:
        return HookReturn("tuple", (HookReturn("argument"),), (name, 0, None))
    return HookReturn("argument", None, (name, 0, None))


class _Reader(CodeReader[HookReturn]):
    """Reads the code of one hook."""

    NONE, ANYTHING = _NONE, _ANYTHING

    def join(self, one: HookReturn, other: HookReturn) -> HookReturn:
        return one if one == other else _ANYTHING

    def operate(self, _: ast.operator, left: HookReturn, __: HookReturn, /) -> HookReturn:
        return left if _is_tensor(left) else _ANYTHING  # in place: the name stands for the same tensor

    def take_member(self, value: HookReturn, place: int) -> HookReturn:
        return _take(value, ast.Constant(place))

    def keep(self, value: HookReturn) -> HookReturn:
        return HookReturn("list") if value.kind == "list" else value  # a list may change later

    def value(self, expression: ast.expr, state: Variables) -> HookReturn:
        match expression:
            case ast.Constant(value=value):
                return _NONE if value is None else _OTHER
            case ast.Name(id=name):
                return state.get(name, _ANYTHING)
            case ast.Tuple(elts=members) | ast.List(elts=members):
                kind: ReturnKind = "tuple" if isinstance(expression, ast.Tuple) else "list"
                starred = any(isinstance(member, ast.Starred) for member in members)
                return HookReturn(kind, None if starred else tuple([self.value(each, state) for each in members]))
            case ast.ListComp():
                return self._read_each(expression, state, "list")
            case ast.Attribute(attr="data"):
                return _TENSOR if _is_tensor(self.value(expression.value, state)) else _ANYTHING
            case ast.Subscript():
                return _take(self.value(expression.value, state), expression.slice)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Invert()):
                return _TENSOR if _is_tensor(self.value(expression.operand, state)) else _ANYTHING
            case ast.BinOp():
                operands = self.value(expression.left, state), self.value(expression.right, state)
                return _TENSOR if any(map(_is_tensor, operands)) else _ANYTHING
            case ast.Call():
                return self._call(expression, state)
            case _:
                return _ANYTHING

    def _read_each(self, made: ast.ListComp | ast.GeneratorExp, state: Variables, kind: ReturnKind) -> HookReturn:
        """One member for each entry of an argument, as in ``[-g for g in grad_output]``."""
        loop = made.generators[0]
        if len(made.generators) > 1 or loop.ifs or loop.is_async or not isinstance(loop.target, ast.Name):
            return HookReturn(kind)
        entries = self.value(loop.iter, state)
        if entries.each is None or entries.members is None:
            return HookReturn(kind)
        member = self.value(made.elt, {**state, loop.target.id: entries.members[0]})
        return HookReturn(kind, (member,), entries.each)

    def _call(self, call: ast.Call, state: Variables) -> HookReturn:
        callee = self.find_object(call.func)
        if (callee is tuple or callee is list) and len(call.args) == 1:
            (argument,) = call.args
            kind: ReturnKind = "tuple" if callee is tuple else "list"
            if isinstance(argument, ast.GeneratorExp):
                return self._read_each(argument, state, kind)
            given = self.value(argument, state)
            return replace(given, kind=kind) if given.kind in ("tuple", "list") else HookReturn(kind)
        if isinstance(call.func, ast.Attribute) and callee is UNKNOWN:
            return self._call_method(call.func, state, has_no_arguments=not call.args and not call.keywords)
        if callee is print or (is_a(callee, FunctionType) and may_return_a_value(callee) is False):
            return _NONE
        is_operator = is_a(callee, BuiltinFunctionType) and returns_one_tensor(callee)
        return _TENSOR if is_operator and "out" not in [keyword.arg for keyword in call.keywords] else _ANYTHING

    def _call_method(self, method: ast.Attribute, state: Variables, *, has_no_arguments: bool) -> HookReturn:
        owner = self.find_object(method.value)
        if method.attr in _CHANGES_A_BUILTIN.get(type(owner), ()):
            return _NONE
        value = self.value(method.value, state)
        if _is_tensor(value) and has_no_arguments and method.attr in _CASTS:
            return HookReturn("tensor", dtype=_CASTS[method.attr])
        if _is_tensor(value) and has_no_arguments and method.attr in _REDUCTIONS:
            return HookReturn("tensor", is_scalar=True)
        function = look_up_attribute(torch.Tensor, method.attr)
        if not _is_tensor(value) or not is_a(function, MethodDescriptorType):
            return _ANYTHING
        if _is_in_place(method.attr):
            return value
        return _TENSOR if returns_one_tensor(function) else _ANYTHING


def _is_tensor(value: HookReturn) -> bool:
    return value.kind in ("tensor", "argument")


def _take(value: HookReturn, index: ast.expr) -> HookReturn:
    """``grad_input[0]``, ``grad_output[:1]``."""
    if _is_tensor(value):
        return _TENSOR
    if value.each is None or value.each[1:] != (0, None) or value.members is None:
        return _ANYTHING
    (member,), name = value.members, value.each[0]
    if isinstance(index, ast.Slice):
        bounds = [_read_number(bound) for bound in (index.lower, index.upper)]
        if index.step is not None or any(bound is UNKNOWN for bound in bounds):
            return HookReturn(value.kind)
        return HookReturn(value.kind, value.members, (name, bounds[0] or 0, bounds[1]))
    number = _read_number(index)
    if number is UNKNOWN or number is None or value.kind not in ("tuple", "list"):
        return _ANYTHING
    if member.kind != "argument":
        return member
    return HookReturn("argument", None, (name, number, number + 1 if number != -1 else None))


def _read_number(index: ast.expr | None) -> Any:
    if index is None:
        return None
    if isinstance(index, ast.UnaryOp) and isinstance(index.op, ast.USub) and isinstance(index.operand, ast.Constant):
        number: Any = index.operand.value
        return -number if type(number) is int else UNKNOWN
    value: Any = index.value if isinstance(index, ast.Constant) else UNKNOWN
    return value if type(value) is int else UNKNOWN
