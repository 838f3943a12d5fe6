"""Copies live tensors to the emulated device: the same shapes, hooks and identities, without data."""

from __future__ import annotations

import dataclasses
from collections import UserDict
from collections.abc import Callable
from copy import copy as shallow_copy
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.utils.rnn import PackedSequence

from fxgrad.errors import UsageError

_Memo = dict[int, tuple[Any, Any]]
"""Original and copy by the id of the original, which the memo keeps alive."""


def fake_copy(value: Any, device: torch.device, *, memo: _Memo | None = None) -> Any:
    """Replace every tensor in `value` (lists, tuples, dicts, dataclasses, to any depth) by a fake one.

    Call it within `emulate`. A copy has the shape, strides, dtype, requires_grad and the Python attributes of its
    original, is a Parameter if that is one, and has *the same* hook dicts. The same tensor twice becomes the same copy
    twice, also across calls that share a `memo`. What is on the device already stays as it is, as do containers without
    a tensor.

    Integer tensors are copied like all others: their values are lost, and code that reads them raises TargetError.
    Only the ``batch_sizes`` of a PackedSequence, which are on the CPU with any device, keep theirs.

    Raises UsageError for a tensor that is no leaf (the graph behind it cannot be copied), that is not strided, or of a
    subclass with behaviour of its own.
    """
    return _Transfer(device, {} if memo is None else memo, _refuse_non_leaf).copy(value)


def move_module(model: nn.Module, device: torch.device, *, memo: _Memo | None = None) -> None:
    """Swap every parameter, buffer and plain tensor attribute of `model` for its `fake_copy`, in place.

    For the forked child only: the model has no data afterwards. Tied weights stay tied. Attributes that are results of
    an earlier forward (no leaves) are left alone; so are tensors that it reaches by other ways (closures, globals).

    Raises UsageError as `fake_copy`, and for a ScriptModule.
    """
    transfer = _Transfer(device, {} if memo is None else memo, _keep)
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise UsageError("a ScriptModule", "modules in Python", "trace the model before it is scripted")
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: transfer.copy(tensor) for name, tensor in tensors.items()})
        _move_attributes(module, transfer)


def _move_attributes(module: nn.Module, transfer: _Transfer) -> None:
    """Write past ``__setattr__``, which would register Parameters a second time."""
    for name, value in list(module.__dict__.items()):
        if name not in ("_parameters", "_buffers", "_modules"):
            module.__dict__[name] = transfer.copy(value)


@dataclasses.dataclass
class _Transfer:
    device: torch.device
    memo: _Memo
    non_leaf: Callable[[Tensor], Tensor]

    def copy(self, value: Any) -> Any:
        """Copy `value`, once; return `value` itself if nothing in it has to change."""
        if id(value) in self.memo:
            return self.memo[id(value)][1]
        rebuild = _find_rebuild(value)
        if rebuild is None:
            return value
        self.memo[id(value)] = (value, value)  # for containers that hold themselves
        self.memo[id(value)] = (value, rebuild(value, self))
        return self.memo[id(value)][1]


_Rebuild = Callable[[Any, _Transfer], Any]


