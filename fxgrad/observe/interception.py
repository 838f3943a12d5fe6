"""Wraps, while a forward is recorded, what every program goes through.

The wrapped methods belong to the whole process, so calls from other threads are passed on as they are.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._functorch import eager_transforms
from torch._functorch import vmap as vmap_transform
from torch.autograd import forward_ad
from torch.autograd.function import Function, _SingleLevelFunction
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import BackwardHook

from fxgrad.observe.compiler import watched_compile

if TYPE_CHECKING:
    from fxgrad.observe.forward import ForwardRecorder

_TRANSFORMS = (
    (vmap_transform, "_flat_vmap"),
    (vmap_transform, "restore_vmap"),
    (eager_transforms, "grad_and_value_impl"),
    (eager_transforms, "_jvp_with_argnums"),
)
"""What the transforms of torch.func go through: the tensors inside of them exist only there."""
_KERNELS = (
    *("blas", "cpu_allow", "cublas", "cudnn", "deterministic", "float32", "fp32", "linalg", "math_sdp", "miopen"),
    *("mkldnn", "nnpack", "onednn", "qengine", "rocm", "sdp"),
)
_SEEDS = ("manual_seed", "manual_seed_all", "seed", "seed_all", "set_rng_state", "set_rng_state_all")
_SETTERS = (
    *[
        (torch._C, name, "it chooses which kernels run")  # as torch.backends and torch.nn.attention.sdpa_kernel do
        for name in dir(torch._C)
        if name.startswith(tuple([f"_set_{kind}" for kind in _KERNELS]))
    ],
    *[
        (owner, name, "it sets the random state")
        for owner in (torch, torch.random, torch.cuda, torch.cuda.random)
        for name in _SEEDS
        if hasattr(owner, name)
    ],
    (forward_ad, "enter_dual_level", "it enters a level of forward-mode AD"),
)
"""Functions that change what others compute, and why the recorded calls alone are then not the run."""
_SCRIPTED = (torch._C.ScriptFunction, torch._C.ScriptMethod)
"""TorchScript runs its functions without Python, so no mode sees what they do."""

_APPLIES = _SingleLevelFunction if isinstance(vars(Function)["apply"], classmethod) else Function
"""Where every ``apply`` of a custom Function passes: what ``Function.apply`` calls by ``super()``, which also catches a
``MyFunction.apply`` that was kept from before; from torch 2.14 on it calls nothing but C (torch/autograd/function.py)."""


@contextmanager
def intercepted(recorder: ForwardRecorder) -> Iterator[None]:
    """While it is entered, `recorder` is called instead of the wrapped methods."""
    replacements: list[tuple[Any, str, Any]] = []
    mode = _FunctionMode(recorder)

    @contextmanager
    def paused() -> Iterator[None]:
        """Inside it nothing is wrapped: what is compiled there is not to run into what is wrapped."""
        wrapped = [(owner, name, vars(owner).get(name)) for owner, name, _ in replacements]
        with ExitStack() as stack:
            for owner, name, now in wrapped:
                stack.callback(_put_back, owner, name, now)
                _put_back(owner, name, originals[owner, name])
            stack.enter_context(mode.left_out())
            yield

    replacements += [
        (nn.Module, "_call_impl", _module_call(recorder)),
        (BackwardHook, "setup_input_hook", _method(recorder, BackwardHook.setup_input_hook, recorder.input_hook)),
        (BackwardHook, "setup_output_hook", _method(recorder, BackwardHook.setup_output_hook, recorder.output_hook)),
        (_APPLIES, "apply", classmethod(_apply(recorder))),
        (torch.Tensor, "as_subclass", _as_subclass(recorder)),
        (threading.Thread, "start", _start(recorder)),
        (torch, "compile", watched_compile(recorder, paused)),
        (torch.autograd, "_engine_run_backward", _unseen(recorder, vars(torch.autograd)["_engine_run_backward"])),
        (torch._C, "DisableTorchFunction", _unseen(recorder, torch._C.DisableTorchFunction)),
        *[(owner, name, _whole(recorder, getattr(owner, name))) for owner, name in _TRANSFORMS],
        (eager_transforms, "_vjp_with_argnums", _vjp(recorder)),
        *[(owner, name, _setter(recorder, getattr(owner, name), reason)) for owner, name, reason in _SETTERS],
        *[(owner, "__call__", _scripted(recorder, owner.__call__)) for owner in _SCRIPTED],
    ]
    originals = {(owner, name): vars(owner).get(name) for owner, name, _ in replacements}
    with ExitStack() as stack:
        for owner, name, replacement in replacements:
            stack.callback(_put_back, owner, name, originals[owner, name])
            setattr(owner, name, replacement)
        stack.callback(replacements.clear)  # they hold what pauses them, which holds them
        stack.enter_context(mode)
        yield


def _put_back(owner: Any, name: str, before: Any) -> None:
    if before is None:  # it was inherited
        if name in vars(owner):
            delattr(owner, name)
    else:
        setattr(owner, name, before)


class _FunctionMode(TorchFunctionMode):
    def __init__(self, recorder: ForwardRecorder) -> None:
        super().__init__()
        self.call = recorder.functions.call
        self.memory = recorder.memory

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.memory is not None:
            self.memory.before_call(function, types, args, kwargs)
        return self.call(function, args, kwargs)

    def __exit__(self, *_: object) -> None:
        """Leave this mode, whichever the program entered meanwhile and did not leave: those stay."""
        _push(self._taken_off()[0])

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Inside it the other modes are there, this one is not."""
        above, was_there = self._taken_off()
        _push(above)
        try:
            yield
        finally:
            above = [torch._C._pop_torch_function_stack() for _ in above]
            _push([*above, self] if was_there else above)

    def _taken_off(self) -> tuple[list[Any], bool]:
        """Take this mode and those above it off the stack; those above, from the top, and whether this one was there."""
        above: list[Any] = []
        while torch._C._len_torch_function_stack():
            mode = torch._C._pop_torch_function_stack()
            if mode is self:
                return above, True
            above.append(mode)
        return above, False


