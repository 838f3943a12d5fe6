"""Leaves the user's process as it was: what forward changes is put back afterwards, also when it raises.

What is put back: of parameters, buffers, tensor attributes and input tensors the values, shapes, version counters,
``requires_grad``, ``.grad`` with its values, and the tables of hooks; every module's ``__dict__`` and class, and the
lists, dicts and sets in it and in the arguments; the global hook tables; the random state of torch (of every device
that is initialised), of Python, of numpy and of generators that modules hold; grad mode, autocast and default dtype.

What lies deeper (attributes of the user's own objects, files, globals) is not, nor is the history that an in-place
operation gives to an input that is a view or had a history before.
"""

from __future__ import annotations

import random
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as module_hooks

from fxgrad.observe.memory import remembered_memory
from fxgrad.observe.names import modules_of
from fxgrad.observe.structure import tensors_in

Undo = Callable[[], object]

_MAPPINGS = (dict, OrderedDict, defaultdict, Counter)
_CONTAINERS = (*_MAPPINGS, list, set, deque)
_GLOBAL_HOOK_TABLES = tuple(
    table
    for name, table in sorted(vars(module_hooks).items())
    if name.startswith("_global_") and isinstance(table, dict)
)
_GLOBAL_HOOK_FLAG = "_global_is_full_backward_hook"
_TENSOR_HOOK_TABLES = ("_backward_hooks", "_post_accumulate_grad_hooks")
_AUTOCAST_DEVICES = ("cpu", "cuda", "xpu", "mps")


@contextmanager
def preserved(model: nn.Module, arguments: Any) -> Iterator[None]:
    """Whatever runs inside, `model`, the tensors in `arguments` and the global state are afterwards as they were."""
    with ExitStack() as stack:
        with torch._C.DisableTorchFunction():
            for undo in _steps(modules_of(model), arguments):
                stack.callback(_without_torch_function, undo)
        yield


def _without_torch_function(undo: Undo) -> None:
    """The user's tensor subclasses, and modes that are entered, are not asked."""
    with torch._C.DisableTorchFunction():
        undo()


def _steps(modules: Sequence[nn.Module], arguments: Any) -> Iterator[Undo]:
    containers = _containers([*[vars(module) for module in modules], *_GLOBAL_HOOK_TABLES, arguments])
    inputs = [tensor for _, tensor in tensors_in(arguments).tensors]
    tensors = _distinct([*inputs, *_members(containers, torch.Tensor)])
    grads = [tensor.grad for tensor in tensors if _may_have_grad(tensor) and tensor.grad is not None]
    hook_tables = [table for tensor in tensors for table in _hook_tables(tensor) if table is not None]
    yield _random_state(_members(containers, torch.Generator), _members(containers, random.Random))
    yield _modes()
    yield from map(_class_of, modules)
    yield from map(_contents_of, _containers([*containers, *hook_tables]))
    yield _global_hook_flag()
    yield from map(_hooks_of, tensors)
    yield from [_grad_of(tensor) for tensor in tensors if _may_have_grad(tensor)]
    yield remembered_memory(_distinct([*tensors, *grads]))
    yield from [_gradient_flow_of(tensor) for tensor in tensors if not tensor.is_inference()]


# Python's side


def _containers(starts: Iterable[Any]) -> list[Any]:
    """The starts and every builtin container in them, each once; objects of other classes are not entered."""
    found: dict[int, Any] = {}
    stack = list(starts)[::-1]
    while stack:
        container = stack.pop()
        if id(container) not in found and type(container) in (*_CONTAINERS, tuple):
            found[id(container)] = container
            stack.extend(value for value in _values(container) if type(value) in (*_CONTAINERS, tuple))
    return list(found.values())


def _values(container: Any) -> list[Any]:
    return list(container.values() if isinstance(container, dict) else container)


def _members(containers: Iterable[Any], kind: type) -> list[Any]:
    return [value for container in containers for value in _values(container) if isinstance(value, kind)]


