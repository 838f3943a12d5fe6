"""Puts the values of tensors back: through their storages, so that no version counter and no graph sees it.

A live graph of the user's that saved one of the tensors stays valid: the version counters are put back as well
(torch/csrc/autograd/saved_variable.cpp compares them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_COMPRESSED = {
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}


def remembered_memory(tensors: Iterable[torch.Tensor]) -> Callable[[], None]:
    """Remember values, sizes and version counters; what is returned puts them back.

    An alias of each tensor remembers its storage and geometry, for the case that it is given others (``p.data = …``,
    ``resize_``, operations that give a sparse tensor other indices). Fake and meta tensors have no values.
    """
    kept = list(tensors)
    counted = [tensor for tensor in kept if not tensor.is_inference()]
    versions = [tensor._version for tensor in counted]
    aliases = [(tensor, tensor.detach()) for tensor in kept if _is_plain(tensor) or _is_sparse(tensor)]
    storages = {storage._cdata: storage for tensor in kept for storage in _storages(tensor)}
    saved = [(storage, storage.clone()) for storage in storages.values()]

    def undo() -> None:
        for tensor, alias in aliases:
            if not _is_alias(tensor, alias):
                tensor.data = alias
        for storage, copy in saved:
            _put_back(storage, copy)
        torch._C._autograd._unsafe_set_version_counter(tuple(counted), tuple(versions))

    return undo


def _storages(tensor: torch.Tensor) -> Iterator[Any]:
    stack = [tensor]
    while stack:
        part = stack.pop()
        if _is_plain(part):
            if not part.is_meta:
                yield part.untyped_storage()
        else:
            stack.extend(_parts(part.detach()))


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor has one storage of its own: it is strided, and its class leaves dispatch alone."""
    dispatches = type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
    return not dispatches and tensor.layout is torch.strided


def _is_sparse(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.sparse_coo or tensor.layout in _COMPRESSED


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensors that a sparse tensor, or a tensor of a wrapping class, is made of."""
    if is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        return [getattr(tensor, name) for name in names]
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    return [getattr(tensor, name)() for name in _COMPRESSED.get(tensor.layout, ())]


def _is_alias(tensor: torch.Tensor, alias: torch.Tensor) -> bool:
    """Whether a tensor is still made of the same memory, seen in the same way."""
    if tensor.layout is not alias.layout or _kind(tensor) != _kind(alias):
        return False
    if tensor.layout is not torch.strided:
        parts = zip(_parts(tensor), _parts(alias), strict=True)
        return tensor.shape == alias.shape and all(_same_geometry(part, other) for part, other in parts)
    return tensor.is_nested or _same_geometry(tensor, alias)


def _kind(tensor: torch.Tensor) -> tuple[torch.dtype, bool, bool]:
    return tensor.dtype, tensor.is_conj(), tensor.is_neg()


def _same_geometry(tensor: torch.Tensor, alias: torch.Tensor) -> bool:
    return (
        tensor.untyped_storage()._cdata == alias.untyped_storage()._cdata
        and tensor.shape == alias.shape
        and tensor.stride() == alias.stride()
        and tensor.storage_offset() == alias.storage_offset()
    )


def _put_back(storage: Any, copy: Any) -> None:
    """Write only where something changed: the memory may be a mapped file, or shared."""
    if storage.nbytes() != copy.nbytes():
        storage.resize_(copy.nbytes())
    elif torch.equal(_bytes_of(storage), _bytes_of(copy)):
        return
    storage.copy_(copy)


def _bytes_of(storage: Any) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
