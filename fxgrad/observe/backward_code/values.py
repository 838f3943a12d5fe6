"""What is known of a value in code that is read but not run: which of None, a Tensor and anything else it may be."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, ModuleType, WrapperDescriptorType
from typing import TYPE_CHECKING, Any

import torch

from fxgrad.observe.real_types import is_a

if TYPE_CHECKING:
    import ast

_CONSTANTS = (type(None), bool, int, float, complex, str, bytes, type(...), torch.dtype, torch.device, torch.layout)
_TRUE_OBJECTS = (FunctionType, BuiltinFunctionType, ModuleType)
_CODE = (
    *_TRUE_OBJECTS,
    type,
    staticmethod,
    classmethod,
    MethodDescriptorType,
    WrapperDescriptorType,
    torch._ops.OpOverload,
    torch._ops.OpOverloadPacket,
)
"""What runs, or leads to, the same code whenever it is called or looked into."""


class Kind(enum.Flag):
    """What a value may be. Numbers, texts, containers, functions: all of these are ``OTHER``."""

    NONE = enum.auto()
    TENSOR = enum.auto()
    OTHER = enum.auto()


@dataclass(frozen=True, slots=True)
class Some:
    """A value of which nothing but its possible kinds is known."""

    kinds: Kind


@dataclass(frozen=True, slots=True, eq=False)
class Exactly:
    """A constant, or a function, class or module of the program: this very object."""

    object: Any

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Exactly) or type(self.object) is not type(other.object):
            return False
        return self.object is other.object or (self.is_constant and bool(self.object == other.object))

    def __hash__(self) -> int:
        return id(type(self.object))

    @property
    def is_constant(self) -> bool:
        """Whether it is immutable and of a type of Python's or torch's own."""
        return type(self.object) in _CONSTANTS


@dataclass(frozen=True, slots=True)
class Items:
    """A tuple or a list: its first ``members``, and what any further one is; None where there are no more."""

    members: tuple[Value, ...]
    rest: Value | None = None
    is_list: bool = False

    def item(self, index: int) -> Value:
        """The member at an index that is not negative; one that does not exist raises in the program."""
        return self.members[index] if index < len(self.members) else self.rest or ANYTHING

    @property
    def any(self) -> Value:
        """What any of the members is."""
        return join_all([*self.members, *([] if self.rest is None else [self.rest])])


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A new object of a class of the program, made by the code that is read."""

    cls: type


@dataclass(frozen=True, slots=True)
class Bound:
    """A method: a function and the object that it is called on."""

    function: Value
    receiver: Value


@dataclass(frozen=True, slots=True)
class TensorMethod:
    """A method of a tensor."""

    name: str


@dataclass(frozen=True, slots=True)
class Context:
    """The ``ctx`` that forward and backward share: the node itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Local:
    """A function that is defined inside the code that is read, and the scope that it is defined in."""

    definition: ast.FunctionDef | ast.Lambda
    scope: Any


@dataclass(frozen=True, slots=True)
class Keywords:
    """What a ``**keywords`` parameter was given."""

    by_name: tuple[tuple[str, Value], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """An object that a function closes over: what it holds may change, but for the functions in it."""

    object: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and self.object is other.object

    def __hash__(self) -> int:
        return id(self.object)


Value = Some | Exactly | Items | Made | Bound | TensorMethod | Context | Local | Keywords | Held

NONE, TENSOR, OTHER = Exactly(None), Some(Kind.TENSOR), Some(Kind.OTHER)
ANYTHING = Some(Kind.NONE | Kind.TENSOR | Kind.OTHER)
MAYBE_TENSOR = Some(Kind.NONE | Kind.TENSOR)
NOT_NONE = Some(Kind.TENSOR | Kind.OTHER)
CONTEXT = Context()


def kinds_of(value: Value) -> Kind:
    """What the value may be."""
    if isinstance(value, Some):
        return value.kinds
    if isinstance(value, Held):
        return ANYTHING.kinds
    return Kind.NONE if isinstance(value, Exactly) and value.object is None else Kind.OTHER


def of_kinds(kinds: Kind) -> Value:
    """The value of which only that is known."""
    return NONE if kinds is Kind.NONE else Some(kinds)


def join(one: Value, other: Value) -> Value:
    """What is known of a value that is one of the two.

    >>> join(NONE, TENSOR) == MAYBE_TENSOR
    True
    >>> join(Items((TENSOR, NONE)), Items((TENSOR, TENSOR))).members == (TENSOR, MAYBE_TENSOR)
    True
    """
    if one == other:
        return one
    if isinstance(one, Items) and isinstance(other, Items) and one.is_list == other.is_list:
        return _join_items(one, other)
    return of_kinds(kinds_of(one) | kinds_of(other))


def _join_items(one: Items, other: Items) -> Value:
    if (one.rest is None) != (other.rest is None):
        return OTHER
    if one.rest is None or other.rest is None:
        if len(one.members) != len(other.members):
            return OTHER
        rest = None
    else:
        rest = join(one.rest, other.rest)
    places = range(max(len(one.members), len(other.members)))
    return Items(tuple([join(one.item(place), other.item(place)) for place in places]), rest, one.is_list)


def join_all(values: Iterable[Value]) -> Value:
    """What is known of one of several values; anything, where there are none."""
    joined: Value | None = None
    for value in values:
        joined = value if joined is None else join(joined, value)
    return ANYTHING if joined is None else joined


def narrowed(value: Value, without: Kind) -> Value:
    """The value where it is known not to be of some kinds."""
    return of_kinds(value.kinds & ~without) if isinstance(value, Some) and value.kinds & ~without else value


def truth(value: Value) -> bool | None:
    """Whether the value counts as true; None where that is not known."""
    if isinstance(value, Exactly):
        return bool(value.object) if value.is_constant else True if type(value.object) in _TRUE_OBJECTS else None
    if isinstance(value, Items):
        return bool(value.members) if value.rest is None else None
    return None


def constant(value: Any) -> Value:
    """What is known of an object that the program holds, as long as it holds it. Nothing of it is run.

    >>> constant((None, torch.ones(3), [])).members == (NONE, TENSOR, OTHER)
    True
    """
    if type(value) is tuple:
        return Items(tuple([constant(member) for member in value]))
    if is_a(value, torch.Tensor):
        return TENSOR
    return Exactly(value) if type(value) in _CONSTANTS or _is_code(value) else OTHER


def later(value: Any) -> Value:
    """What is known of a variable of a module or closure: functions, classes and modules stay, data may be replaced by
    data of its type."""
    if _is_code(value):
        return Exactly(value)
    return OTHER if type(value) in (bool, int, float, complex, str, bytes, torch.dtype) else ANYTHING


def _is_code(value: Any) -> bool:
    """Whether calling it, or looking something up in it, runs the code that it ran before."""
    return is_a(value, _CODE)
