"""Copies of tensors. Those of tensors in one memory are in one memory again, so that what is written to one is seen in
the others.

Sources relied on: torch/_utils.py (``_rebuild_tensor``: a tensor is its storage, offset, size and stride).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

MemoryKey = int


class Window(NamedTuple):
    """Which part of a memory a tensor is."""

    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def on(self, storage: torch.UntypedStorage) -> torch.Tensor:
        """A tensor that is this part of `storage`."""
        empty = torch.empty(0, dtype=self.dtype, device=storage.device)
        return empty.set_(storage, self.offset, self.size, self.stride)


def window_of(tensor: torch.Tensor) -> Window:
    """The part of its memory that a tensor is; only for one that has a `memory_key`."""
    return Window(tensor.dtype, int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride())


def memory_key(tensor: torch.Tensor) -> MemoryKey | None:
    """Tells the memory of a tensor apart from others; None for what is more than a part of a memory: other classes,
    lazy conjugates, sparse and quantized tensors, and those that have no values."""
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
    if not plain or tensor.is_nested or tensor.is_quantized or tensor.is_meta or tensor.is_conj() or tensor.is_neg():
        return None
    key: MemoryKey = tensor.untyped_storage()._cdata
    return key


class MemoryCopies:
    """Copies of memories, each made when the first tensor in it is copied."""

    def __init__(self) -> None:
        self._copies: dict[MemoryKey, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """A leaf with the same value, in the copy of the tensor's memory."""
        try:
            with torch._C.DisableTorchFunction(), torch.inference_mode(mode=False):
                key = memory_key(tensor)
                return copy_of(tensor) if key is None else self._in_copy(tensor, key)
        except Exception:  # a mode of PyTorch's that is entered, as for fake tensors, makes something else of it
            return copy_of(tensor)

    def _in_copy(self, tensor: torch.Tensor, key: MemoryKey) -> torch.Tensor:
        if key not in self._copies:
            storage = tensor.untyped_storage()
            self._copies[key] = storage, storage.clone()  # type: ignore[no-untyped-call]
        return window_of(tensor).on(self._copies[key][1]).requires_grad_(tensor.requires_grad)


def copy_of(tensor: torch.Tensor) -> torch.Tensor:
    """A leaf with the same value; the tensor itself, where its class cannot be copied."""
    try:
        with torch.no_grad():
            return tensor.detach().clone().requires_grad_(tensor.requires_grad)
    except Exception:  # the user's own class, or a tensor that has no values
        return tensor
