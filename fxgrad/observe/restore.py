"""Puts back what forward changed, also when it raises.

What is put back:

- of every tensor that the model or the arguments hold, as parameter, buffer, attribute or member of a container: values,
  shape, strides, dtype, storage, version counter, ``requires_grad``, ``.grad`` with its values, hooks, attributes, class;
- of every module that they hold, also in attributes and containers that ``named_modules`` does not look into: its
  ``__dict__``, ``__slots__`` and class; so its parameters, buffers, submodules, hooks, flags and attributes;
- the lists, dicts, sets and deques in all these, nested to any depth, those of derived classes too: the same members in
  the same order (sets: as Python puts them);
- the random state of torch (of every device that is initialised), of Python, of numpy, and of the generators of these
  three that are held; seeds that wait for a device;
- of modules that ``fully_shard`` has sharded (FSDP2): which parameters are gathered, and what else FSDP keeps account of;
- the global hook tables; grad mode, autocast, the default dtype and device, deterministic algorithms, anomaly mode, print
  options and the other settings in `_settings`; modes of torch functions and of dispatch, hooks on saved tensors, levels
  of torch.func and of forward-mode AD and a profiler that were not left.

What is not: attributes of objects of other classes, class attributes, globals, closures and files, and what is reached
only through these; numpy arrays; attributes of scripted modules other than tensors; ``retain_grad`` on an input; the
history that an in-place operation gives to an input that is a view or had a history before; what torch or Python warn
of once in a process. What other threads do meanwhile to random states and to settings that belong to the process is
undone, too.

The values of a parameter are copied only when something is about to write to them: see `Memory`. A write to a parameter
that could not be seen coming (by a thread that was there before, by C++ code that is no operator) is not undone, and a
warning names the parameter.

Inside an autocast region of the caller, the casts of weights that the region keeps are dropped: those of the traced run
must not be used later, so the caller's next run casts again. Numbers that only tell one from another go on: autograd's
sequence numbers, and the ids of hook handles. Nodes of the user's own graph that are looked at for hooks keep an empty
table.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import is_
from types import MemberDescriptorType
from typing import Any, NamedTuple

import torch
from torch import _tensor_str, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as module_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from fxgrad.graph.text import escape
from fxgrad.observe.copy_on_write import Memory
from fxgrad.observe.record.names import list_modules, list_tensor_paths
from fxgrad.observe.record.tensors import find_tensors, is_leaf
from fxgrad.observe.sharding import list_sharding_state

Undo = Callable[[], object]

_DisableTorchFunction = torch._C.DisableTorchFunction
"""The user's tensor subclasses, and modes that are entered, are not asked."""


@contextmanager
def preserve(model: nn.Module, arguments: Any, *, on_write: bool = False) -> Iterator[Memory]:
    """Whatever runs inside, `model`, what is in `arguments` and the global state are afterwards as they were.

    ``on_write``: values are copied when something is about to write to them. The caller then passes every torch function
    call to `Memory.before_call` and calls `Memory.copy_all` before what no mode sees. Otherwise all is copied at once.
    """
    function_state = torch._C._get_torch_function_state()  # type: ignore[attr-defined]
    with _DisableTorchFunction():
        undos, memory = _take_stock(model, arguments, on_write=on_write)
    try:
        yield memory
    finally:
        torch._C._set_torch_function_state(function_state)  # type: ignore[attr-defined]
        with _DisableTorchFunction():
            _each(lambda undo: undo(), undos)
            _warn_of_lost(model, memory.lost)


def _take_stock(model: nn.Module, arguments: Any, *, on_write: bool) -> tuple[list[Undo], Memory]:
    """What puts all back, in the order in which to call it, and the values."""
    inputs = [tensor for _, tensor in find_tensors(arguments).tensors]
    sharding = list_sharding_state(list_modules(model))
    held = _Reachable([model, arguments, *inputs, *sharding, *_GLOBAL_HOOK_TABLES, *_waiting_seeds()])
    weights = [state.tensor for state in held.tensors if issubclass(state.kind, nn.Parameter)]
    grads = [state.grad for state in held.tensors if state.grad is not None]
    memory = Memory([state.tensor for state in held.tensors], weights=[*weights, *grads], on_write=on_write)
    undos: list[Undo] = [
        *_settings(),  # first: what follows is to run in no mode that forward has left entered
        partial(_each, _put_gradient_flow_back, held.tensors),
        memory.put_back,
        partial(_each, _put_tensor_back, held.tensors),
        partial(_each, _put_contents_back, held.containers),
        partial(_each, _put_module_back, held.modules),
        *_random_states(held.generators),
    ]
    return undos, memory