def _find_rebuild(value: Any) -> _Rebuild | None:
    """Find the function that rebuilds a value of this type; None for types that hold no tensor that we know of."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _rebuild_dataclass
    return next((rebuild for kind, rebuild in _REBUILDERS if isinstance(value, kind)), None)


def _rebuild_tensor(tensor: Tensor, transfer: _Transfer) -> Tensor:
    if isinstance(tensor, FakeTensor) and tensor.fake_device == transfer.device:
        return tensor
    _check_kind(tensor)
    if not tensor.is_leaf:
        return transfer.non_leaf(tensor)
    copy = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=transfer.device)
    if isinstance(tensor, nn.Parameter):
        copy = nn.Parameter(copy, requires_grad=tensor.requires_grad)
    else:
        copy.requires_grad_(tensor.requires_grad)
    copy.__dict__.update({name: value for name, value in tensor.__dict__.items() if name not in copy.__dict__})
    _share_hooks(tensor, copy)
    return copy


def _share_hooks(tensor: Tensor, copy: Tensor) -> None:
    """torch/csrc/autograd/python_variable.cpp: the setters keep the dict that they are given."""
    if tensor._backward_hooks is not None:
        copy._backward_hooks = tensor._backward_hooks
    if tensor._post_accumulate_grad_hooks is not None:
        copy._post_accumulate_grad_hooks = tensor._post_accumulate_grad_hooks


def _check_kind(tensor: Tensor) -> None:
    if torch.nn.parameter.is_lazy(tensor):
        raise UsageError("a lazy parameter, which has no shape yet", "initialized modules", "run one forward first")
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
        kind = "nested" if tensor.is_nested else "quantized" if tensor.is_quantized else tensor.layout
        raise UsageError(f"a tensor of layout {kind}", "strided tensors", "trace on the CPU")
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__ and not isinstance(tensor, FakeTensor):
        raise UsageError(f"a tensor of type {type(tensor).__qualname__}", "plain tensors", "trace on the CPU")


def _refuse_non_leaf(tensor: Tensor) -> Tensor:
    name = "a view" if tensor.grad_fn is None else tensor.grad_fn.name()
    raise UsageError(
        f"a tensor of shape {tuple(tensor.shape)} that is a result of {name}",
        "leaf tensors: the graph behind a result cannot be copied to another device",
        "pass tensor.detach().requires_grad_(), or do the computation inside the model",
    )


def _keep(tensor: Tensor) -> Tensor:
    return tensor


def _rebuild_list(value: list[Any], transfer: _Transfer) -> Any:
    items = [transfer.copy(each) for each in value]
    if all(new is old for new, old in zip(items, value, strict=True)):
        return value
    return items if type(value) is list else _copy_with_items(value, items)


def _copy_with_items(value: list[Any], items: list[Any]) -> Any:
    copy = shallow_copy(value)
    copy[:] = items
    return copy


def _rebuild_tuple(value: tuple[Any, ...], transfer: _Transfer) -> Any:
    items = [transfer.copy(each) for each in value]
    if all(new is old for new, old in zip(items, value, strict=True)):
        return value
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def _rebuild_dict(value: Any, transfer: _Transfer) -> Any:
    items = {key: transfer.copy(each) for key, each in value.items()}
    if all(new is value[key] for key, new in items.items()):
        return value
    copy = shallow_copy(value)
    for key, each in items.items():
        copy[key] = each
    return copy


def _rebuild_dataclass(value: Any, transfer: _Transfer) -> Any:
    names = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
    items = {name: transfer.copy(getattr(value, name)) for name in names}
    if all(new is getattr(value, name) for name, new in items.items()):
        return value
    copy = shallow_copy(value)
    for name, each in items.items():
        object.__setattr__(copy, name, each)
    return copy


def _rebuild_packed(value: PackedSequence, transfer: _Transfer) -> PackedSequence:
    sorted_indices, unsorted_indices = transfer.copy(value.sorted_indices), transfer.copy(value.unsorted_indices)
    return PackedSequence(
        transfer.copy(value.data), _copy_with_values(value.batch_sizes), sorted_indices, unsorted_indices
    )


def _copy_with_values(tensor: Tensor) -> Tensor:
    """Make a fake copy on the CPU whose values FakeTensorMode knows, as those of a constant."""
    mode: Any = torch._guards.detect_fake_mode()
    copy: Tensor = mode.fake_tensor_converter.from_real_tensor(mode, tensor, make_constant=True)
    return copy


_REBUILDERS: tuple[tuple[type, _Rebuild], ...] = (
    (Tensor, _rebuild_tensor),
    (PackedSequence, _rebuild_packed),
    (tuple, _rebuild_tuple),
    (list, _rebuild_list),
    (dict, _rebuild_dict),
    (UserDict, _rebuild_dict),
)
