"""Reads the code of a custom Function's ``backward`` without running it: for each argument of forward, does it return
None or a Tensor?

It follows tests of ``ctx.needs_input_grad`` and tests against None, and takes the results of torch's operators from their
schemas. A list or a call of any other function may give anything, so what it says holds in every run. It relies on this: until backward runs, functions and
modules stay what they are, and ``ctx`` keeps what forward left there, unless backward itself changes it; and no operator
(``a * b``) returns None.
"""

from __future__ import annotations

import ast
import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache, reduce
from operator import or_
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType
from typing import Any, NamedTuple, TypeAlias

import torch

from fxgrad.observe.autograd.code_reader import CodeReader, Names, find_bound_names, find_names, list_statements
from fxgrad.observe.autograd.python_code import Definition, find_definition, look_up_attribute, makes_an_object
from fxgrad.observe.real_types import is_a


class ValueKind(enum.Flag):
    """What a value may be.

    ``NONE``     None
    ``ONE``      a Tensor, or a number, which backward cannot return as a gradient (it raises)
    ``SEVERAL``  a text, a size, a tuple of Tensors: nothing in them is None, so they need not be told from Tensors either,
                 but where values are counted
    ``TENSOR``   one of the two
    ``OTHER``    any other object
    """

    NONE = enum.auto()
    ONE = enum.auto()
    SEVERAL = enum.auto()
    TENSOR = ONE | SEVERAL
    OTHER = enum.auto()


KnownValue: TypeAlias = "ValueKind | int | tuple[KnownValue, ...]"
"""What is known of a value: what it may be, the very number (or bool), or each member of a tuple."""
Variables = dict[str, KnownValue]
"""The values of local variables. One that is missing may be anything."""


class ReturnedKinds(NamedTuple):
    """What a backward returns.

    ``kinds``    for each argument of forward, what it may be
    ``refused``  how many values it returns, where PyTorch refuses that number; None where it may return as many as it must
    ``ends``     whether it may come to an end: False where its code always raises
    """

    kinds: list[ValueKind]
    refused: int | None = None
    ends: bool = True


Answers = dict[Any, list[ReturnedKinds]]

NONE, ONE, TENSOR, OTHER = ValueKind.NONE, ValueKind.ONE, ValueKind.TENSOR, ValueKind.OTHER
MAYBE_TENSOR, NOT_NONE, ANYTHING = NONE | ONE, TENSOR | OTHER, NONE | TENSOR | OTHER
_MOST_MEMBERS = 1_000
"""Of a tuple that is followed."""


def describe_constant(value: Any) -> KnownValue:
    """What is known of an object that stays what it is. Nothing of it is called.

    >>> describe_constant((None, True, torch.ones(3), [])) == (NONE, True, ONE, OTHER)
    True
    """
    if type(value) is tuple:
        return make_tuple(
            [OTHER if type(member) is tuple else describe_constant(member) for member in value[: _MOST_MEMBERS + 1]]
        )
    if type(value) is bool or type(value) is int:
        return value
    if is_a(value, torch.Tensor) or type(value) in (float, complex):
        return ONE
    return NONE if value is None else TENSOR if type(value) in (str, torch.dtype, torch.Size) else OTHER


def make_tuple(members: Sequence[KnownValue]) -> KnownValue:
    """A tuple. Tuples inside it are not followed: few statements can nest many."""
    if len(members) > _MOST_MEMBERS:
        return OTHER
    return tuple([OTHER if isinstance(member, tuple) else member for member in members])


def kinds_of(value: KnownValue) -> ValueKind:
    """What a value may be."""
    if isinstance(value, ValueKind):
        return value
    return ONE if isinstance(value, int) else OTHER


def is_tensor(value: KnownValue) -> bool:
    """Whether an operation that only Tensors allow gets one, unless it raises."""
    kinds = kinds_of(value) & ~NONE
    return bool(kinds) and kinds in TENSOR


def truth_of(value: KnownValue) -> bool | None:
    """Whether a value counts as true; None where that is not known."""
    if isinstance(value, ValueKind):
        return False if value == NONE else None
    return bool(value)