def _each(undo: Callable[[Any], object], states: Iterable[Any]) -> None:
    """Undo all of them, whatever one raises; then raise that."""
    failure: BaseException | None = None
    for state in states:
        try:
            undo(state)
        except BaseException as error:
            failure = error
    if failure is not None:
        raise failure


# What can be reached

_MAPPINGS: tuple[type, ...] = (OrderedDict, dict)
_BUILTINS: tuple[type, ...] = (*_MAPPINGS, list, set, deque, tuple, frozenset)
_WRAPPED_TABLES = ("_parameters", "_buffers", "_modules")
"""Of a scripted module they are no dicts (torch/jit/_script.py: OrderedDictWrapper)."""
_HOOK_TABLES = ("_backward_hooks", "_post_accumulate_grad_hooks")
_NOTHING = object()


class _Module(NamedTuple):
    """``slots`` are the descriptors of its ``__slots__``, each with what is in it."""

    module: nn.Module
    kind: type
    table: dict[str, Any]
    slots: list[tuple[Any, Any]]


class _Tensor(NamedTuple):
    """``tables`` are those of its hooks, None where there is none."""

    tensor: torch.Tensor
    kind: type
    tables: list[Any]
    grad: torch.Tensor | None
    was_leaf: bool
    requires_grad: bool


_Container = tuple[Any, Any, list[Any]]
"""A container, the builtin class that it is or is derived from, and its members."""


class _Reachable:
    """What can be reached from some starts, each object once, as it is now.

    Entered are modules, wherever they are held, and the builtin containers, those of derived classes too; through the
    methods of the builtin, as the user's class may have others. Objects of other classes are not entered, nor asked
    anything: `isinstance` would ask an object for its ``__class__``.
    """

    def __init__(self, starts: Iterable[Any]) -> None:
        self.modules: list[_Module] = []
        self.containers: list[_Container] = []
        self.tensors: list[_Tensor] = []
        self.generators: list[Any] = []
        self._slots: dict[type, list[Any]] = {}
        ways_in: dict[type, Callable[[Any], list[Any]] | None] = {}
        entered: dict[int, Any] = {}  # held, so that no other object gets the same id
        stack = list(starts)
        while stack:
            thing = stack.pop()
            try:
                enter = ways_in[type(thing)]
            except KeyError:
                enter = ways_in[type(thing)] = self._way_into(type(thing))
            if enter is not None and id(thing) not in entered:
                entered[id(thing)] = thing
                stack += enter(thing)

    def _way_into(self, kind: type) -> Callable[[Any], list[Any]] | None:
        """What notes an object of a class and returns what it holds; None where there is nothing to note."""
        if issubclass(kind, nn.Module):
            return self._enter_module
        if issubclass(kind, torch.Tensor):
            return self._enter_tensor
        if issubclass(kind, _generator_types()):
            return self._enter_generator
        base = next((base for base in _BUILTINS if issubclass(kind, base)), None)
        if base in (tuple, frozenset):  # nothing can change in them
            return partial(_members, base)
        return None if base is None else partial(self._enter_container, base)

    def _enter_module(self, module: nn.Module) -> list[Any]:
        kind, table = type(module), vars(module)
        if kind not in self._slots:
            members = [member for one in kind.__mro__ for member in vars(one).values()]
            self._slots[kind] = [member for member in members if type(member) is MemberDescriptorType]
        slots = [(slot, _slot_value(module, slot)) for slot in self._slots[kind]]
        self.modules.append(_Module(module, kind, table, slots))
        tables = [table.get(name) for name in _WRAPPED_TABLES]
        wrapped = [value for one in tables if one is not None and not isinstance(one, dict) for value in one.values()]
        return [table, *[value for _, value in slots], *wrapped]

    def _enter_tensor(self, tensor: torch.Tensor) -> list[Any]:
        leaf = is_leaf(tensor)
        tables = [getattr(tensor, name, None) for name in _HOOK_TABLES]
        grad = tensor.grad if leaf or tensor.retains_grad else None  # of other tensors PyTorch warns
        self.tensors.append(_Tensor(tensor, type(tensor), tables, grad, leaf, tensor.requires_grad))
        return [vars(tensor), *tables, grad]

    def _enter_container(self, base: Any, container: Any) -> list[Any]:
        members = _members(base, container) if base.__len__(container) else []
        self.containers.append((container, base, members))
        return members

    def _enter_generator(self, generator: Any) -> list[Any]:
        self.generators.append(generator)
        return []


