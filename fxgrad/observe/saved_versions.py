"""Finds nodes that saved a tensor which was changed in place afterwards: they raise when backward executes them.

Unpacking a saved tensor compares version counters, and raises where they differ (torch/csrc/autograd/saved_variable.cpp,
SavedVariable::unpack). Generated nodes unpack all that they saved before they compute anything. Where the user's
``saved_tensors_hooks`` would run, nothing is unpacked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from msgspec.structs import replace
from torch.autograd.graph import Node as AutogradNode

from fxgrad.graph import Node, NodeKind
from fxgrad.observe.record.events import OpEvent
from fxgrad.observe.record.tensors import tensors_in

_SAVED, _RAW = "_saved_", "_raw_saved_"
_CHANGED = "modified by an inplace operation"


def with_overwritten(
    nodes: tuple[Node, ...],
    order: Sequence[AutogradNode],
    owners: Mapping[AutogradNode, int],
    calls: Sequence[OpEvent],
) -> tuple[Node, ...]:
    """The same nodes; those that raise when they are executed say what they saved and what was changed since."""
    wanted = _calls_to_look_at(calls)
    if not wanted:
        return nodes
    return tuple(
        [
            replace(node, overwritten=_changed_since_saved(live))
            if node.kind is NodeKind.FUNCTION and owners.get(live) in wanted
            else node
            for node, live in zip(nodes, order, strict=True)
        ]
    )


def _calls_to_look_at(calls: Sequence[OpEvent]) -> frozenset[int]:
    """The function calls, by number, of which an argument or a result shares memory with what was changed later."""
    changed: dict[object, int] = {}
    for number, seen in enumerate(calls):
        changed.update((_memory_of(earlier.tensor), number) for earlier in seen.changes)
    changed.pop(None, None)
    if not changed:
        return frozenset()
    return frozenset(
        number
        for number, seen in enumerate(calls)
        if any(changed.get(_memory_of(tensor), -1) > number for tensor in _tensors_of(seen))
    )


def _tensors_of(seen: OpEvent) -> Iterator[torch.Tensor]:
    yield from (result.tensor for result in seen.results)
    yield from (tensor for _, tensor in tensors_in((seen.args, seen.kwargs)).tensors)


def _memory_of(tensor: torch.Tensor) -> object:
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse and other tensors without a plain storage
        return None


def _changed_since_saved(node: AutogradNode) -> tuple[str, ...]:
    """The names of what a C++ node saved and what was changed in place since."""
    names = (name.removeprefix(_RAW) for name in dir(type(node)) if name.startswith(_RAW))
    return tuple([name for name in names if _is_changed(node, name)])


def _is_changed(node: AutogradNode, name: str) -> bool:
    try:
        if _has_hooks(getattr(node, _RAW + name)):
            return False
        getattr(node, _SAVED + name)
    except RuntimeError as error:  # freed by an earlier backward, or changed
        return _CHANGED in str(error)
    return False


def _has_hooks(raw: object) -> bool:
    """Whether hooks would run, or may: torch 2.9 does not tell."""
    several: Iterable[object] = raw if isinstance(raw, tuple) else (raw,)
    saved = [each for each in several if isinstance(each, torch._C._autograd.SavedTensor)]
    return any(not hasattr(each, "unpack_hook") or each.unpack_hook is not None for each in saved)
