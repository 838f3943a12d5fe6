"""Takes a full picture of what a program can see: of a model, of tensors and of the process, to hold two against each
other. It shares nothing with `fxgrad.observe.restore`: it looks at everything that can be reached, not at a list."""

from __future__ import annotations

import collections
import functools
import math
import random
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx.experimental import symbolic_shapes  # noqa: F401  (its first import adds filters of warnings)
from torch.nn.modules import module as module_hooks
from torch.utils import _python_dispatch

Picture = dict[str, Any]
"""What is at a place, by the place's name."""

_TABLES = ("_backward_hooks", "_post_accumulate_grad_hooks")
_NUMPY_RANDOM = (np.random.Generator, np.random.RandomState)
_VALUES = (bool, bytes, complex, float, int, str, type(None))


class Same:
    """Equal to the same object only; it holds it, so that no other can take its place."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self.value).__name__} {id(self.value):x}>"


def taken(*things: Any) -> Picture:
    """The picture of some things and all that they hold, and of the process."""
    picture: Picture = dict(_process())
    entered: dict[int, Any] = {}
    stack = [(f"{type(thing).__name__} {rank}", thing) for rank, thing in enumerate(things)]
    stack += [(name, table) for name, table in vars(module_hooks).items() if name.startswith("_global_")]
    while stack:
        place, thing = stack.pop()
        picture[place] = thing if type(thing) in _VALUES else Same(thing)
        if id(thing) not in entered:
            entered[id(thing)] = thing
            for step, value in _inside(thing):
                if step.startswith("="):
                    picture[place + step] = value
                else:
                    stack.append((place + step, value))
    return picture


def changed_by(run: Callable[[], Any], *things: Any) -> list[str]:
    """What differs in a full picture of some things and the process before and after."""
    before = taken(*things)
    run()
    return differences(before, taken(*things))


def differences(before: Picture, after: Picture) -> list[str]:
    """The places where two pictures differ, with both sides."""
    places = [*before, *[place for place in after if place not in before]]
    missing = object()
    pairs = [(place, before.get(place, missing), after.get(place, missing)) for place in places]
    return [
        f"{place}: {'nothing' if old is missing else _short(old)} -> {'nothing' if new is missing else _short(new)}"
        for place, old, new in pairs
        if not _equal(old, new)
    ]


def without_identities(picture: Picture) -> Picture:
    """The same, with each object by when it was seen first: to compare two models that were made alike."""
    ranks: dict[int, int] = {}
    for value in picture.values():
        if isinstance(value, Same):
            ranks.setdefault(id(value.value), len(ranks))
    return {place: _without_identity(place, value, ranks) for place, value in picture.items()}


def _without_identity(place: str, value: Any, ranks: dict[int, int]) -> Any:
    if place.endswith("=members"):
        return len(value)
    if isinstance(value, type):  # parametrized modules have each a class of their own
        return value.__qualname__
    if place.endswith("=storage"):
        return value[1]
    return ranks[id(value.value)] if isinstance(value, Same) else value


def _short(value: Any) -> str:
    return repr(value)[:60]


def _equal(old: Any, new: Any) -> bool:
    if isinstance(old, float) and isinstance(new, float) and math.isnan(old):
        return math.isnan(new)
    return type(old) is type(new) and bool(old == new)


def _inside(thing: Any) -> Iterator[tuple[str, Any]]:
    """What is inside of a thing: values to compare start with "=", the others are looked into."""
    yield "=class", type(thing)
    if isinstance(thing, torch.Tensor):
        yield from _in_tensor(thing)
    elif isinstance(thing, torch.Generator):
        yield "=state", thing.get_state().numpy().tobytes()
    elif isinstance(thing, random.Random):
        yield "=state", thing.getstate()
    elif isinstance(thing, _NUMPY_RANDOM):
        yield "=state", _numpy_state(thing)
    elif isinstance(thing, (dict, list, tuple, set, frozenset, collections.deque)):
        yield from _in_container(thing)
    if isinstance(thing, (torch.Tensor, nn.Module, dict, list, collections.deque)):
        yield from _attributes(thing)


def _numpy_state(generator: Any) -> list[Any]:
    if isinstance(generator, np.random.Generator):
        return [generator.bit_generator.state]
    return [part.tobytes() if isinstance(part, np.ndarray) else part for part in generator.get_state()]


def _in_tensor(tensor: torch.Tensor) -> Iterator[tuple[str, Any]]:
    yield "=version", None if tensor.is_inference() else tensor._version
    yield "=requires_grad", tensor.requires_grad
    yield "=is_leaf", tensor.is_leaf
    yield "=retains_grad", tensor.retains_grad
    yield "=grad_fn", Same(tensor.grad_fn)
    yield "=kind", (tensor.dtype, tensor.layout, tensor.device, tuple(tensor.shape), tensor.is_conj(), tensor.is_neg())
    yield from _contents(tensor.detach())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield ".grad", tensor.grad
    for name in _TABLES:
        yield f".{name}", getattr(tensor, name)


def _contents(tensor: torch.Tensor) -> Iterator[tuple[str, Any]]:
    if tensor.is_meta:
        return
    if tensor.layout is torch.strided:
        yield "=stride", (tensor.stride(), tensor.storage_offset(), tensor.untyped_storage().nbytes())
        yield "=storage", (tensor.untyped_storage()._cdata, _bytes(tensor))
    elif tensor.layout is torch.sparse_coo:
        yield "=entries", (tensor._indices().tolist(), tensor._values().tolist(), tensor.is_coalesced())
    else:
        yield "=dense", tensor.to_dense().tolist()


def _bytes(tensor: torch.Tensor) -> bytes:
    """Not through numpy, which takes hold of the memory: it cannot be resized afterwards."""
    return bytes(torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage()).tolist())


def _in_container(thing: Any) -> Iterator[tuple[str, Any]]:
    yield "=length", len(thing)
    if isinstance(thing, (set, frozenset)):
        yield "=members", {id(member) for member in thing}
        members = sorted(thing, key=id)
        yield from [(f"{{{rank}}}", member) for rank, member in enumerate(members)]
        return
    if isinstance(thing, dict):
        for rank, key in enumerate(list(thing.keys())):
            yield f".key {rank}", key
        thing = list(thing.values())
    yield from [(f"[{rank}]", member) for rank, member in enumerate(thing)]


def _attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    attributes = getattr(thing, "__dict__", None)
    if attributes or isinstance(thing, nn.Module):
        yield ".__dict__", attributes
    for name, member in _slots(type(thing)):
        try:
            yield f".slot {name}", member.__get__(thing)
        except AttributeError:
            yield f"=slot {name}", "not set"


@functools.cache
def _slots(kind: type) -> list[tuple[str, Any]]:
    members = [item for one in kind.__mro__ for item in vars(one).items()]
    return [(name, member) for name, member in members if isinstance(member, types.MemberDescriptorType)]


# The process


def _process() -> Iterator[tuple[str, Any]]:
    yield "torch's random state", torch.get_rng_state().numpy().tobytes()
    yield "Python's random state", random.getstate()
    yield "numpy's random state", _numpy_state(np.random)
    yield "backward hooks are full", module_hooks._global_is_full_backward_hook
    yield "seeds that wait for a device", len(torch.cuda._queued_calls)
    yield from [(name, ask()) for name, ask in SETTINGS.items()]
    for device in ("cpu", "cuda"):
        yield f"autocast on {device}", (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))


def _default_device() -> torch.device:
    try:
        return torch.get_default_device()
    except AttributeError:  # what torch 2.9 makes of set_default_device(None)
        return torch.device("cpu")


SETTINGS: dict[str, Callable[[], Any]] = {
    "grad mode": torch.is_grad_enabled,
    "inference mode": torch.is_inference_mode_enabled,
    "default dtype": torch.get_default_dtype,
    "default device": _default_device,
    "autocast cache": torch.is_autocast_cache_enabled,
    "deterministic algorithms": torch.are_deterministic_algorithms_enabled,
    "deterministic warns only": torch.is_deterministic_algorithms_warn_only_enabled,
    "fills uninitialized memory": lambda: torch.utils.deterministic.fill_uninitialized_memory,
    "float32 matmul precision": torch.get_float32_matmul_precision,
    "warns always": torch.is_warn_always_enabled,
    "anomaly mode": torch.is_anomaly_enabled,
    "anomaly mode checks NaN": torch.is_anomaly_check_nan_enabled,
    "backward in threads": torch._C._is_multithreading_enabled,
    "view replay": torch._C._is_view_replay_enabled,
    "threads": torch.get_num_threads,
    "cudnn benchmark": lambda: torch.backends.cudnn.benchmark,
    "cudnn deterministic": lambda: torch.backends.cudnn.deterministic,
    "cudnn enabled": lambda: torch.backends.cudnn.enabled,
    "mkldnn enabled": lambda: torch.backends.mkldnn.enabled,
    "flash attention": torch.backends.cuda.flash_sdp_enabled,
    "math attention": torch.backends.cuda.math_sdp_enabled,
    "memory efficient attention": torch.backends.cuda.mem_efficient_sdp_enabled,
    "cudnn attention": torch.backends.cuda.cudnn_sdp_enabled,
    "fast path of attention": torch.backends.mha.get_fastpath_enabled,
    "function modes": torch._C._len_torch_function_stack,
    "dispatch modes": torch._C._len_torch_dispatch_stack,
    "a dispatch mode is entered": _python_dispatch.is_in_torch_dispatch_mode,
    "a dispatch mode keeps Dynamo out": _python_dispatch.is_in_any_mode_without_ignore_compile_internals,
    "saved tensors hooks": lambda: torch._C._autograd._top_saved_tensors_default_hooks(True) is None,
    "saved tensors hooks may be": torch._C._autograd._saved_tensors_hooks_is_enabled,
    "torch functions": torch._C._get_torch_function_state,
    "level of forward-mode AD": lambda: torch.autograd.forward_ad._current_level,
    "transforms of torch.func": torch._C._functorch.get_dynamic_layer_stack_depth,
    "profiler": torch.autograd._profiler_enabled,
    "print options": lambda: repr(vars(torch._tensor_str.PRINT_OPTS)),
    "denormals are zero": lambda: sys.float_info.min / 4 == 0,
    "warning filters": lambda: list(warnings.filters),
    "module call": lambda: Same(nn.Module._call_impl),
    "handles": lambda: Same(torch.utils.hooks.RemovableHandle.__init__),
    "apply": lambda: Same(vars(torch.autograd.Function)["apply"]),
}