def _members(base: Any, container: Any) -> list[Any]:
    """The members of a builtin container; of a mapping all keys, then all values."""
    members = list(base.__iter__(container))
    return members + list(base.values(container)) if base in _MAPPINGS else members


def _slot_value(owner: Any, slot: Any) -> Any:
    try:
        return slot.__get__(owner)
    except AttributeError:  # nothing is in it
        return _NOTHING


def _put_contents_back(state: _Container) -> None:
    """Put the same objects back into the same container; it is not touched when they are all still there."""
    container, base, members = state
    if not members and not base.__len__(container):  # as most tables of hooks
        return
    now = _members(base, container)
    if len(now) == len(members) and all(map(is_, now, members)):
        return
    base.clear(container)
    if base in _MAPPINGS:
        middle = len(members) // 2
        for key, value in zip(members[:middle], members[middle:], strict=True):
            base.__setitem__(container, key, value)
    elif base is set:
        set.update(container, members)
    else:
        base.extend(container, members)


def _put_module_back(state: _Module) -> None:
    module, kind, table, slots = state
    if type(module) is not kind:
        object.__setattr__(module, "__class__", kind)
    if vars(module) is not table:
        object.__setattr__(module, "__dict__", table)
    for slot, value in slots:
        if _slot_value(module, slot) is not value:
            if value is _NOTHING:
                slot.__delete__(module)
            else:
                slot.__set__(module, value)


def _put_gradient_flow_back(state: _Tensor) -> None:
    """Put ``requires_grad`` back, and take away the history that an in-place operation gave to a leaf."""
    tensor = state.tensor
    if not state.was_leaf or tensor.is_inference():
        return
    if not is_leaf(tensor) and not tensor._is_view():
        tensor.detach_()
    if is_leaf(tensor) and tensor.requires_grad != state.requires_grad:
        tensor.requires_grad_(state.requires_grad)


def _put_tensor_back(state: _Tensor) -> None:
    """Put ``.grad`` and the class back, and take away the tables of hooks that it had not."""
    tensor = state.tensor
    if (is_leaf(tensor) or tensor.retains_grad) and tensor.grad is not state.grad:
        tensor.grad = state.grad
    for name, table in zip(_HOOK_TABLES, state.tables, strict=True):
        now = getattr(tensor, name, None)
        if table is None and now is not None:
            now.clear()  # autograd may hold on to it
            setattr(tensor, name, None)
    if type(tensor) is not state.kind:
        object.__setattr__(tensor, "__class__", state.kind)


def _warn_of_lost(model: nn.Module, lost: Sequence[torch.Tensor]) -> None:
    if not lost:
        return
    tables = [*list_tensor_paths(model, "_parameters"), *list_tensor_paths(model, "_buffers")]
    paths = {id(tensor): path for path, tensor in reversed(tables)}
    names = [escape(paths[id(one)]) if id(one) in paths else f"a tensor of shape {tuple(one.shape)}" for one in lost]
    warnings.warn(
        (
            f"fxgrad cannot put back the values of {', '.join(names)}: they were written during forward by something "
            "other than a PyTorch call that Python sees; load them again, or trace a copy of the model (copy.deepcopy)"
        ),
        stacklevel=2,
    )