def join_values(one: KnownValue, other: KnownValue) -> KnownValue:
    """What is known of a value that is one of the two.

    >>> join_values((NONE, ONE), (ONE, ONE)) == (MAYBE_TENSOR, ONE)
    True
    """
    if one == other and type(one) is type(other):
        return one
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        return tuple(map(join_values, one, other))
    return kinds_of(one) | kinds_of(other)


def _is_one(value: KnownValue) -> bool:
    """Whether an operation that None does not allow gets one Tensor or number, unless it raises."""
    return kinds_of(value) & ~NONE == ONE


def read_returned_kinds(
    function: FunctionType,
    cases: tuple[tuple[KnownValue, ...], ...],
    context: Callable[[str], KnownValue],
    n_arguments: int,
    answers: Answers,
) -> list[ReturnedKinds]:
    """What a backward returns for each of `n_arguments` arguments of forward, in several cases.

    A case is the gradients that backward receives. `context` says what an attribute of ``ctx`` holds when it begins.
    `answers` keeps what was read, for further nodes of the same Function; as global names may change, not for longer.
    """
    definition = None if makes_an_object(function.__code__) else find_definition(function)
    names = None if definition is None else find_names(definition)
    found = None if definition is None or names is None else _find_context(definition)
    if definition is None or names is None or found is None:
        return [ReturnedKinds([ANYTHING] * n_arguments)] * len(cases)
    held = {name: context(name) for name in found[1]}
    key = function, cases, tuple(held.values()), n_arguments
    if key not in answers:
        rows = [_Reader(function, definition, names, found[0], held).read(gradients) for gradients in cases]
        answers[key] = [_describe_rows(case, n_arguments) for case in rows]
    return answers[key]


def _describe_rows(rows: Sequence[KnownValue], n_arguments: int) -> ReturnedKinds:
    kinds = [_entry(rows, place) for place in range(n_arguments)]
    counts = [_count_refused(row, n_arguments) for row in rows]
    return ReturnedKinds(kinds, counts[0] if counts and None not in counts else None, ends=bool(rows))


def _count_refused(row: KnownValue, n_arguments: int) -> int | None:
    """How many values a backward returns, where that raises; None where it does not, or is not known.

    Anything but a tuple is one value. What is too much may be there if it is None (torch/csrc/autograd/python_function.cpp,
    ``PyNode::apply``).
    """
    if isinstance(row, tuple):
        is_refused = len(row) < n_arguments or any(NONE not in kinds_of(member) for member in row[n_arguments:])
        return len(row) if is_refused else None
    is_one = not kinds_of(row) & ~(NONE | ONE)
    return 1 if is_one and n_arguments != 1 else None


def _entry(rows: Iterable[KnownValue], place: int) -> ValueKind:
    """What backward returns for one argument, where it returns one of these rows.

    A value that is neither None nor a Tensor raises, and so does a wrong number of values
    (torch/csrc/autograd/python_function.cpp, ``to_variable_list``).
    """
    kinds = ValueKind(0)
    for row in rows:
        if isinstance(row, tuple):
            kinds |= kinds_of(row[place]) & ~OTHER if place < len(row) else ValueKind(0)
        else:
            kinds |= ANYTHING if OTHER in kinds_of(row) else kinds_of(row)  # any other object may be a tuple
    return kinds | TENSOR if ONE in kinds else kinds or ANYTHING


# Names


@lru_cache(maxsize=512)
def _find_context(definition: Definition) -> tuple[str, frozenset[str]] | None:
    """The parameter of a backward for ``ctx``, and the attributes of it that the code uses and does not change.

    None where the code binds that name to something else.
    """
    context, *_ = [each.arg for each in (*definition.args.posonlyargs, *definition.args.args)] or [""]
    nodes = [node for statement in list_statements(definition) for node in ast.walk(statement)]
    if context in {"", *set().union(*map(find_bound_names, list_statements(definition)))}:
        return None
    return context, _kept_attributes(nodes, context)


def _kept_attributes(nodes: Iterable[ast.AST], context: str) -> frozenset[str]:
    """The attributes of ``ctx`` that the code uses and does not change.

    Where the code does anything with ``ctx`` but look an attribute up, it may change all of them but saved tensors.
    """
    used, changed = set[str](), set[str]()
    n_names = n_owners = 0
    for node in nodes:
        n_names += isinstance(node, ast.Name) and node.id == context
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == context:
            n_owners += not node.attr.startswith("__")
            (used if isinstance(node.ctx, ast.Load) else changed).add(node.attr)
    return frozenset(used - changed if n_names == n_owners else used & {"saved_tensors"})


