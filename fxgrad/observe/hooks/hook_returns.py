"""Reads what a hook returns from its code, before it runs. Nothing is called.

It reads assignments, ``if`` and ``return``. A loop, ``with``, ``try`` or a call of an unknown function may give anything.
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
from fxgrad.observe.autograd.backward_code import find_bound_names, returns_one_tensor
from fxgrad.observe.autograd.python_code import (
    MANAGERS,
    UNKNOWN,
    find_definition,
    find_function,
    look_up_attribute,
    look_up_name,
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
_CHANGES_A_BUILTIN: dict[type, tuple[str, ...]] = {
    list: ("append", "extend", "insert", "clear", "remove", "reverse", "sort"),
    dict: ("update", "clear"),
}
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_UNFOLLOWED = (ast.NamedExpr, ast.Nonlocal, ast.Global, ast.Delete, ast.Match)
_DEEPEST = 100
"""Levels of a syntax tree: reading one recurses."""

Variables = dict[str, HookReturn]
"""What the local variables stand for. One that is missing may be anything."""


def find_returns(function: Any, kind: HookKind) -> tuple[HookReturn, ...]:
    """What a hook of this kind may return: one `HookReturn` for each way to an end of its code; () if it cannot be read."""
    plain = find_function(function)
    definition = None if plain is None or makes_an_object(plain.__code__) else find_definition(plain)
    if plain is None or definition is None or _is_unfollowed(definition):
        return ()
    reader = _Reader(plain)
    variables = _name_arguments(function, plain, kind)
    if isinstance(definition, ast.Lambda):
        return (reader.read(definition.body, variables),)
    if reader.runs_through(definition.body, variables):
        reader.found.append(_NONE)
    return tuple(dict.fromkeys(reader.found))


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


def _is_unfollowed(definition: ast.AST) -> bool:
    """Whether the code is deeper than is read, or does what may give a local variable another value unseen."""
    level: list[ast.AST] = [definition]
    for _ in range(_DEEPEST):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if any(isinstance(node, _UNFOLLOWED) for node in level):
            return True
    return bool(level)


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


class _Reader:
    """Reads the code of one function. ``found`` is what its ``return`` statements give, in order."""

    def __init__(self, function: FunctionType) -> None:
        self._function = function
        self.found: list[HookReturn] = []

    # Statements

    def runs_through(self, statements: Iterable[ast.stmt], variables: Variables) -> bool:
        """Whether the code after these statements may run. What is known of `variables` changes."""
        return all(self._run(statement, variables) for statement in statements)  # stops at the first that ends

    def _run(self, statement: ast.stmt, variables: Variables) -> bool:
        match statement:
            case ast.Return():
                self.found.append(_NONE if statement.value is None else self.read(statement.value, variables))
                return False
            case ast.Raise():
                return False
            case ast.If():
                return self._choose(statement, variables)
            case ast.Assign(targets=[ast.Name(id=name)]):
                value = self.read(statement.value, variables)
                variables[name] = HookReturn("list") if value.kind == "list" else value  # a list may change later
            case ast.With() if all(self._lets_errors_through(item) for item in statement.items):
                return self.runs_through(statement.body, variables)
            case ast.AugAssign(target=ast.Name(id=name)) if _is_tensor(variables.get(name, _ANYTHING)):
                pass  # in place: the name stands for the same tensor
            case _:
                return self._skip(statement, variables)
        return True

    def _choose(self, statement: ast.If, variables: Variables) -> bool:
        other = dict(variables)
        ends = self.runs_through(statement.body, variables), self.runs_through(statement.orelse, other)
        if not ends[0]:
            variables.clear()
            variables.update(other)
        elif ends[1]:
            for name in [name for name in variables if variables[name] != other.get(name)]:
                del variables[name]
        return any(ends)

    def _lets_errors_through(self, item: ast.withitem) -> bool:
        manager = item.context_expr
        found = self._find(manager.func) if isinstance(manager, ast.Call) else UNKNOWN
        return item.optional_vars is None and any(found is each for each in MANAGERS)

    def _skip(self, statement: ast.stmt, variables: Variables) -> bool:
        """A statement that is not followed: what it assigns may be anything, and it may return."""
        for name in find_bound_names(statement):
            variables.pop(name, None)
        for block in _list_blocks(statement):
            self.runs_through(block, dict(variables))
        return True

    # Expressions

    def read(self, expression: ast.expr, variables: Variables) -> HookReturn:
        """What is known of the value of an expression."""
        match expression:
            case ast.Constant(value=value):
                return _NONE if value is None else _OTHER
            case ast.Name(id=name):
                return variables.get(name, _ANYTHING)
            case ast.Tuple(elts=members) | ast.List(elts=members):
                kind: ReturnKind = "tuple" if isinstance(expression, ast.Tuple) else "list"
                starred = any(isinstance(member, ast.Starred) for member in members)
                return HookReturn(kind, None if starred else tuple([self.read(each, variables) for each in members]))
            case ast.ListComp():
                return self._read_each(expression, variables, "list")
            case ast.Attribute(attr="data"):
                return _TENSOR if _is_tensor(self.read(expression.value, variables)) else _ANYTHING
            case ast.Subscript():
                return _take(self.read(expression.value, variables), expression.slice)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Invert()):
                return _TENSOR if _is_tensor(self.read(expression.operand, variables)) else _ANYTHING
            case ast.BinOp():
                operands = self.read(expression.left, variables), self.read(expression.right, variables)
                return _TENSOR if any(map(_is_tensor, operands)) else _ANYTHING
            case ast.Call():
                return self._call(expression, variables)
            case _:
                return _ANYTHING

    def _read_each(self, made: ast.ListComp | ast.GeneratorExp, variables: Variables, kind: ReturnKind) -> HookReturn:
        """One member for each entry of an argument, as in ``[-g for g in grad_output]``."""
        loop = made.generators[0]
        if len(made.generators) > 1 or loop.ifs or loop.is_async or not isinstance(loop.target, ast.Name):
            return HookReturn(kind)
        entries = self.read(loop.iter, variables)
        if entries.each is None or entries.members is None:
            return HookReturn(kind)
        member = self.read(made.elt, {**variables, loop.target.id: entries.members[0]})
        return HookReturn(kind, (member,), entries.each)

    def _call(self, call: ast.Call, variables: Variables) -> HookReturn:
        callee = self._find(call.func)
        if (callee is tuple or callee is list) and len(call.args) == 1:
            (argument,) = call.args
            kind: ReturnKind = "tuple" if callee is tuple else "list"
            if isinstance(argument, ast.GeneratorExp):
                return self._read_each(argument, variables, kind)
            given = self.read(argument, variables)
            return replace(given, kind=kind) if given.kind in ("tuple", "list") else HookReturn(kind)
        if isinstance(call.func, ast.Attribute) and callee is UNKNOWN:
            return self._call_method(call.func, variables)
        if callee is print or (is_a(callee, FunctionType) and may_return_a_value(callee) is False):
            return _NONE
        is_operator = is_a(callee, BuiltinFunctionType) and returns_one_tensor(callee)
        return _TENSOR if is_operator and "out" not in [keyword.arg for keyword in call.keywords] else _ANYTHING

    def _call_method(self, method: ast.Attribute, variables: Variables) -> HookReturn:
        owner = self._find(method.value)
        if method.attr in _CHANGES_A_BUILTIN.get(type(owner), ()):
            return _NONE
        value = self.read(method.value, variables)
        function = look_up_attribute(torch.Tensor, method.attr)
        if not _is_tensor(value) or not is_a(function, MethodDescriptorType):
            return _ANYTHING
        if _is_in_place(method.attr):
            return value
        return _TENSOR if returns_one_tensor(function) else _ANYTHING

    def _find(self, expression: ast.expr) -> Any:
        """The object that a dotted name stands for, if it is not a local variable's."""
        if isinstance(expression, ast.Name):
            own = self._function.__code__.co_varnames
            return UNKNOWN if expression.id in own else look_up_name(self._function, expression.id)
        if isinstance(expression, ast.Attribute):
            owner = self._find(expression.value)
            return look_up_attribute(owner, expression.attr) if is_a(owner, type(torch)) else UNKNOWN
        return UNKNOWN


def _list_blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    if isinstance(statement, _SCOPES):
        return []
    handlers = [handler.body for handler in getattr(statement, "handlers", [])]
    return [*[getattr(statement, name, []) for name in ("body", "orelse", "finalbody")], *handlers]


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
