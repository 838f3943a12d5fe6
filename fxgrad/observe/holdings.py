"""Finds everything that a model and its arguments hold, and puts Python's side of it back.

Entered are modules, wherever they are held, and the builtin containers, those of derived classes too; through the
methods of the builtin, as the user's class may have others. Objects of other classes are not entered, nor asked
anything: `isinstance` would ask an object for its ``__class__``.
"""

from __future__ import annotations

import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from types import MemberDescriptorType
from typing import Any

import torch
from torch import nn

Undo = Callable[[], object]

_MAPPINGS: tuple[type, ...] = (OrderedDict, dict)
_MUTABLE: tuple[type, ...] = (*_MAPPINGS, list, set, deque)
_BUILTINS: tuple[type, ...] = (*_MUTABLE, tuple, frozenset)
_WRAPPED_TABLES = ("_parameters", "_buffers", "_modules")
"""Of a scripted module they are no dicts (torch/jit/_script.py: OrderedDictWrapper)."""
_NOTHING = object()


class Holdings:
    """What can be reached from some starts, each object once, in the order in which it was found."""

    def __init__(self, starts: Iterable[Any]) -> None:
        self.modules: list[nn.Module] = []
        self.containers: list[Any] = []
        self.tensors: list[torch.Tensor] = []
        self.generators: list[Any] = []
        self._sorts: list[tuple[Any, list[Any]]] = [
            (nn.Module, self.modules),
            (torch.Tensor, self.tensors),
            (_BUILTINS, self.containers),
            (_generator_types(), self.generators),
        ]
        self._found_of: dict[type, list[Any] | None] = {}
        self._slots: dict[type, list[Any]] = {}
        self._walk(starts)

    def _walk(self, starts: Iterable[Any]) -> None:
        entered: set[int] = set()
        stack = list(starts)[::-1]
        while stack:
            thing = stack.pop()
            kind = type(thing)
            if kind not in self._found_of:
                self._found_of[kind] = next((found for sort, found in self._sorts if issubclass(kind, sort)), None)
            found = self._found_of[kind]
            if found is not None and id(thing) not in entered:
                entered.add(id(thing))
                found.append(thing)
                stack.extend(self._members(thing, found))

    def _members(self, thing: Any, found: list[Any]) -> list[Any]:
        if found is self.containers:
            return flat(thing)
        if found is self.modules:
            slots = self._slots_of(type(thing))
            return [vars(thing), *[_slot_value(thing, slot) for slot in slots], *_wrapped(thing)]
        return [vars(thing)] if found is self.tensors else []

    def undo_steps(self) -> Iterator[Undo]:
        """What puts classes, attributes and contents of all of it back."""
        for owner in (*self.modules, *self.tensors):
            yield _class_of(owner)
        for module in self.modules:
            yield _attribute_table_of(module)
            yield from [_slot_of(module, slot) for slot in self._slots_of(type(module))]
        yield from map(contents_of, self.containers)

    def _slots_of(self, kind: type) -> list[Any]:
        """The descriptors of the ``__slots__`` of a class, and of the classes that it is derived from."""
        if kind not in self._slots:
            members = [member for one in kind.__mro__ for member in vars(one).values()]
            self._slots[kind] = [member for member in members if type(member) is MemberDescriptorType]
        return self._slots[kind]


def _generator_types() -> tuple[type, ...]:
    types: tuple[type, ...] = (torch.Generator, random.Random)
    numpy_random = sys.modules.get("numpy.random")
    return types if numpy_random is None else (*types, numpy_random.Generator, numpy_random.RandomState)


# Attributes


def _class_of(owner: Any) -> Undo:
    before = type(owner)

    def undo() -> None:
        if type(owner) is not before:
            object.__setattr__(owner, "__class__", before)

    return undo


def _attribute_table_of(module: nn.Module) -> Undo:
    before = vars(module)

    def undo() -> None:
        if vars(module) is not before:
            object.__setattr__(module, "__dict__", before)

    return undo


def _slot_value(owner: Any, slot: Any) -> Any:
    try:
        return slot.__get__(owner)
    except AttributeError:  # nothing is in it
        return _NOTHING


def _slot_of(owner: Any, slot: Any) -> Undo:
    before = _slot_value(owner, slot)

    def undo() -> None:
        if _slot_value(owner, slot) is before:
            return
        if before is _NOTHING:
            slot.__delete__(owner)
        else:
            slot.__set__(owner, before)

    return undo


def _wrapped(module: nn.Module) -> list[Any]:
    tables = [vars(module).get(name) for name in _WRAPPED_TABLES]
    return [value for table in tables if table is not None and not isinstance(table, dict) for value in table.values()]


# Containers


def contents_of(container: Any) -> Undo:
    """Put the same objects back into the same container; it is not touched when they are all still there."""
    base = _base_of(container, _MUTABLE)
    if base is None:
        return lambda: None
    before = flat(container)

    def undo() -> None:
        now = flat(container)
        if len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
            _refill(base, container, before)

    return undo


def _base_of(container: Any, bases: tuple[type, ...]) -> Any:
    kind = type(container)
    return kind if kind in bases else next((base for base in bases if issubclass(kind, base)), None)


def flat(container: Any) -> list[Any]:
    """The members of a builtin container; of a mapping all keys, then all values."""
    base = _base_of(container, _BUILTINS)
    members = list(base.__iter__(container))
    return [*members, *base.values(container)] if base in _MAPPINGS else members


def _refill(base: Any, container: Any, members: list[Any]) -> None:
    base.clear(container)
    if base in _MAPPINGS:
        middle = len(members) // 2
        for key, value in zip(members[:middle], members[middle:], strict=True):
            base.__setitem__(container, key, value)
    elif base is set:
        set.update(container, members)
    else:
        base.extend(container, members)