# Expressions


class _Reader(CodeReader[KnownValue]):
    """Goes through the code of a backward with what is known of the values of its variables."""

    NONE, ANYTHING = NONE, ANYTHING

    def __init__(
        self, function: FunctionType, definition: Definition, names: Names, context: str, held: Mapping[str, KnownValue]
    ) -> None:
        super().__init__(function, definition, names)
        self._context = context
        self._held = held

    def read(self, gradients: tuple[KnownValue, ...]) -> list[KnownValue]:
        """What each ``return`` gives that may be reached; nothing where backward raises."""
        parameters = self._definition.args
        names = [each.arg for each in (*parameters.posonlyargs, *parameters.args)][1:]
        start: Variables = dict(zip(names, gradients, strict=False))
        if parameters.vararg is not None:
            start[parameters.vararg.arg] = gradients[len(names) :]
        elif len(gradients) > len(names):
            return []
        return self.read_returned(start)

    def branches(self, choice: ast.If | ast.IfExp, state: Variables) -> Iterator[tuple[Any, Variables]]:
        known = truth_of(self.value(choice.test, state))
        for outcome, branch in ((True, choice.body), (False, choice.orelse)):
            if known is None or known is outcome:
                narrowed = dict(state)
                _narrow(choice.test, outcome, narrowed)
                yield branch, narrowed

    def join(self, one: KnownValue, other: KnownValue) -> KnownValue:
        return join_values(one, other)

    def operate(self, op: ast.operator, left: KnownValue, right: KnownValue, /) -> KnownValue:
        return _operate(op, left, right)

    def take_member(self, value: KnownValue, place: int) -> KnownValue:
        return _member(value, place)

    def value(self, expression: ast.expr, state: Variables) -> KnownValue:
        match expression:
            case ast.Constant(value=value):
                return describe_constant(value)
            case ast.Name(id=name):
                return state.get(name, ANYTHING)
            case ast.Attribute(value=ast.Name(id=self._context), attr=name):
                return self._held.get(name, ANYTHING)
            case ast.Attribute(value=owner, attr=name):
                return TENSOR if name in _TENSOR_ATTRIBUTES and is_tensor(self.value(owner, state)) else ANYTHING
            case ast.Tuple(elts=members):
                return self._tuple(members, state)
            case ast.Subscript(value=container, slice=index):
                return self._subscript(self.value(container, state), index, state)
            case ast.BinOp(left=left, op=op, right=right):
                return _operate(op, self.value(left, state), self.value(right, state))
            case ast.UnaryOp(op=op, operand=operand):
                return _operate_on_one(op, self.value(operand, state))
            case ast.Compare(left=left, ops=ops, comparators=others):
                return _compare(ops, [self.value(each, state) for each in (left, *others)])
            case ast.BoolOp(op=op, values=operands):
                return self._choose(operands, state, until=isinstance(op, ast.Or))
            case ast.IfExp():
                return reduce(join_values, [self.value(each, then) for each, then in self.branches(expression, state)])
            case ast.Call(func=function, args=arguments):
                return self._call(function, arguments, state)
        return ANYTHING

    def _tuple(self, members: Iterable[ast.expr], state: Variables) -> KnownValue:
        known: list[KnownValue] = []
        for member in members:
            if not isinstance(member, ast.Starred):
                known.append(self.value(member, state))
            elif isinstance(inner := self.value(member.value, state), tuple):
                known += inner
            else:
                return OTHER
        return make_tuple(known)

    def _subscript(self, container: KnownValue, index: ast.expr, state: Variables) -> KnownValue:
        if not isinstance(index, ast.Slice) or not isinstance(container, tuple):
            return _member(container, self.value(index, state))
        ends = [None if end is None else self.value(end, state) for end in (index.lower, index.upper, index.step)]
        known: list[Any] = [end for end in ends if end is None or isinstance(end, int)]
        return container[slice(*known)] if len(known) == len(ends) and known[2] != 0 else OTHER

    def _choose(self, operands: list[ast.expr], state: Variables, *, until: bool) -> KnownValue:
        """``or`` gives the first operand that is true, ``and`` the first that is false; where there is none, the last."""
        possible: list[KnownValue] = []
        for operand in operands:
            value = self.value(operand, state)
            if truth_of(value) in (None, until) or operand is operands[-1]:
                possible.append(value)
            if truth_of(value) is until:
                break
        return reduce(join_values, possible)

    def _call(self, callee: ast.expr, arguments: list[ast.expr], state: Variables) -> KnownValue:
        if isinstance(callee, ast.Attribute) and is_tensor(self.value(callee.value, state)):
            return _kind_of_call(look_up_attribute(torch.Tensor, callee.attr))
        function = self.find_object(callee)
        if not (function is any or function is all) or len(arguments) != 1:
            return _kind_of_call(function)
        looked_at = self.value(arguments[0], state)
        truths = [truth_of(member) for member in looked_at] if isinstance(looked_at, tuple) else [None]
        decisive = function is any
        return decisive if decisive in truths else TENSOR if None in truths else not decisive


