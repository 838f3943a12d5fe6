"""Finds the tensors inside the values that programs pass around."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from fxgrad.graph import Path


class Found(NamedTuple):
    """What `tensors_in` found: each tensor with its path, and the paths of objects that it could not look into."""

    tensors: list[tuple[Path, torch.Tensor]]
    opaque: list[tuple[Path, str]]


_LEAVES = (int, float, complex, bool, str, bytes, type(None), torch.Size, torch.dtype, torch.device, torch.layout, type)


def tensors_in(value: Any, path: Path = ()) -> Found:
    """Every tensor in nested tuples, lists, mappings and dataclasses, depth first, in order; each container once."""
    if isinstance(value, torch.Tensor):
        return Found([(path, value)], [])
    found = Found([], [])
    seen: dict[int, Any] = {}
    stack: list[tuple[Path, Any]] = [(path, value)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, torch.Tensor):
            found.tensors.append((path, value))
        elif not isinstance(value, _LEAVES) and id(value) not in seen:
            seen[id(value)] = value
            members = _members(value)
            if members is None:
                found.opaque.append((path, type(value).__name__))
            else:
                stack.extend([((*path, key), member) for key, member in reversed(members)])
    return found


def _members(value: Any) -> list[tuple[str | int, Any]] | None:
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    if isinstance(value, Mapping):
        return [(key if isinstance(key, (str, int)) else repr(key), member) for key, member in value.items()]
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    return None