# Random states

_DEVICES = ("cuda", "xpu", "mps")


def _generator_types() -> tuple[type, ...]:
    types: tuple[type, ...] = (torch.Generator, random.Random)
    numpy_random = sys.modules.get("numpy.random")
    return types if numpy_random is None else (*types, numpy_random.Generator, numpy_random.RandomState)


def _waiting_seeds() -> list[list[Any]]:
    """What ``torch.manual_seed`` leaves for devices that are not initialised yet (torch/cuda/__init__.py)."""
    backends = [getattr(torch, name, None) for name in _DEVICES]
    return [queue for backend in backends if isinstance(queue := getattr(backend, "_queued_calls", None), list)]


def _random_states(generators: Iterable[Any]) -> Iterator[Undo]:
    """What puts the generators of torch, of every device that is initialised, Python's, numpy's and those given back."""
    yield partial(torch.set_rng_state, torch.get_rng_state())
    yield partial(random.setstate, random.getstate())
    yield from map(_random_state, generators)
    for name in _DEVICES:
        backend = getattr(torch, name, None)
        if backend is not None and backend.is_available() and getattr(backend, "is_initialized", lambda: True)():
            every = "_all" if hasattr(backend, "get_rng_state_all") else ""
            yield partial(getattr(backend, f"set_rng_state{every}"), getattr(backend, f"get_rng_state{every}")())
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        yield partial(numpy_random.set_state, numpy_random.get_state(legacy=False))


def _random_state(generator: Any) -> Undo:
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    if hasattr(generator, "bit_generator"):  # numpy's Generator
        return partial(setattr, generator.bit_generator, "state", generator.bit_generator.state)
    return partial(generator.set_state, generator.get_state())


# Settings of this thread and process

