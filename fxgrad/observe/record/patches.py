"""Monkey-patches torch while a forward is recorded, and holds torch.compile back: a compiled region would show as one node.

The patches belong to the whole process, so calls from other threads are passed on as they are. torch's own operators with
functions for arguments (``torch.cond``) are compiled whenever they are called, and are other operators where they are
not: those keep the compiler that the program has.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch._functorch import eager_transforms
from torch._functorch import vmap as vmap_transform
from torch.autograd import forward_ad
from torch.autograd.function import Function, _SingleLevelFunction
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import BackwardHook

from fxgrad.observe.record.recorder import Recorder

_TRANSFORMS = (
    (vmap_transform, "_flat_vmap"),
    (vmap_transform, "restore_vmap"),
    (eager_transforms, "grad_and_value_impl"),
    (eager_transforms, "_jvp_with_argnums"),
)
"""What the transforms of torch.func go through: the tensors inside of them exist only there."""
_SCRIPTED = (torch._C.ScriptFunction, torch._C.ScriptMethod)
"""TorchScript runs its functions without Python, so no mode sees what they do."""
_UNSEEN = ((torch.autograd, "_engine_run_backward"), (torch._C, "DisableTorchFunction"))
"""The engine calls hooks and accumulates gradients, and no mode sees what runs while torch functions are disabled."""

_KERNELS = (
    *("blas", "cpu_allow", "cublas", "cudnn", "deterministic", "float32", "fp32", "linalg", "math_sdp", "miopen"),
    *("mkldnn", "nnpack", "onednn", "qengine", "rocm", "sdp"),
)
_SEEDS = ("manual_seed", "manual_seed_all", "seed", "seed_all", "set_rng_state", "set_rng_state_all")
_CUDA = (torch.cuda, torch.cuda.random) if torch.backends.cuda.is_built() else ()  # type: ignore[no-untyped-call]
_RANDOM = (torch, torch.random, *_CUDA)
_SETTERS = {
    # what torch.backends and torch.nn.attention.sdpa_kernel call
    "it selects kernels": [
        (torch._C, name) for name in dir(torch._C) if name.startswith(tuple([f"_set_{kind}" for kind in _KERNELS]))
    ],
    "it sets the random state": [(owner, name) for owner in _RANDOM for name in _SEEDS if hasattr(owner, name)],
    "it enters a level of forward-mode AD": [(forward_ad, "enter_dual_level")],
}
"""Functions that change what others compute: why the recorded calls alone do not tell what the run computed. What is set
through ``torch.default_generator`` itself goes past them; of that `OpRecorder` sees another seed."""

Attribute = tuple[Any, str, Any]
"""An owner, the name of an attribute, and its value; None for one that is inherited."""

_APPLIES = _SingleLevelFunction if isinstance(vars(Function)["apply"], classmethod) else Function
"""Where every ``apply`` of a custom Function passes: what ``Function.apply`` calls by ``super()``, which also catches a
``MyFunction.apply`` that was kept from before; from torch 2.14 on it calls nothing but C (torch/autograd/function.py)."""


@contextmanager
def patch_torch(recorder: Recorder, compiler: Compiler) -> Iterator[None]:
    """While it is entered, torch calls `recorder` instead of the methods that every program goes through."""
    originals: list[Attribute] = []
    mode = _FunctionMode(recorder)

    @contextmanager
    def unpatched() -> Iterator[None]:
        patched = [(owner, name, vars(owner).get(name)) for owner, name, _ in originals]
        _set_all(originals)
        try:
            with mode.left_out():
                yield
        finally:
            _set_all(patched)

    def patch(owner: Any, name: str, record: Callable[..., Any]) -> Attribute:
        return owner, name, _replace(recorder, getattr(owner, name), record)

    record_whole, record_scripted = _record_whole(recorder), _record_scripted(recorder)
    patches: list[Attribute] = [
        (nn.Module, "_call_impl", _patch_call_impl(recorder)),
        (_APPLIES, "apply", _patch_apply(recorder)),
        (torch, "compile", patch_compile(recorder, compiler, unpatched)),
        (threading.Thread, "start", _patch_start(recorder)),
        patch(BackwardHook, "setup_input_hook", recorder.set_up_input_hook),
        patch(BackwardHook, "setup_output_hook", recorder.set_up_output_hook),
        patch(torch.Tensor, "as_subclass", _record_as_subclass(recorder)),
        patch(eager_transforms, "_vjp_with_argnums", _record_vjp(recorder)),
        *[patch(owner, name, record_whole) for owner, name in _TRANSFORMS],
        *[patch(owner, "__call__", record_scripted) for owner in _SCRIPTED],
        *[(owner, name, _patch_unseen(recorder, vars(owner)[name])) for owner, name in _UNSEEN],
    ]
    for reason, setters in _SETTERS.items():
        note_setter = _note_setter(recorder, reason)
        patches += [patch(owner, name, note_setter) for owner, name in setters]
    originals += [(owner, name, vars(owner).get(name)) for owner, name, _ in patches]
    try:
        _set_all(patches)
        with mode:
            yield
    finally:
        _set_all(originals)


def _set_all(attributes: Sequence[Attribute]) -> None:
    for owner, name, value in attributes:
        if value is not None:
            setattr(owner, name, value)
        elif name in vars(owner):  # it was inherited
            delattr(owner, name)


class _FunctionMode(TorchFunctionMode):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.call = recorder.ops.call
        self.memory = recorder.memory

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.memory is not None:
            self.memory.before_call(function, types, args, kwargs)
        return self.call(function, args, kwargs)

    def __exit__(self, *_: object) -> None:
        """Leave this mode. Modes that the program entered meanwhile and did not leave stay."""
        _push(self._take_off()[0])

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Inside it the other modes are there, this one is not."""
        above, was_there = self._take_off()
        _push(above)
        try:
            yield
        finally:
            above = [torch._C._pop_torch_function_stack() for _ in above]
            _push([*above, self] if was_there else above)

    def _take_off(self) -> tuple[list[Any], bool]:
        """Take this mode and those above it off the stack; those above, from the top, and whether this one was there."""
        above: list[Any] = []
        while torch._C._len_torch_function_stack():
            mode = torch._C._pop_torch_function_stack()
            if mode is self:
                return above, True
            above.append(mode)
        return above, False


