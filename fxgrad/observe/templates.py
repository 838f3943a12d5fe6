"""Makes containers of any class again, with other tensors in them.

A template is a deep copy in which holes stand for the tensors; filling it makes a deep copy with tensors for the holes.
So a result can be built again without its class being known, and without any of its tensors being kept.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from fxgrad.observe.structure import routes_in


def _hole_for(tensor: torch.Tensor) -> torch.Tensor:
    """What stands where a tensor is missing: zeros of its shape, dtype and device, as a constructor may look at them."""
    with torch._C.DisableTorchFunction():
        try:
            return torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)
        except (RuntimeError, TypeError, NotImplementedError):  # no shape, or no zeros of that dtype
            return torch.zeros(0)


class Template:
    """A value with holes, in the order of the tensors that belong there."""

    def __init__(self, value: Any, holes: list[torch.Tensor]) -> None:
        self.value = value
        self.holes = holes


class _DigHoles(TorchFunctionMode):
    """Sees the deep copies of tensors inside of objects that cannot be looked into (torch/_tensor.py: __deepcopy__)."""

    def __init__(self, tensors: dict[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__()
        self.tensors = tensors

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.Tensor.__deepcopy__:
            return self.tensors.setdefault(id(args[0]), (args[0], _hole_for(args[0])))[1]
        return function(*args, **(kwargs or {}))


def template_of(value: Any) -> tuple[Template, list[torch.Tensor]]:
    """A template of a value, and the tensors to fill it with. Raises what copying the value raises."""
    tensors = {id(tensor): (tensor, _hole_for(tensor)) for _, tensor in routes_in(value)}
    with _DigHoles(tensors):
        copied = copy.deepcopy(value, {key: hole for key, (_, hole) in tensors.items()})
    found = tensors.values()
    return Template(copied, [hole for _, hole in found]), [tensor for tensor, _ in found]


def filled(template: Template, *tensors: Any) -> Any:
    """A new value made after the template, with these tensors in it."""
    return copy.deepcopy(
        template.value, {id(hole): tensor for hole, tensor in zip(template.holes, tensors, strict=True)}
    )
