"""Finds the nodes that can no longer read what they saved: it was changed in place since, or freed by an earlier backward.

Unpacking a saved tensor compares version counters and raises where they differ, or where it was freed. It runs the unpack
hook of ``saved_tensors_hooks`` where there is one; such tensors are left alone, and PyTorch does not compare their
counters (torch/csrc/autograd/saved_variable.cpp, SavedVariable::unpack). Generated nodes unpack all that they saved before
they compute anything, so one of these raises whenever backward executes it. Of a custom Function, its code decides.
Nodes of ``_foreach_*`` functions and ``CopySlices`` show nothing of what they saved.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from fxgrad.observe.autograd.operands import may_run_unpack_hook
from fxgrad.observe.autograd.python_functions import reads_saved_tensors
from fxgrad.observe.autograd.walk import WalkedGraph

_SAVED, _RAW = "_saved_", "_raw_saved_"
_OF_FUNCTION = "saved_tensors"
_CHANGED = "modified by an inplace operation"
_FREED = "Trying to backward through the graph a second time"


class LostSaved(NamedTuple):
    """What became of what a node saved: see `Node`."""

    overwritten: tuple[str, ...] = ()
    freed: bool = False
    reads_saved: bool = True


KEPT = LostSaved()


def find_lost_saved(walked: WalkedGraph) -> dict[int, LostSaved]:
    """By the ids of nodes, those of which something that they saved was changed or freed."""
    found: dict[int, LostSaved] = {}
    names_of: dict[type, tuple[str, ...]] = {}
    python_function = torch._C._FunctionBase
    # unpacking makes a tensor, which modes and classes of the user's would see as a call of detach
    with torch._C._DisableTorchDispatch():
        for number, place in enumerate(walked.places):
            node: Any = walked.nodes[place]
            kind = type(node)
            names = names_of.get(kind)
            if names is None:
                names = names_of[kind] = _list_saved(kind)
            if not names:
                continue
            lost = _look_at_function(node) if isinstance(node, python_function) else _look_at_generated(node, names)
            if lost is not KEPT:
                found[number] = lost
    return found


def _list_saved(kind: type) -> tuple[str, ...]:
    return tuple([name.removeprefix(_RAW) for name in dir(kind) if name.startswith(_RAW)])


def _look_at_generated(node: Any, names: tuple[str, ...]) -> LostSaved:
    changed = []
    for name in names:
        try:
            raw = getattr(node, _RAW + name)
            if raw is not None and not may_run_unpack_hook(raw):
                getattr(node, _SAVED + name)
        except RuntimeError as error:
            if _FREED in str(error):  # all that it saved was freed together
                return LostSaved(freed=True)
            if _CHANGED in str(error):
                changed.append(name)
    return LostSaved(tuple(changed)) if changed else KEPT


def _look_at_function(node: Any) -> LostSaved:
    try:
        raw = node._raw_saved_tensors
        if raw and not may_run_unpack_hook(raw):
            node.saved_tensors  # noqa: B018 - to see whether it raises
    except RuntimeError as error:
        freed = _FREED in str(error)
        reads = reads_saved_tensors(getattr(type(node), "_forward_cls", None))
        if reads is not False and (freed or _CHANGED in str(error)):
            return LostSaved(() if freed else (_OF_FUNCTION,), freed, reads is True)
    return KEPT
