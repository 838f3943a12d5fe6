"""What attributes of objects are, as they lie there: no property and no ``__getattr__`` of the program is run."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from types import FunctionType, ModuleType
from typing import Any

import torch

from fxgrad.observe.backward_code.modules import names_set_in
from fxgrad.observe.backward_code.state import GivenUp, State
from fxgrad.observe.backward_code.torch_results import tensor_attribute
from fxgrad.observe.backward_code.values import (
    ANYTHING,
    Bound,
    Context,
    Exactly,
    Held,
    Kind,
    Made,
    TensorMethod,
    Value,
    kinds_of,
    later,
)
from fxgrad.observe.real_types import is_a

_MISSING: Any = object()
_OPERATORS = (torch._ops.OpOverload, torch._ops.OpOverloadPacket)


class Attributes(ABC):
    """Looks attributes up. Remembers which it took from classes, and which the code sets on objects."""

    def __init__(self) -> None:
        self._from_classes: set[str] = set()
        self._set: set[str] = set()

    @abstractmethod
    def initially(self, name: str) -> Value:
        """What ``ctx.name`` is when backward begins."""

    @abstractmethod
    def property_of(self, function: FunctionType, receiver: Value, state: State) -> Value:
        """What a property of an object is."""

    def attribute(self, receiver: Value, name: str, state: State) -> Value:
        """What ``receiver.name`` is."""
        if isinstance(receiver, Context):
            return self._context_attribute(name, state)
        if isinstance(receiver, Made):
            return self._made_attribute(receiver, name, state)
        if isinstance(receiver, Exactly):
            return _object_attribute(receiver, name)
        if isinstance(receiver, Held):
            return _held_attribute(receiver, name)
        kinds = kinds_of(receiver)
        if Kind.OTHER in kinds or Kind.TENSOR not in kinds:
            return ANYTHING
        known = tensor_attribute(name)
        if known is not None:
            return known
        return ANYTHING if inspect.getattr_static(torch.Tensor, name, None) is None else TensorMethod(name)

    def _context_attribute(self, name: str, state: State) -> Value:
        if name.startswith("__"):
            raise GivenUp
        if state.context_is_open and name not in ("saved_tensors", "saved_variables"):
            return ANYTHING
        return state.context[name] if name in state.context else self.initially(name)

    def set_attribute(self, name: str) -> None:
        """Note that the code sets an attribute of that name of some object."""
        self._set.add(name)

    @property
    def contradicts_itself(self) -> bool:
        """Whether an attribute that was taken from a class may have been set on the object."""
        return bool(self._from_classes & self._set)

    def _made_attribute(self, receiver: Made, name: str, state: State) -> Value:
        """Of an object's class. What the object itself holds under that name, put there by code of its module, hides it."""
        found = inspect.getattr_static(receiver.cls, name, _MISSING)
        if found is _MISSING or name in names_set_in(receiver.cls.__module__):
            return ANYTHING
        self._from_classes.add(name)
        getter = (
            found.fget if type(found) is property else found.func if type(found) is functools.cached_property else None
        )
        if is_a(getter, FunctionType):
            return self.property_of(getter, receiver, state)
        return _bound(found, receiver)


def _object_attribute(receiver: Exactly, name: str) -> Value:
    owner = receiver.object
    if is_a(owner, ModuleType):
        return later(vars(owner).get(name, _MISSING))
    if is_a(owner, type):
        found = inspect.getattr_static(owner, name, _MISSING)
        if type(found) is classmethod:
            return Bound(later(found.__func__), receiver)
        return later(found.__func__ if type(found) is staticmethod else found)
    return later(inspect.getattr_static(owner, name, _MISSING)) if is_a(owner, _OPERATORS) else ANYTHING


def _held_attribute(receiver: Held, name: str) -> Value:
    """A function that an object holds itself, or a method."""
    owner = receiver.object
    found = inspect.getattr_static(owner, name, _MISSING)
    if inspect.getattr_static(type(owner), name, _MISSING) is found:
        return _bound(found, receiver)
    return Exactly(found) if is_a(found, FunctionType) else ANYTHING


def _bound(found: Any, receiver: Value) -> Value:
    """What looking a function of a class up gives; objects may hold other data than their class."""
    if type(found) is staticmethod:
        return later(found.__func__)
    if type(found) is classmethod:
        return Bound(later(found.__func__), Exactly(receiver.cls)) if isinstance(receiver, Made) else ANYTHING
    return Bound(Exactly(found), receiver) if is_a(found, FunctionType) else ANYTHING
