"""Finds the tensors inside the values that programs pass around."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch

from fxgrad.graph import Path
from fxgrad.observe.real_types import is_a


class Step(NamedTuple):
    """How a member is reached: ``holder[key]``, or ``getattr(holder, key)``. ``position`` is its rank in the holder."""

    key: Any
    position: int
    is_attribute: bool = False


Route = tuple[Step, ...]


class Found(NamedTuple):
    """What `tensors_in` found: each tensor with its path, and the paths of objects that it could not look into."""

    tensors: list[tuple[Path, torch.Tensor]]
    opaque: list[tuple[Path, str]]


_PLAIN = frozenset(
    {bool, bytes, complex, float, int, str, torch.Size, torch.device, torch.dtype, torch.layout, type, type(None)}
)
_SHOWN_KEYS = (bool, bytes, complex, float, torch.device, torch.dtype, torch.layout, type(None))
"""Keys that their repr() describes, the same in every process."""


def tensors_in(value: Any, path: Path = ()) -> Found:
    """Every tensor in nested tuples, lists, mappings and dataclasses, depth first, in order; each container once.

    The steps of a path are exact ints and strs, whatever the keys of the mappings are.
    """
    found = Found([], [])
    for route, member in _members_at_any_depth(value):
        place = (*path, *[shown_key(step.key, step.position) for step in route]) if route else path
        if is_a(member, torch.Tensor):
            found.tensors.append((place, member))
        else:
            found.opaque.append((place, type(member).__name__))
    return found


def routes_in(value: Any) -> list[tuple[Route, torch.Tensor]]:
    """The same tensors, each with how a program reaches it."""
    return [(route, member) for route, member in _members_at_any_depth(value) if is_a(member, torch.Tensor)]


def routes_to(kind: type, value: Any) -> list[tuple[Route, Any]]:
    """The objects of a class that is no container, each with how a program reaches it."""
    return [(route, member) for route, member in _members_at_any_depth(value) if is_a(member, kind)]


def _members_at_any_depth(value: Any) -> Iterator[tuple[Route, Any]]:
    """The tensors, and the objects that are no containers, with their routes."""
    entered: dict[int, Any] = {}
    stack: list[tuple[Route, Any]] = [((), value)]
    while stack:
        route, value = stack.pop()
        if is_a(value, torch.Tensor):
            yield route, value
        elif type(value) not in _PLAIN and id(value) not in entered:
            entered[id(value)] = value
            members = _members(value)
            if members is None:
                yield route, value
            else:
                stack.extend([((*route, step), member) for step, member in reversed(members)])


def _members(value: Any) -> list[tuple[Step, Any]] | None:
    """What a container holds, in order; None for what is no container, or raises when it is looked into."""
    if type(value) is tuple or type(value) is list:
        return [(Step(rank, rank), member) for rank, member in enumerate(value) if type(member) not in _PLAIN]
    try:
        return _members_of_subclass(value)
    except Exception:  # the user's own class
        return None


def _members_of_subclass(value: Any) -> list[tuple[Step, Any]] | None:
    if is_a(value, (tuple, list)):
        return [(Step(rank, rank), member) for rank, member in enumerate(value)]
    if is_a(value, Mapping):
        return [(Step(key, rank), member) for rank, (key, member) in enumerate(value.items())]
    if dataclasses.is_dataclass(value) and not is_a(value, type):
        names = enumerate(field.name for field in dataclasses.fields(value))
        return [
            (Step(name, rank, is_attribute=True), getattr(value, name)) for rank, name in names if hasattr(value, name)
        ]
    return None


def shown_key(key: Any, position: int) -> str | int:
    """A key as a step of a Path, which is saved and shown: an exact str or int, the same in every process.

    >>> shown_key("mask", 0), shown_key(True, 0), shown_key(None, 0), shown_key((1, "a"), 0), shown_key(object(), 3)
    ('mask', 1, 'None', "(1, 'a')", '<object 3>')
    """
    if is_a(key, str):
        return str.__str__(key)
    if is_a(key, int):
        return int.__int__(key)
    members = key if type(key) is tuple else (key,)
    if all(type(member) in (*_SHOWN_KEYS, int, str) for member in members):
        return repr(key)
    return f"<{type(key).__name__} {position}>"