_GLOBAL_HOOK_TABLES = tuple(
    table
    for name, table in sorted(vars(module_hooks).items())
    if name.startswith("_global_") and isinstance(table, dict)
)
"""All that torch/nn/modules/module.py has: of forward, backward and registration hooks."""
_GLOBAL_HOOK_FLAG = "_global_is_full_backward_hook"
_AUTOCAST_DEVICES = ("cpu", "cuda", "xpu", "mps")
_NAMES_IN_C = (
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


def _settings() -> Iterator[Undo]:
    """What puts modes, grad mode, autocast, default dtype and device, and torch's other settings back."""
    yield partial(_leave_transforms, torch._C._functorch.get_dynamic_layer_stack_depth())
    yield partial(_leave_dual_levels, forward_ad._current_level)
    yield partial(_leave_function_modes, torch._C._len_torch_function_stack())
    yield partial(_leave_dispatch_modes, _dispatch_modes())
    if not torch._C._autograd._profiler_enabled():
        yield _stop_profiler
    yield partial(setattr, module_hooks, _GLOBAL_HOOK_FLAG, getattr(module_hooks, _GLOBAL_HOOK_FLAG))
    if torch._C._is_any_autocast_enabled():
        yield torch.clear_autocast_cache
    for get, set_to in _getters_and_setters():
        try:
            before = get()
        except RuntimeError:  # it cannot be read, as two of torch's interfaces were mixed; it is left
            continue
        yield partial(_set_if_changed, get, set_to, before)


def _set_if_changed(get: Callable[[], Any], set_to: Callable[[Any], object], before: Any) -> None:
    if get() != before:
        set_to(before)


def _getters_and_setters() -> Iterator[tuple[Callable[[], Any], Callable[[Any], object]]]:
    yield torch.is_grad_enabled, torch._C._set_grad_enabled
    yield torch.get_default_dtype, torch.set_default_dtype
    yield _default_device, _set_default_device
    yield torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled
    for device in _AUTOCAST_DEVICES:
        yield partial(torch.is_autocast_enabled, device), partial(torch.set_autocast_enabled, device)
        yield partial(torch.get_autocast_dtype, device), partial(torch.set_autocast_dtype, device)
    yield _deterministic, lambda now: torch.use_deterministic_algorithms(now[0], warn_only=now[1])
    yield _anomaly, lambda now: torch.set_anomaly_enabled(*now)
    yield torch._C._is_multithreading_enabled, torch._C._set_multithreading_enabled
    yield torch._C._is_view_replay_enabled, torch._C._set_view_replay_enabled
    yield torch.is_warn_always_enabled, torch.set_warn_always
    yield torch.get_num_threads, torch.set_num_threads
    yield torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled
    yield _saved_tensors_hooks, _set_saved_tensors_hooks
    yield lambda: dict(vars(_tensor_str.PRINT_OPTS)), vars(_tensor_str.PRINT_OPTS).update
    yield _flushes_denormals, torch.set_flush_denormal
    attention = torch.backends.cuda
    yield attention.flash_sdp_enabled, attention.enable_flash_sdp
    yield attention.math_sdp_enabled, attention.enable_math_sdp
    yield attention.mem_efficient_sdp_enabled, attention.enable_mem_efficient_sdp
    yield attention.cudnn_sdp_enabled, attention.enable_cudnn_sdp
    for name in _NAMES_IN_C:
        get, set_to = getattr(torch._C, f"_get_{name}", None), getattr(torch._C, f"_set_{name}", None)
        if get is not None and set_to is not None:
            yield get, set_to


def _saved_tensors_hooks() -> tuple[str | None, list[Any]]:
    """Why there may be none, and those that are entered, the innermost first. Only its top can be read of the stack."""
    autograd = torch._C._autograd
    refusal = autograd._saved_tensors_hooks_get_disabled_error_message()
    entered: list[Any] = []
    while (top := autograd._top_saved_tensors_default_hooks(True)) is not None:
        entered.append(top)
        autograd._pop_saved_tensors_default_hooks()
    for hooks in reversed(entered):
        autograd._push_saved_tensors_default_hooks(*hooks)
    return refusal, entered


def _set_saved_tensors_hooks(state: tuple[str | None, list[Any]]) -> None:
    autograd, (refusal, entered) = torch._C._autograd, state
    autograd._saved_tensors_hooks_enable()
    while autograd._top_saved_tensors_default_hooks(True) is not None:
        autograd._pop_saved_tensors_default_hooks()
    for hooks in reversed(entered):
        autograd._push_saved_tensors_default_hooks(*hooks)
    if refusal is not None:
        autograd._saved_tensors_hooks_disable(refusal)


def _flushes_denormals() -> bool:
    """Nothing of torch says it; the setting is the processor's, and Python computes with it, too."""
    return sys.float_info.min / 4 == 0


def _leave_transforms(before: int) -> None:
    torch._C._functorch.pop_dynamic_layer_stack_and_undo_to_depth(before)


def _leave_dual_levels(before: int) -> None:
    while forward_ad._current_level > before:
        forward_ad.exit_dual_level()  # type: ignore[no-untyped-call]


def _stop_profiler() -> None:
    if torch._C._autograd._profiler_enabled():
        torch._C._autograd._disable_profiler()


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _default_device() -> torch.device | None:
    mode = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    device: torch.device | None = None if mode is None else mode.device
    return device


def _set_default_device(device: torch.device | None) -> None:
    """Without one there is no attribute, either: ``torch.get_default_device`` of torch 2.9 fails where it is None."""
    torch.set_default_device(device)
    if device is None and getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", "") is None:
        del torch._GLOBAL_DEVICE_CONTEXT.device_context


def _leave_function_modes(before: int) -> None:
    """Leave the modes that were entered on top of so many, and not left."""
    while torch._C._len_torch_function_stack() > before:
        torch._C._pop_torch_function_stack()


def _dispatch_modes() -> list[TorchDispatchMode]:
    """The modes that are entered. Held, as torch 2.10 crashes where it pops a mode that only its stack holds."""
    return [torch._C._get_dispatch_stack_at(place) for place in range(torch._C._len_torch_dispatch_stack())]


def _leave_dispatch_modes(before: list[TorchDispatchMode]) -> None:
    """Leave those entered since through their class, which informs Dynamo: else Dynamo would not compile any more."""
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
