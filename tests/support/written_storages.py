"""Runs torch functions, and tells what they wrote to that `Memory` had not copied before."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from fxgrad.observe.copy_on_write import Memory


class Watching(TorchFunctionMode):
    """Tells a memory of each call, as a recorder does."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.memory.before_call(function, types, args, kwargs or {})
        return function(*args, **(kwargs or {}))


class Written:
    """What a run did to some tensors, each of them with a storage that is copied on write.

    ``copied`` are the positions of those that were copied, ``changed`` of those whose bytes are others than before, and
    ``unseen`` of those that changed and were not copied.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], run: Callable[[], Any]) -> None:
        before = [bytes_of(tensor).clone() for tensor in tensors]
        memory = Memory(tensors, weights=tensors, on_write=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with Watching(memory):
                    run()
                self.error: Exception | None = None
            except Exception as error:
                self.error = error
        keys = [tensor.untyped_storage()._cdata for tensor in tensors]
        changed = [not torch.equal(bytes_of(tensor), then) for tensor, then in zip(tensors, before, strict=True)]
        self.changed = {place for place, is_other in enumerate(changed) if is_other}
        self.copied = {place for place, key in enumerate(keys) if key not in memory._uncopied}
        self.unseen = self.changed - self.copied


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """All that is in the storage of a tensor."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


def strided(value: Any) -> list[torch.Tensor]:
    """The tensors in a value that have one storage each, and are not complex: those are copied at once."""
    tensors = [leaf for leaf in tree_flatten(value)[0] if type(leaf) in (torch.Tensor, torch.nn.Parameter)]
    plain = [each for each in tensors if each.layout is torch.strided and not each.is_complex()]
    return list({each.untyped_storage()._cdata: each for each in plain}.values())