def _distinct(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _class_of(module: nn.Module) -> Undo:
    before = type(module)

    def undo() -> None:
        if type(module) is not before:
            module.__class__ = before

    return undo


def _contents_of(container: Any) -> Undo:
    """Put the same objects back into the same container; it is not touched when they are all still there."""
    if type(container) is tuple:
        return lambda: None
    before = _flat(container)

    def undo() -> None:
        now = _flat(container)
        if len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
            _refill(container, before)

    return undo


def _flat(container: Any) -> list[Any]:
    """The members; of a mapping all keys, then all values."""
    return [*container, *container.values()] if isinstance(container, dict) else list(container)


def _refill(container: Any, flat: list[Any]) -> None:
    container.clear()
    if isinstance(container, dict):
        middle = len(flat) // 2
        container.update(zip(flat[:middle], flat[middle:], strict=True))
    elif isinstance(container, set):
        container.update(flat)
    else:
        container.extend(flat)


# torch's side


def _may_have_grad(tensor: torch.Tensor) -> bool:
    """Whether ``.grad`` may be read: of others PyTorch warns."""
    return tensor.is_leaf or tensor.retains_grad


def _grad_of(tensor: torch.Tensor) -> Undo:
    before = tensor.grad

    def undo() -> None:
        if tensor.grad is not before:
            tensor.grad = before

    return undo


def _hook_tables(tensor: torch.Tensor) -> list[Any]:
    return [getattr(tensor, name, None) for name in _TENSOR_HOOK_TABLES]


def _hooks_of(tensor: torch.Tensor) -> Undo:
    """Take away the tables that a tensor had not; autograd may hold on to a table, so it is emptied first."""
    before = _hook_tables(tensor)

    def undo() -> None:
        for name, table, now in zip(_TENSOR_HOOK_TABLES, before, _hook_tables(tensor), strict=True):
            if table is None and now is not None:
                now.clear()
                setattr(tensor, name, None)

    return undo


def _gradient_flow_of(tensor: torch.Tensor) -> Undo:
    """Put ``requires_grad`` back, and take away the history that an in-place operation gave to a leaf."""
    was_leaf, requires_grad = tensor.is_leaf, tensor.requires_grad

    def undo() -> None:
        if was_leaf and not tensor.is_leaf and not tensor._is_view():
            tensor.detach_()
        if was_leaf and tensor.is_leaf and tensor.requires_grad != requires_grad:
            tensor.requires_grad_(requires_grad)

    return undo


def _global_hook_flag() -> Undo:
    before = getattr(module_hooks, _GLOBAL_HOOK_FLAG)
    return lambda: setattr(module_hooks, _GLOBAL_HOOK_FLAG, before)


# Global state


def _random_state(generators: Iterable[torch.Generator], randoms: Iterable[random.Random]) -> Undo:
    restore = [_undo_with(torch.set_rng_state, torch.get_rng_state()), _undo_with(random.setstate, random.getstate())]
    restore += [_undo_with(generator.set_state, generator.get_state()) for generator in generators]
    restore += [_undo_with(one.setstate, one.getstate()) for one in randoms]
    for name in ("cuda", "xpu", "mps"):
        backend = getattr(torch, name, None)
        if backend is not None and backend.is_available() and getattr(backend, "is_initialized", lambda: True)():
            restore.append(_device_random_state(backend))
    if "numpy.random" in sys.modules:
        numpy_random = sys.modules["numpy.random"]
        restore.append(_undo_with(numpy_random.set_state, numpy_random.get_state()))
    return _all(restore)


def _device_random_state(backend: Any) -> Undo:
    if hasattr(backend, "get_rng_state_all"):
        return _undo_with(backend.set_rng_state_all, backend.get_rng_state_all())
    return _undo_with(backend.set_rng_state, backend.get_rng_state())


def _modes() -> Undo:
    return _all(
        [
            _undo_with(torch._C._set_grad_enabled, torch.is_grad_enabled()),
            _undo_with(torch.set_default_dtype, torch.get_default_dtype()),
            _undo_with(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled()),
            *map(_autocast, _AUTOCAST_DEVICES),
        ]
    )


def _autocast(device: str) -> Undo:
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def undo() -> None:
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, dtype)

    return undo


def _undo_with(setter: Callable[[Any], Any], before: Any) -> Undo:
    return lambda: setter(before)


def _all(steps: list[Undo]) -> Undo:
    def undo() -> None:
        for step in steps:
            step()

    return undo