def _narrow(test: ast.expr, outcome: bool, state: Variables) -> None:
    """Note in the state which variables are None, and which are not, where a test has this outcome."""
    match test:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            _narrow(operand, not outcome, state)
        case ast.BoolOp(op=op, values=operands) if isinstance(op, ast.And) is outcome:
            for operand in operands:
                _narrow(operand, outcome, state)
        case ast.Compare(
            left=ast.Name(id=name), ops=[ast.Is() | ast.IsNot() as op], comparators=[ast.Constant(value=None)]
        ):
            _narrow_name(name, NONE if isinstance(op, ast.Is) is outcome else NOT_NONE, state)
        case ast.Name(id=name) if outcome:
            _narrow_name(name, NOT_NONE, state)


def _narrow_name(name: str, kinds: ValueKind, state: Variables) -> None:
    value = state.get(name)
    if isinstance(value, ValueKind) and value & kinds:
        state[name] = value & kinds


# Operators of Python


def _member(container: KnownValue, index: KnownValue) -> KnownValue:
    """``container[index]``, which raises where there is no such member."""
    if isinstance(container, tuple):
        return container[index] if isinstance(index, int) and -len(container) <= index < len(container) else ANYTHING
    return ONE if _is_one(container) else TENSOR if is_tensor(container) else ANYTHING


def _operate(op: ast.operator, left: KnownValue, right: KnownValue) -> KnownValue:
    """``left op right``."""
    if isinstance(op, ast.Add) and isinstance(left, tuple) and isinstance(right, tuple):
        return make_tuple(left + right)
    if isinstance(op, ast.Mult) and isinstance(left, tuple) and isinstance(right, int):
        return left * right if len(left) * right <= _MOST_MEMBERS else OTHER
    if _is_one(left) and _is_one(right):
        return ONE
    # a Tensor and any other object may give another object: [None] * torch.tensor(2) is a list
    return NOT_NONE if OTHER in kinds_of(left) | kinds_of(right) else TENSOR


def _operate_on_one(op: ast.unaryop, operand: KnownValue) -> KnownValue:
    """``op operand``."""
    if isinstance(op, ast.Not):
        known = truth_of(operand)
        return TENSOR if known is None else not known
    if isinstance(op, ast.USub) and isinstance(operand, int):
        return -operand
    if _is_one(operand):
        return ONE
    return NOT_NONE if OTHER in kinds_of(operand) else TENSOR


def _compare(ops: list[ast.cmpop], values: list[KnownValue]) -> KnownValue:
    """``values[0] ops[0] values[1] ops[1] …``."""
    if len(ops) == 1 and isinstance(ops[0], (ast.Is, ast.IsNot)) and values[1] == NONE:
        kinds = kinds_of(values[0])
        return TENSOR if NONE in kinds and kinds != NONE else (kinds == NONE) is isinstance(ops[0], ast.Is)
    return NOT_NONE if any(OTHER in kinds_of(value) for value in values) else TENSOR


# Functions of torch

