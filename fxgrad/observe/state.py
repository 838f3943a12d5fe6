"""Leaves the user's process as it was: what forward changes is put back afterwards, also when it raises.

What is put back: the values, shapes and version counters of parameters, buffers, tensor attributes and input tensors;
``.grad``; every module's ``__dict__`` and class, with the contents of the lists, dicts and sets in it; the global hook
tables; the random state of torch (of every device that is initialised), Python and numpy; grad mode, autocast and the
default dtype. What lies deeper (attributes of the user's own objects, files, globals) is not, nor is the history that an
in-place operation gives to an input.
"""

from __future__ import annotations

import random
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as module_hooks

Undo = Callable[[], None]

_MAPPINGS = (dict, OrderedDict, defaultdict)
_CONTAINERS = (*_MAPPINGS, list, set, deque)
_GLOBAL_HOOK_TABLES = tuple(
    table
    for name, table in sorted(vars(module_hooks).items())
    if name.startswith("_global_") and isinstance(table, dict)
)


@contextmanager
def preserved(model: nn.Module, inputs: Iterable[torch.Tensor]) -> Iterator[None]:
    """Whatever runs inside, `model`, `inputs` and the global state named above are afterwards as they were."""
    modules = list(model.modules())
    containers = _containers([*[module.__dict__ for module in modules], *_GLOBAL_HOOK_TABLES])
    tensors = _distinct([*inputs, *_tensors_in(containers)])
    undo = [
        *[_class_of(module) for module in modules],
        *[_contents_of(container) for container in containers],
        *[_grad_of(tensor) for tensor in tensors if tensor.is_leaf or tensor.retains_grad],
        _values_of(tensors),
        _random_state(),
        _modes(),
    ]
    with ExitStack() as stack:
        for step in undo:
            stack.callback(step)
        yield


def _containers(starts: list[Any]) -> list[Any]:
    """The starts and every builtin container in them, each once; objects of other classes are not entered."""
    found: dict[int, Any] = {}
    stack = starts[::-1]
    while stack:
        container = stack.pop()
        if id(container) not in found:
            found[id(container)] = container
            stack.extend(value for value in _values(container) if type(value) in (*_CONTAINERS, tuple))
    return list(found.values())


def _values(container: Any) -> Iterable[Any]:
    return list(container.values()) if isinstance(container, dict) else list(container)


def _tensors_in(containers: list[Any]) -> list[torch.Tensor]:
    return [value for container in containers for value in _values(container) if isinstance(value, torch.Tensor)]


def _distinct(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _class_of(module: nn.Module) -> Undo:
    before = type(module)

    def undo() -> None:
        if type(module) is not before:
            module.__class__ = before

    return undo


def _contents_of(container: Any) -> Undo:
    """Put the same objects back into the same container; it is not touched when they are all still there."""
    if isinstance(container, tuple):
        return lambda: None
    mapping = isinstance(container, dict)
    before = list(container.items()) if mapping else list(container)

    def undo() -> None:
        now = list(container.items()) if mapping else list(container)
        if not _identical(now, before):
            container.clear()
            container.update(before) if mapping or isinstance(container, set) else container.extend(before)

    return undo


def _identical(now: list[Any], before: list[Any]) -> bool:
    if len(now) != len(before):
        return False
    if now and type(now[0]) is tuple and type(before[0]) is tuple:
        return all(len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True)) for a, b in _tuples(now, before))
    return all(a is b for a, b in zip(now, before, strict=True))


def _tuples(now: list[Any], before: list[Any]) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    for a, b in zip(now, before, strict=True):
        yield (a if type(a) is tuple else (a,)), (b if type(b) is tuple else (b,))


def _grad_of(tensor: torch.Tensor) -> Undo:
    before = tensor.grad

    def undo() -> None:
        if tensor.grad is not before:
            tensor.grad = before

    return undo


def _values_of(tensors: list[torch.Tensor]) -> Undo:
    """Put values back through the storages, which no version counter sees, and then the version counters.

    A live graph of the user's that saved one of the tensors stays valid. An alias, taken before, remembers a tensor's
    storage, sizes and strides, for the case that forward gives it others (``p.data = …``, ``resize_``).
    """
    readable = [tensor for tensor in tensors if _has_values(tensor)]
    aliases = [tensor.detach() for tensor in readable]
    storages = {alias.untyped_storage()._cdata: alias.untyped_storage() for alias in aliases}
    saved = [(storage, storage.clone()) for storage in storages.values()]  # type: ignore[no-untyped-call]
    versions = [tensor._version for tensor in readable]

    def undo() -> None:
        for tensor, alias in zip(readable, aliases, strict=True):
            if not _same_geometry(tensor, alias):
                tensor.data = alias
        for storage, copy in saved:
            _put_back(storage, copy)
        torch._C._autograd._unsafe_set_version_counter(tuple(readable), tuple(versions))

    return undo


def _put_back(storage: torch.UntypedStorage, copy: torch.UntypedStorage) -> None:
    """Write only where something changed: the memory may be a mapped file, or shared."""
    if storage.nbytes() != copy.nbytes():
        storage.resize_(copy.nbytes())
    elif torch.equal(_bytes_of(storage), _bytes_of(copy)):
        return
    storage.copy_(copy)


def _bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _has_values(tensor: torch.Tensor) -> bool:
    """Fake, meta, sparse and wrapper tensors have no plain storage; inference tensors no version counter."""
    plain = type(tensor) in (torch.Tensor, nn.Parameter, nn.Buffer)
    return plain and not tensor.is_meta and tensor.layout is torch.strided and not tensor.is_inference()


def _same_geometry(tensor: torch.Tensor, alias: torch.Tensor) -> bool:
    return (
        tensor.untyped_storage()._cdata == alias.untyped_storage()._cdata
        and tensor.shape == alias.shape
        and tensor.stride() == alias.stride()
        and tensor.storage_offset() == alias.storage_offset()
    )


def _random_state() -> Undo:
    restore = [_undo_with(torch.set_rng_state, torch.get_rng_state()), _undo_with(random.setstate, random.getstate())]
    for name in ("cuda", "xpu", "mps"):
        backend = getattr(torch, name, None)
        if backend is not None and backend.is_available() and getattr(backend, "is_initialized", lambda: True)():
            restore.append(_device_random_state(backend))
    if "numpy" in sys.modules:
        numpy_random = sys.modules["numpy"].random
        restore.append(_undo_with(numpy_random.set_state, numpy_random.get_state()))
    return _all(restore)


def _device_random_state(backend: Any) -> Undo:
    if hasattr(backend, "get_rng_state_all"):
        return _undo_with(backend.set_rng_state_all, backend.get_rng_state_all())
    return _undo_with(backend.set_rng_state, backend.get_rng_state())


def _modes() -> Undo:
    autocast = [
        _undo_with(partial(torch.set_autocast_enabled, device), torch.is_autocast_enabled(device))
        for device in ("cpu", "cuda")
    ]
    return _all(
        [
            _undo_with(torch._C._set_grad_enabled, torch.is_grad_enabled()),
            _undo_with(torch.set_default_dtype, torch.get_default_dtype()),
            *autocast,
        ]
    )


def _undo_with(setter: Callable[[Any], Any], before: Any) -> Undo:
    return lambda: setter(before)


def _all(steps: list[Undo]) -> Undo:
    def undo() -> None:
        for step in steps:
            step()

    return undo