def _push(modes: Sequence[Any]) -> None:
    """Put modes back on the stack of torch functions; the last one first."""
    for mode in reversed(modes):
        torch._C._push_on_torch_function_stack(mode)


def _replace(recorder: Recorder, original: Callable[..., Any], record: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls ``record(original, …)`` in the recorded thread, and `original` everywhere else."""

    def patched(*args: Any, **kwargs: Any) -> Any:
        if recorder.ignores_this_thread():
            return original(*args, **kwargs)
        return record(original, *args, **kwargs)

    return patched


def _patch_call_impl(recorder: Recorder) -> Callable[..., Any]:
    call_impl: Callable[..., Any] = nn.Module._call_impl

    def patched(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if recorder.ignores_this_thread():
            return call_impl(module, *args, **kwargs)
        return recorder.call_module(call_impl, module, args, kwargs)

    return patched


def _patch_apply(recorder: Recorder) -> Any:
    apply = vars(torch._C._FunctionBase)["apply"]

    def patched(function: Any, *args: Any, **kwargs: Any) -> Any:
        bound = apply.__get__(None, function)
        if recorder.ignores_this_thread():
            return bound(*args, **kwargs)
        return recorder.ops.apply(bound, function, args, kwargs)

    return classmethod(patched)


def _patch_start(recorder: Recorder) -> Callable[..., Any]:
    start = threading.Thread.start

    def patched(thread: threading.Thread) -> None:
        recorder.other_threads = True
        recorder.before_unseen_code()
        start(thread)

    return patched


def _patch_unseen(recorder: Recorder, original: Callable[..., Any]) -> Callable[..., Any]:
    def patched(*args: Any, **kwargs: Any) -> Any:
        if not str(sys._getframe(1).f_globals.get("__name__")).startswith("fxgrad."):
            recorder.before_unseen_code()
        return original(*args, **kwargs)

    return patched


def _record_as_subclass(recorder: Recorder) -> Callable[..., Any]:
    """No mode sees it (``get_ignored_functions`` in torch/overrides.py), but it makes a node."""

    def record(as_subclass: Any, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return recorder.ops.call(as_subclass, (tensor, *args), kwargs)

    return record


def _record_whole(recorder: Recorder) -> Callable[..., Any]:
    def record(function: Any, *args: Any, **kwargs: Any) -> Any:
        return recorder.ops.call_whole(function, function, args, kwargs)

    return record


def _record_vjp(recorder: Recorder) -> Callable[..., Any]:
    """The transform returns a function, and calls of that are part of the run, too."""
    record_whole = _record_whole(recorder)

    def record(vjp: Any, *args: Any, **kwargs: Any) -> Any:
        result, vjp_fn, *aux = record_whole(vjp, *args, **kwargs)
        return (result, functools.wraps(vjp_fn)(_replace(recorder, vjp_fn, record_whole)), *aux)

    return record


def _record_scripted(recorder: Recorder) -> Callable[..., Any]:
    def record(call: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        recorder.before_unseen_code()
        return recorder.ops.call_script(functools.partial(call, function), function, args, kwargs)

    return record


def _note_setter(recorder: Recorder, reason: str) -> Callable[..., Any]:
    def record(setter: Any, *args: Any, **kwargs: Any) -> Any:
        if not recorder.ops.is_hidden():  # what a recorded call sets inside, it sets again when it is called again
            recorder.ops.refuse(reason)
        return setter(*args, **kwargs)

    return record


# torch.compile


_EAGER = "force_eager"
Context = Callable[[], AbstractContextManager[Any]]


class Compiler:
    """torch.compile, as far as it has been imported: importing it takes seconds.

    `unwatched` is a context in which no registration of a hook is seen: what the compiler registers is not the program's.
    """

    def __init__(self, unwatched: Context) -> None:
        self._unwatched: Context = unwatched
        self._held_back = ExitStack()
        self._stance: Any = None

    def hold_back(self) -> None:
        """Let compiled code run as it is written from now on, until `let_go`."""
        if self._stance is None and (frames := sys.modules.get("torch._dynamo.eval_frame")) is not None:
            self._stance = frames._stance
            self._held_back.enter_context(torch.compiler.set_stance(_EAGER))

    @property
    def is_off(self) -> bool:
        """Whether the program itself lets compiled code run as it is written."""
        return self._stance is not None and self._stance.stance == _EAGER

    def let_go(self) -> None:
        """Put back the stance that the program has chosen; nothing that was watched is held any more."""
        self._stance, self._unwatched = None, nullcontext
        self._held_back.close()

    @contextmanager
    def free(self) -> Iterator[None]:
        """Inside it the compiler does what it does without fxgrad."""
        with self._as_chosen(), self._unwatched():
            yield

    def _as_chosen(self) -> AbstractContextManager[Any]:
        chosen = self._stance
        if chosen is None or self.is_off:
            return nullcontext()
        options = {"skip_guard_eval_unsafe": chosen.skip_guard_eval_unsafe, "force_backend": chosen.backend}
        freed: AbstractContextManager[Any] = torch.compiler.set_stance(chosen.stance, **options)
        return freed


def patch_compile(recorder: Recorder, compiler: Compiler, unpatched: Context) -> Callable[..., Callable[..., Any]]:
    """``torch.compile`` for a program that is recorded. `unpatched` is a context in which torch is not monkey-patched: what
    is compiled there must not see the patches.

    Operators that take functions compile themselves (torch/_higher_order_ops/utils.py, ``_hop_compile_and_call``); each
    call of one is recorded as a whole.
    """
    compile_function: Callable[..., Callable[..., Any]] = torch.compile

    def record_compile(*args: Any, **kwargs: Any) -> Callable[..., Any]:
        compiled = compile_function(*args, **kwargs)
        if recorder.ignores_this_thread():
            return compiled
        if not _is_torchs(sys._getframe(1)):
            compiler.hold_back()
            return compiled

        def call_compiled(*args: Any, **kwargs: Any) -> Any:
            recorder.before_unseen_code()
            with unpatched(), compiler.free():
                return compiled(*args, **kwargs)

        def record_call(*args: Any, **kwargs: Any) -> Any:
            return recorder.ops.call_whole(call_compiled, compiled, args, kwargs)

        return record_call

    return record_compile


def _is_torchs(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "torch"