_TENSOR_ATTRIBUTES = frozenset("T mT H mH real imag data shape dtype ndim is_cuda requires_grad".split())  # noqa: SIM905
_OPERATORS = [
    getattr(torch._C, name) for name in ("_VariableFunctions", "_nn", "_fft", "_linalg", "_sparse", "_special")
]
"""Where the functions that call operators lie: ``torch.mul`` is that of ``torch._C._VariableFunctions``."""
_NO_OPERATORS = frozenset("tensor as_tensor new_tensor double float half bfloat16 long int bool cpu cuda".split())  # noqa: SIM905
"""Functions and methods that return a Tensor and call no operator of that name."""
_PYTHON_FUNCTIONS = (torch.functional, torch.nn.functional)
"""Modules whose functions say in their annotations what they return."""
_LIKE_TENSORS = frozenset(
    {"Tensor", "List[Tensor]", "int", "float", "bool", "number", "str", "List[int]", "List[bool]"}
)
"""Results of operators in which nothing is None. Functions and methods return lists of Tensors as tuples."""


def kind_of_result(function: Any) -> ValueKind:
    """What a function or method of torch returns, whatever it is given; anything for any other function.

    >>> kind_of_result(torch.mul) == TENSOR, kind_of_result(torch.Tensor.split) == TENSOR, kind_of_result(print) == ANYTHING
    (True, True, True)
    """
    if is_a(function, BuiltinFunctionType):
        calls_operator = any(getattr(each, function.__name__, None) is function for each in _OPERATORS)
    elif is_a(function, MethodDescriptorType):
        calls_operator = function.__objclass__ is torch._C.TensorBase
    elif is_a(function, FunctionType):
        # not by __module__, which wrappers of others have too
        calls_operator = function.__globals__ is vars(torch._tensor)
        is_annotated = any(function.__globals__ is vars(module) for module in _PYTHON_FUNCTIONS)
        if is_annotated and function.__annotations__.get("return") in (torch.Tensor, tuple[torch.Tensor, ...]):
            return TENSOR
    else:
        return ANYTHING
    return kind_of_operator_result(function.__name__) if calls_operator else ANYTHING


def _kind_of_call(function: Any) -> ValueKind:
    kinds = kind_of_result(function)
    return ONE if kinds == TENSOR and returns_one_tensor(function) else kinds


def returns_one_tensor(function: Any) -> bool:
    """Whether a function or method of torch returns one Tensor, whatever it is given.

    >>> returns_one_tensor(torch.Tensor.clamp), returns_one_tensor(torch.Tensor.split), returns_one_tensor(torch.Tensor.item)
    (True, False, False)
    """
    schemas = torch._C._jit_get_schemas_for_operator(f"aten::{getattr(function, '__name__', '')}")
    tensors = [[str(result.type) for result in schema.returns] == ["Tensor"] for schema in schemas]
    return kind_of_result(function) == TENSOR and bool(tensors) and all(tensors)


@cache
def kind_of_operator_result(name: str) -> ValueKind:
    """What the aten operator of that name returns, in all of its overloads.

    >>> kind_of_operator_result("mm") == TENSOR, kind_of_operator_result("no_such") == ANYTHING
    (True, True)
    """
    if name in _NO_OPERATORS:
        return TENSOR
    # TorchScript has operators of the same names on numbers, texts and lists, which the dispatcher does not know
    schemas = [
        schema
        for schema in torch._C._jit_get_schemas_for_operator(f"aten::{name}")
        if torch._C._dispatch_has_kernel(f"{schema.name}.{schema.overload_name}".rstrip("."))
    ]
    return reduce(or_, map(_result_of_schema, schemas)) if schemas else ANYTHING


def _result_of_schema(schema: Any) -> ValueKind:
    types = [str(result.type) for result in schema.returns]
    if not types or not _LIKE_TENSORS.issuperset(types):
        return ANYTHING
    if len(types) > 1 and any(each.startswith("List") for each in types):
        return ANYTHING  # a tuple of which a member is a tuple
    # Undefined Tensors are None in Python. Backward functions return some, and so do internal functions like
    # _scaled_dot_product_flash_attention
    if "backward" in schema.name or (len(types) > 1 and schema.name.startswith("aten::_")):
        return MAYBE_TENSOR if types == ["Tensor"] else ANYTHING
    return TENSOR
