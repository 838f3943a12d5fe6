"""Where backward will start: the loss, or every differentiable tensor in the output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from fxgrad.errors import NothingRequiresGradError
from fxgrad.graph import Path
from fxgrad.graph.text import escape, format_path
from fxgrad.observe.real_types import is_a
from fxgrad.observe.record.tensors import tensors_in


class FoundRoots(NamedTuple):
    """The root tensors with where they were found, the rule in words, and what was passed over and why."""

    roots: list[tuple[Path, torch.Tensor]]
    rule: str
    skipped: tuple[str, ...]


def find_roots(output: Any, *, what: str = "the output of forward") -> FoundRoots:
    """Choose the roots as ``torch.autograd.backward(outputs, ones)`` would be called.

    An output with a scalar ``loss`` that requires grad (as Hugging Face models return) has that one root.
    Raises NothingRequiresGradError where nothing does.
    """
    with torch._C.DisableTorchFunction():  # neither the user's tensor classes nor modes that are entered are asked
        return _find_roots_in(output, what)


def _find_roots_in(output: Any, what: str) -> FoundRoots:
    loss = _loss_of(output)
    if loss is not None:
        others = [path for path, tensor in tensors_in(output, ("result",)).tensors if tensor is not loss]
        left = tuple([f"{format_path(path)}: backward starts from the loss alone" for path in others])
        return FoundRoots([(("result", "loss"), loss)], "the loss in the output of forward", left)
    found = tensors_in(output, ("result",))
    roots = [(path, tensor) for path, tensor in found.tensors if tensor.requires_grad]
    skipped = [f"{format_path(path)}: requires no grad" for path, tensor in found.tensors if not tensor.requires_grad]
    skipped += [f"{format_path(path)}: a {escape(name)}, which is not looked into" for path, name in found.opaque]
    if not roots:
        raise NothingRequiresGradError(
            f"nothing in {what} requires grad" + (f" ({'; '.join(skipped)})" if skipped else ""),
            "at least one tensor that requires grad, in nested tuples, lists, dicts or dataclasses",
            "check for torch.no_grad(), detach(), integer outputs or frozen parameters on the way to it",
        )
    several = f": {len(roots)} tensors, as if backward(outputs, ones) were called" if len(roots) > 1 else ""
    return FoundRoots(roots, what + several, tuple(skipped))


def _loss_of(output: Any) -> torch.Tensor | None:
    if is_a(output, torch.Tensor):
        return None
    try:
        loss = output.get("loss") if is_a(output, Mapping) else getattr(output, "loss", None)
    except Exception:  # the user's own class
        return None
    usable = is_a(loss, torch.Tensor) and loss.dim() == 0 and loss.requires_grad
    return loss if usable else None
