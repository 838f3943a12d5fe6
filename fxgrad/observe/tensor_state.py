"""What a tensor has besides its values: its gradient, its hooks, and whether it requires grad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fxgrad.observe.seen import is_leaf

Undo = Callable[[], object]

_HOOK_TABLES = ("_backward_hooks", "_post_accumulate_grad_hooks")


def gradient(tensor: torch.Tensor) -> torch.Tensor | None:
    """``.grad``, where it may be read: of other tensors PyTorch warns."""
    return tensor.grad if is_leaf(tensor) or tensor.retains_grad else None


def gradient_of(tensor: torch.Tensor) -> Undo:
    """Put ``.grad`` back."""
    if not (is_leaf(tensor) or tensor.retains_grad):
        return lambda: None
    before = tensor.grad

    def undo() -> None:
        if tensor.grad is not before:
            tensor.grad = before

    return undo


def hook_tables(tensor: torch.Tensor) -> list[Any]:
    """The two tables of hooks; None for those that there are not."""
    return [getattr(tensor, name, None) for name in _HOOK_TABLES]


def hooks_of(tensor: torch.Tensor) -> Undo:
    """Take away the tables that a tensor had not; autograd may hold on to a table, so it is emptied first."""
    before = hook_tables(tensor)

    def undo() -> None:
        for name, table, now in zip(_HOOK_TABLES, before, hook_tables(tensor), strict=True):
            if table is None and now is not None:
                now.clear()
                setattr(tensor, name, None)

    return undo


def gradient_flow_of(tensor: torch.Tensor) -> Undo:
    """Put ``requires_grad`` back, and take away the history that an in-place operation gave to a leaf."""
    if tensor.is_inference():
        return lambda: None
    was_leaf, requires_grad = is_leaf(tensor), tensor.requires_grad

    def undo() -> None:
        if was_leaf and not is_leaf(tensor) and not tensor._is_view():
            tensor.detach_()
        if was_leaf and is_leaf(tensor) and tensor.requires_grad != requires_grad:
            tensor.requires_grad_(requires_grad)

    return undo
