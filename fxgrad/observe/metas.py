"""Describes tensors and gradients: shape, dtype, device, layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxgrad.graph import TensorMeta
from fxgrad.observe.accelerator.device import public_name


class MetaTable:
    """Makes each TensorMeta once: a graph has few different ones."""

    def __init__(self) -> None:
        self._metas: dict[tuple[object, ...], TensorMeta] = {}
        self._alone: dict[tuple[object, ...], tuple[TensorMeta]] = {}

    def of_tensor(self, tensor: torch.Tensor) -> TensorMeta:
        """Describe a tensor. The shape of a strided nested tensor cannot be read: None."""
        layout = tensor.layout
        shape = None if tensor.is_nested and layout is torch.strided else tensor.shape
        return self._intern(shape, tensor.dtype, tensor.device, layout)

    def of_gradients(self, metadata: Sequence[Any]) -> tuple[TensorMeta, ...]:
        """Describe ``node._input_metadata``: the gradients that the node gets, one for each slot."""
        if len(metadata) != 1:
            return tuple([self._of_gradient(entry) for entry in metadata])
        (entry,) = metadata
        try:
            key = (*entry.shape, entry.dtype, entry.device)
            return self._alone[key]
        except KeyError:
            return self._alone.setdefault(key, (self._of_gradient(entry),))
        except (RuntimeError, TypeError):  # no shape, or a symbolic size that cannot be hashed
            return (self._of_gradient(entry),)

    def _of_gradient(self, metadata: Any) -> TensorMeta:
        try:
            shape = metadata.shape
        except RuntimeError:  # is_cpp_nested_tensor: torch/csrc/autograd/input_metadata.cpp
            shape = None
        return self._intern(shape, metadata.dtype, metadata.device, torch.strided)

    def _intern(
        self, shape: Sequence[object] | None, dtype: torch.dtype, device: torch.device, layout: torch.layout
    ) -> TensorMeta:
        key = (None if shape is None else tuple(shape), dtype, device, layout)
        try:
            return self._metas[key]
        except KeyError:
            pass
        except TypeError:  # a symbolic size that cannot be hashed
            return _tensor_meta(*key)
        meta = self._metas[key] = _tensor_meta(*key)
        return meta


def _tensor_meta(
    shape: tuple[object, ...] | None, dtype: torch.dtype, device: torch.device, layout: torch.layout
) -> TensorMeta:
    sizes = None if shape is None else tuple(size if type(size) is int else str(size) for size in shape)
    return TensorMeta(sizes, _last(dtype), public_name(device), _last(layout))


def _last(name: object) -> str:
    return str(name).rpartition(".")[2]