def _module_call(recorder: ForwardRecorder) -> Callable[..., Any]:
    call_impl: Callable[..., Any] = nn.Module._call_impl

    def watched_call_impl(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if recorder.ignores_this_thread():
            return call_impl(module, *args, **kwargs)
        return recorder.module_call(call_impl, module, args, kwargs)

    return watched_call_impl


def _unseen(recorder: ForwardRecorder, function: Callable[..., Any]) -> Callable[..., Any]:
    """The engine calls hooks, and accumulates gradients; and no mode sees what runs while torch functions are disabled."""

    def watched(*args: Any, **kwargs: Any) -> Any:
        if not _is_fxgrads(sys._getframe(1)):
            recorder.before_unseen_code()
        return function(*args, **kwargs)

    return watched


def _is_fxgrads(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("fxgrad.")


def _method(recorder: ForwardRecorder, method: Callable[..., Any], watch: Callable[..., Any]) -> Callable[..., Any]:
    def watched(hook: BackwardHook, values: Any) -> Any:
        return method(hook, values) if recorder.ignores_this_thread() else watch(method, hook, values)

    return watched


def _apply(recorder: ForwardRecorder) -> Callable[..., Any]:
    apply = vars(torch._C._FunctionBase)["apply"]

    def watched_apply(function: Any, *args: Any, **kwargs: Any) -> Any:
        bound = apply.__get__(None, function)
        if recorder.ignores_this_thread():
            return bound(*args, **kwargs)
        return recorder.functions.apply(bound, function, args, kwargs)

    return watched_apply


def _as_subclass(recorder: ForwardRecorder) -> Callable[..., Any]:
    """No mode sees it (``get_ignored_functions`` in torch/overrides.py), but it makes a node."""
    as_subclass = torch.Tensor.as_subclass

    def watched(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if recorder.ignores_this_thread():
            return as_subclass(tensor, *args, **kwargs)
        return recorder.functions.call(as_subclass, (tensor, *args), kwargs)

    return watched


def _start(recorder: ForwardRecorder) -> Callable[..., Any]:
    start = threading.Thread.start

    def watched_start(thread: threading.Thread) -> None:
        recorder.other_threads = True
        recorder.before_unseen_code()
        start(thread)

    return watched_start


def _setter(recorder: ForwardRecorder, setter: Callable[..., Any], reason: str) -> Callable[..., Any]:
    def watched(*args: Any, **kwargs: Any) -> Any:
        # inside of a recorded call it is that call's affair: what calls it again sets it again
        if not recorder.ignores_this_thread() and not recorder.functions.is_hidden():
            recorder.functions.refuse(reason)
        return setter(*args, **kwargs)

    return watched


def _push(modes: Sequence[Any]) -> None:
    """Put modes back on the stack of torch functions; the last one first."""
    for mode in reversed(modes):
        torch._C._push_on_torch_function_stack(mode)


def _whole(recorder: ForwardRecorder, function: Callable[..., Any]) -> Callable[..., Any]:
    def watched(*args: Any, **kwargs: Any) -> Any:
        if recorder.ignores_this_thread():
            return function(*args, **kwargs)
        return recorder.functions.whole(function, function, args, kwargs)

    return watched


def _vjp(recorder: ForwardRecorder) -> Callable[..., Any]:
    """The transform returns a function, and calls of that are part of the run, too."""
    watched = _whole(recorder, eager_transforms._vjp_with_argnums)

    def watched_vjp(*args: Any, **kwargs: Any) -> Any:
        result, vjp_fn, *aux = watched(*args, **kwargs)
        return (result, functools.wraps(vjp_fn)(_whole(recorder, vjp_fn)), *aux)

    return watched_vjp


def _scripted(recorder: ForwardRecorder, call: Callable[..., Any]) -> Callable[..., Any]:
    def watched(function: Any, *args: Any, **kwargs: Any) -> Any:
        if recorder.ignores_this_thread():
            return call(function, *args, **kwargs)
        recorder.before_unseen_code()
        return recorder.functions.whole(functools.partial(call, function), function, args, kwargs)

    return watched
