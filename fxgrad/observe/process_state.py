"""The state that belongs to no model: random generators and the settings of this thread and process."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.nn.modules import module as module_hooks
from torch.utils._python_dispatch import TorchDispatchMode

Undo = Callable[[], object]

GLOBAL_HOOK_TABLES = tuple(
    table
    for name, table in sorted(vars(module_hooks).items())
    if name.startswith("_global_") and isinstance(table, dict)
)
"""All that torch/nn/modules/module.py has: of forward, backward and registration hooks."""
_GLOBAL_HOOK_FLAG = "_global_is_full_backward_hook"
_DEVICES = ("cuda", "xpu", "mps")
_AUTOCAST_DEVICES = ("cpu", "cuda", "xpu", "mps")
_ATTENTION_KERNELS = ("flash", "math", "mem_efficient", "cudnn")
_PAIRS = (
    "autograd_fallback_mode",
    "cudnn_benchmark",
    "cudnn_deterministic",
    "cudnn_enabled",
    "deterministic_fill_uninitialized_memory",
    "float32_matmul_precision",
    "mkldnn_deterministic",
    "mkldnn_enabled",
    "nnpack_enabled",
)
"""Settings that torch._C gets and sets under these names."""


def waiting_seeds() -> list[list[Any]]:
    """What ``torch.manual_seed`` leaves for devices that are not initialised yet (torch/cuda/__init__.py)."""
    return [queue for name in _DEVICES if isinstance(queue := getattr(_backend(name), "_queued_calls", None), list)]


def _backend(name: str) -> Any:
    return getattr(torch, name, None)


# Random state


def random_state(generators: Iterable[Any]) -> Iterator[Undo]:
    """What puts the generators of torch, of every device that is initialised, Python's, numpy's and those given back."""
    yield _undo_with(torch.set_rng_state, torch.get_rng_state())
    yield _undo_with(random.setstate, random.getstate())
    yield from map(_generator, generators)
    for backend in map(_backend, _DEVICES):
        if backend is not None and backend.is_available() and getattr(backend, "is_initialized", lambda: True)():
            yield _device(backend)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        yield _undo_with(numpy_random.set_state, numpy_random.get_state(legacy=False))


def _generator(generator: Any) -> Undo:
    if isinstance(generator, random.Random):
        return _undo_with(generator.setstate, generator.getstate())
    if hasattr(generator, "bit_generator"):  # numpy's Generator
        return _undo_with(lambda state: setattr(generator.bit_generator, "state", state), generator.bit_generator.state)
    return _undo_with(generator.set_state, generator.get_state())


def _device(backend: Any) -> Undo:
    if hasattr(backend, "get_rng_state_all"):
        return _undo_with(backend.set_rng_state_all, backend.get_rng_state_all())
    return _undo_with(backend.set_rng_state, backend.get_rng_state())


# Settings


def settings() -> Iterator[Undo]:
    """What puts grad mode, autocast, default dtype and device, modes and torch's other settings back; last one first."""
    yield _undo_with(_leave_function_modes, torch._C._len_torch_function_stack())
    yield _undo_with(_leave_dispatch_modes, _dispatch_modes())
    yield _undo_with(_set_hook_flag, getattr(module_hooks, _GLOBAL_HOOK_FLAG))
    yield _setting(torch.is_grad_enabled, torch._C._set_grad_enabled)
    yield _setting(torch.get_default_dtype, torch.set_default_dtype)
    yield _setting(_default_device, _set_default_device)
    yield from map(_autocast, _AUTOCAST_DEVICES)
    yield _setting(torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled)
    if torch._C._is_any_autocast_enabled():
        yield torch.clear_autocast_cache
    yield _setting(_deterministic, lambda now: torch.use_deterministic_algorithms(now[0], warn_only=now[1]))
    yield _setting(_anomaly, lambda now: torch.set_anomaly_enabled(*now))
    yield _setting(torch._C._is_multithreading_enabled, torch._C._set_multithreading_enabled)
    yield _setting(torch._C._is_view_replay_enabled, torch._C._set_view_replay_enabled)
    yield _setting(torch.is_warn_always_enabled, torch.set_warn_always)
    yield _setting(torch.get_num_threads, torch.set_num_threads)
    yield _setting(torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled)
    yield from map(_attention_kernel, _ATTENTION_KERNELS)
    yield from map(_pair, _PAIRS)


def _leave_function_modes(before: int) -> None:
    """Leave the modes that were entered on top of so many, and not left."""
    while torch._C._len_torch_function_stack() > before:
        torch._C._pop_torch_function_stack()


def _dispatch_modes() -> list[TorchDispatchMode]:
    """The modes that are entered. Held, as torch 2.10 crashes where it pops a mode that only its stack holds."""
    return [torch._C._get_dispatch_stack_at(place) for place in range(torch._C._len_torch_dispatch_stack())]


def _leave_dispatch_modes(before: list[TorchDispatchMode]) -> None:
    """Leave those entered since, as their class does: it tells Dynamo, which else would compile nothing any more."""
    entered = _dispatch_modes()
    for mode in before:
        place = next((place for place, now in enumerate(entered) if now is mode), None)
        if place is not None:
            del entered[place]
    for mode in reversed(entered):
        try:
            TorchDispatchMode.__exit__(mode, None, None, None)  # type: ignore[no-untyped-call]
        except (AttributeError, IndexError):  # it was pushed without being entered
            torch._C._pop_torch_dispatch_stack(getattr(mode, "_mode_key", None))


def _set_hook_flag(value: bool | None) -> None:
    setattr(module_hooks, _GLOBAL_HOOK_FLAG, value)


def _default_device() -> torch.device | None:
    mode = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    device: torch.device | None = None if mode is None else mode.device
    return device


def _set_default_device(device: torch.device | None) -> None:
    """Without one there is no attribute, either: ``torch.get_default_device`` of torch 2.9 fails where it is None."""
    torch.set_default_device(device)
    if device is None and getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", "") is None:
        del torch._GLOBAL_DEVICE_CONTEXT.device_context


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _attention_kernel(name: str) -> Undo:
    enable = getattr(torch.backends.cuda, f"enable_{name}_sdp")
    return _setting(getattr(torch.backends.cuda, f"{name}_sdp_enabled"), enable)


def _pair(name: str) -> Undo:
    get, set_to = getattr(torch._C, f"_get_{name}", None), getattr(torch._C, f"_set_{name}", None)
    return (lambda: None) if get is None or set_to is None else _setting(get, set_to)


def _autocast(device: str) -> Undo:
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def undo() -> None:
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, dtype)

    return undo


def _setting(get: Callable[[], Any], set_to: Callable[[Any], object]) -> Undo:
    """Set it only where it has changed. One that cannot be read, as two of torch's interfaces were mixed, is left."""
    try:
        before = get()
    except RuntimeError:
        return lambda: None
    return lambda: None if get() == before else set_to(before)


def _undo_with(setter: Callable[[Any], Any], before: Any) -> Undo:
    return lambda: setter(before)
