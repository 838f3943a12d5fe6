"""Looks at what nodes saved: it may have been changed in place since, freed, or be where a derivative is zero.

Unpacking a saved tensor compares version counters and raises where they differ, or where it was freed. It runs the unpack
hook of ``saved_tensors_hooks`` where there is one; such tensors are left alone, and PyTorch does not compare their
counters (torch/csrc/autograd/saved_variable.cpp, SavedVariable::unpack). Generated nodes unpack all that they saved before
they compute anything, so one of these raises whenever backward executes it. Of a custom Function, its code decides.
Nodes of ``_foreach_*`` functions and ``CopySlices`` show nothing of what they saved. An earlier backward that executed a
CopySlices has freed the function in it (torch/csrc/autograd/functions/tensor.cpp, CopySlices::release_variables): where it
freed other nodes of the graph, only backward tells whether it came there.

Inside a non-reentrant checkpoint the unpack hook is torch's own: it runs forward again from the arguments that the
checkpoint saved, whose counters are compared (torch/utils/checkpoint.py, _CheckpointFrame.get_inputs).
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch.utils import checkpoint

from fxgrad.graph.records import CHECKPOINT_ARGUMENTS
from fxgrad.observe.autograd.operands import may_run_unpack_hook
from fxgrad.observe.autograd.python_functions import reads_saved_tensors
from fxgrad.observe.autograd.walk import WalkedGraph
from fxgrad.observe.real_types import is_a

_SAVED, _RAW = "_saved_", "_raw_saved_"
_OF_FUNCTION = "saved_tensors"
_COPY_SLICES = "CopySlices"
_CHANGED = "modified by an inplace operation"
_FREED = "Trying to backward through the graph a second time"


class LostSaved(NamedTuple):
    """What became of what a node saved: see `Node`."""

    overwritten: tuple[str, ...] = ()
    freed: bool = False
    reads_saved: bool = True
    recomputed: bool = False


KEPT = LostSaved()


def find_lost_saved(walked: WalkedGraph) -> dict[int, LostSaved]:
    """By the ids of nodes, those of which something that they saved was changed, freed, or not kept at all."""
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
    if any(lost.freed for lost in found.values()):
        hiding = [number for number, name in enumerate(walked.names) if name.endswith(_COPY_SLICES)]
        found.update(dict.fromkeys(hiding, LostSaved(freed=True, reads_saved=False)))
    return found


def _list_saved(kind: type) -> tuple[str, ...]:
    return tuple([name.removeprefix(_RAW) for name in dir(kind) if name.startswith(_RAW)])


def _look_at_generated(node: Any, names: tuple[str, ...]) -> LostSaved:
    changed, recomputed = [], False
    for name in names:
        try:
            raw = getattr(node, _RAW + name)
            if raw is None:
                continue
            if not may_run_unpack_hook(raw):
                getattr(node, _SAVED + name)
                continue
            frames = _list_checkpoints(raw)
            if _lost_arguments(frames):
                return LostSaved((CHECKPOINT_ARGUMENTS,), recomputed=True)
            recomputed = recomputed or bool(frames)
        except RuntimeError as error:
            if _FREED in str(error):  # all that it saved was freed together
                return LostSaved(freed=True)
            if _CHANGED in str(error):
                changed.append(name)
    return LostSaved(tuple(changed), recomputed=recomputed) if changed or recomputed else KEPT


def _look_at_function(node: Any) -> LostSaved:
    try:
        raw = node._raw_saved_tensors
        if raw and not may_run_unpack_hook(raw):
            node.saved_tensors  # noqa: B018 - to see whether it raises
        elif raw and (frames := _list_checkpoints(raw)):
            reads = reads_saved_tensors(getattr(type(node), "_forward_cls", None))
            lost = (CHECKPOINT_ARGUMENTS,) if reads is not False and _lost_arguments(frames) else ()
            return LostSaved(lost, reads_saved=reads is True or not lost, recomputed=True)
    except RuntimeError as error:
        freed = _FREED in str(error)
        reads = reads_saved_tensors(getattr(type(node), "_forward_cls", None))
        if reads is not False and (freed or _CHANGED in str(error)):
            return LostSaved(() if freed else (_OF_FUNCTION,), freed, reads is True)
    return KEPT


def _list_checkpoints(raw: Any) -> list[Any]:
    """The frames of the non-reentrant checkpoints that run forward again for what a node saved."""
    hooks = [getattr(one, "unpack_hook", None) for one in (raw if is_a(raw, tuple) else (raw,))]
    own = [hook for hook in hooks if is_a(hook, FunctionType) and hook.__module__ == checkpoint.__name__]
    cells = [cell for hook in own for cell in zip(hook.__code__.co_freevars, hook.__closure__ or (), strict=True)]
    return [cell.cell_contents for name, cell in cells if name == "frame"]


def _lost_arguments(frames: list[Any]) -> bool:
    """Whether a checkpoint would have to unpack an argument that was changed in place, before it can run again."""
    return any(_has_changed(argument) for frame in frames for argument in getattr(frame, "saved_args", ()))


def _has_changed(argument: Any) -> bool:
    if not is_a(argument, torch._C._autograd.SavedTensor) or may_run_unpack_hook(argument):
        return False
    try:
        argument.unpack()
    except RuntimeError as error:
        return _CHANGED in str(error)
    return False


# Where all of a gradient is zero, as the values were


_FIRST = 64


def find_saturated(walked: WalkedGraph) -> frozenset[int]:
    """The ids of the nodes whose derivative is zero at every element of what they saved: they pass only zeros on."""
    wanted = [number for number, name in enumerate(walked.names) if name in _DERIVATIVES]
    with torch.no_grad(), torch._C._DisableTorchDispatch():
        return frozenset(number for number in wanted if _is_saturated(walked.order[number], walked.names[number]))


def _is_saturated(node: Any, name: str) -> bool:
    tensor, nonzero = _DERIVATIVES[name]
    try:
        if may_run_unpack_hook(getattr(node, _RAW + tensor)):
            return False
        saved = getattr(node, _SAVED + tensor)
    except RuntimeError:  # freed by an earlier backward, or changed in place since
        return False
    if type(saved) not in (torch.Tensor, torch.nn.Parameter) or saved.device.type == "meta" or not saved.numel():
        return False
    # nearly always some of the first elements tell, and no memory is needed for all of them
    first = saved[(0,) * (saved.dim() - 1)][:_FIRST] if saved.dim() else saved
    return not any((nonzero(part, node) | part.isnan()).any().item() for part in (first, saved))


_DERIVATIVES: dict[str, tuple[str, Callable[[torch.Tensor, Any], torch.Tensor]]] = {
    "ReluBackward0": ("result", lambda result, _: result > 0),
    "ThresholdBackward0": ("self", lambda x, node: x > node._saved_threshold),
    "ClampBackward1": ("self", lambda x, node: _is_between(x, node._saved_min, node._saved_max)),
    "ClampMinBackward0": ("self", lambda x, node: x >= node._saved_min),
    "ClampMaxBackward0": ("self", lambda x, node: x <= node._saved_max),
    "HardtanhBackward0": ("self", lambda x, node: (x > node._saved_min_val) & (x < node._saved_max_val)),
    "HardsigmoidBackward0": ("self", lambda x, _: x.abs() < 3),  # noqa: PLR2004
    "HardshrinkBackward0": ("self", lambda x, node: x.abs() > node._saved_lambd),
    "SoftshrinkBackward0": ("self", lambda x, node: x.abs() > node._saved_lambd),
    "SigmoidBackward0": ("result", lambda result, _: (1 - result) * result != 0),
    "TanhBackward0": ("result", lambda result, _: 1 - result * result != 0),
}
"""By the name of a node: what it saved, and where the derivative is not zero (tools/autograd/derivatives.yaml)."""


def _is_between(x: torch.Tensor, low: float | None, high: float | None) -> torch.Tensor:
    return (x >= (float("-inf") if low is None else low)) & (x <= (float("inf") if high is None else high))
