"""Gives views that were changed in place the node that they have on a real device.

When a view or its base is changed in place, the node of each view is made anew: ``AsStridedBackward0``, a view of the
base (torch/csrc/autograd/variable.cpp, ``VariableHooks::grad_fn``). For fake tensors PyTorch runs the functions that
made the view once more instead, which makes their nodes. Here such a view gets, before and after every call that it is
an argument of, the implementation of a view that ``as_strided`` takes of the base.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.weak import WeakIdKeyDictionary

from fxgrad.errors import TargetError

_CONTAINERS = (tuple, list)


class Views:
    """The views that calls were given and returned, each with the version of its base at which its node was made."""

    def __init__(self) -> None:
        self._versions: Any = WeakIdKeyDictionary()

    def note(self, values: Iterable[Any]) -> None:
        """Note the views among what a call returned: their nodes are new."""
        for view in _views_in(values):
            self._versions.setdefault(view, view._version)

    def renew(self, values: Iterable[Any]) -> None:
        """Give the views among some values their nodes, where these are out of date.

        Without grad nothing looks at the nodes, and inside of a Function's forward the view is still that of its caller.
        """
        if not torch.is_grad_enabled():
            return
        for view in _views_in(values):
            if self._versions.setdefault(view, view._version) != view._version:
                self._versions[view] = view._version
                _renew(view)


def _views_in(values: Iterable[Any]) -> Iterator[FakeTensor]:
    """The views in the values, and in the tuples and lists among them."""
    for value in values:
        members = value if type(value) in _CONTAINERS else (value,)
        yield from (each for each in members if isinstance(each, FakeTensor) and each._is_view())


def _renew(view: FakeTensor) -> None:
    base = view._base
    creation = torch._C._autograd._get_creation_meta(view)
    if base is None or not base.requires_grad or creation != torch._C._autograd.CreationMeta.DEFAULT:
        return  # it has no node, or PyTorch forbids its use
    if view._backward_hooks or view.retains_grad:
        raise _cannot("a view with hooks is changed in place")
    with torch.enable_grad():
        renewed = torch.as_strided(base, view.shape, view.stride(), view.storage_offset())
    try:
        torch._C._swap_tensor_impl(view, renewed)
    except RuntimeError as error:  # the implementation is held elsewhere
        raise _cannot("a view that is kept for backward is used after it was changed in place") from error


def _cannot(what: str) -> TargetError:
    return TargetError(
        f"{what}, on the emulated CUDA device",
        "views that are changed in place, without hooks, before anything keeps them for backward",
        "trace on the CPU, or on a machine with a CUDA device",
    )
