"""Watches one forward run: the module calls, the function calls, and which nodes each of them made.

Nothing is changed in what runs: a ``TorchFunctionMode`` sees the function calls, and while the recording lasts four
methods are wrapped that every program goes through: ``Module._call_impl``, ``BackwardHook.setup_input_hook`` and
``setup_output_hook``, and ``Function.apply``. They are process-wide, so calls from other threads are passed on as they
are. Autograd's sequence number before and after each call is what ties nodes to calls (torch/csrc/autograd/function.h).

Sources relied on: torch/nn/modules/module.py (_call_impl), torch/utils/hooks.py (BackwardHook), torch/overrides.py.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction
from torch.utils.hooks import BackwardHook

from fxgrad.errors import UsageError
from fxgrad.observe.frames import user_calls_module, user_frames
from fxgrad.observe.metas import MetaTable
from fxgrad.observe.seen import (
    Earlier,
    Producer,
    SeenFunctionCall,
    SeenModuleCall,
    SeenTensor,
    legacy_tensor,
    next_sequence_nr,
    origin_of,
)
from fxgrad.observe.structure import tensors_in

_CHANGES_METADATA = frozenset(
    [
        "__set__",
        "as_strided_",
        "detach_",
        "requires_grad_",
        "resize_",
        "resize_as_",
        "set_",
        "squeeze_",
        "swapaxes_",
        "swapdims_",
        "t_",
        "transpose_",
        "unsqueeze_",
    ]
)
_WITHOUT_EFFECT = frozenset({"retain_grad", "__get__", "__delete__"})
"""Functions that return None and whose call changes no value."""
_CONTAINERS = (list, tuple, dict)
_DEEPEST_ARGUMENT = 20

_recording = threading.Lock()


class ForwardRecorder:
    """What happened while `recording` was entered. All of it is live: make records of it, then drop it."""

    def __init__(self, metas: MetaTable, known: Iterable[torch.Tensor]) -> None:
        self.metas = metas
        self.thread = threading.get_ident()
        self.module_calls: list[SeenModuleCall] = []
        self.function_calls: list[SeenFunctionCall] = []
        self.constants: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.started = self.ended = next_sequence_nr()
        self.other_threads = False
        self.in_loss = False
        self.failed: SeenModuleCall | None = None
        self.base_frame: FrameType | None = None
        self.retained: dict[int, tuple[SeenModuleCall | None, int]] = {}
        self._current: SeenModuleCall | None = None
        self._finished = 0
        self._inside_function = 0
        self._inside_checkpoint = 0
        self._arguments: list[torch.Tensor] = []
        self._known_tensors = list(known)
        self._known = {id(tensor) for tensor in self._known_tensors}
        self._producers: dict[int, Producer] = {}
        self._versions: dict[int, int] = {}

    # Function calls

    def function_call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a torch function, and note what it got, what it returned and which nodes it made."""
        if self._inside_function:
            return function(*args, **kwargs)
        name = getattr(function, "__name__", "")
        if name in _CHANGES_METADATA:
            self._settle_metas(args)
        if name == "retain_grad" and args:
            self.retained.setdefault(id(args[0]), self.running())
        return self._run(function, function, args, kwargs, needs_result=name in _WITHOUT_EFFECT)

    def function_apply(self, apply: Any, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a custom Function's ``apply`` as one call; the operations inside its forward are not recorded."""
        if self._inside_function:
            return apply(*args, **kwargs)
        if not issubclass(function, CheckpointFunction):
            return self._run(apply, function, args, kwargs, needs_result=True)
        self._inside_checkpoint += 1  # its operations are recorded as they run in forward: under no_grad
        try:
            return apply(*args, **kwargs)
        finally:
            self._inside_checkpoint -= 1

    def _run(
        self,
        call: Callable[..., Any],
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        needs_result: bool,
    ) -> Any:
        self._arguments = []
        seen = SeenFunctionCall(target, self._freeze(args, 0), self._freeze(kwargs, 0) if kwargs else kwargs)
        with torch._C.DisableTorchFunction():
            before = [(self._earlier(tensor), _version(tensor)) for tensor in self._arguments]
        self._inside_function += 1
        start = next_sequence_nr()
        try:
            result = call(*args, **kwargs)
        finally:
            self._inside_function -= 1
        with torch._C.DisableTorchFunction():
            self._note_results(seen, result)
            seen.changes = [earlier for earlier, version in before if version != _version(earlier.tensor)]
            detaches = getattr(target, "__name__", "") == "detach"
            seen.aliases = [_shared(tensor, before, detaches=detaches) for _, tensor in seen.results]
        if seen.results or (result is None and not needs_result):
            seen.window = (start, next_sequence_nr())
            seen.frames = user_frames(self.base_frame)
            seen.module_call = self._current
            seen.in_loss = self.in_loss
            self.function_calls.append(seen)
        return result

    def _freeze(self, value: Any, depth: int) -> Any:
        """A copy of the argument's containers, which may change later. New tensors in it become constants."""
        kind = type(value)
        if isinstance(value, torch.Tensor):
            if id(value) not in self._known:
                self._add_constant(value)
            self._arguments.append(value)
            return value
        if kind not in _CONTAINERS or depth > _DEEPEST_ARGUMENT:
            return value
        if kind is dict:
            return {key: self._freeze(member, depth + 1) for key, member in value.items()}
        return kind([self._freeze(member, depth + 1) for member in value])

    def _earlier(self, tensor: torch.Tensor) -> Earlier:
        return Earlier(tensor, self._producers.get(id(tensor)))

    def _add_constant(self, tensor: torch.Tensor) -> None:
        self._known.add(id(tensor))
        with torch.no_grad():
            copy = tensor.detach().clone().requires_grad_(tensor.requires_grad)
        self.constants.append((tensor, copy))

    def _note_results(self, seen: SeenFunctionCall, result: Any) -> None:
        if isinstance(result, torch.Tensor):
            seen.results.append(((), result))
        elif type(result) not in (int, bool, float, str, torch.Size, torch.dtype, torch.device, type(None)):
            seen.results.extend(tensors_in(result).tensors)
        seen.result_type = type(result)
        number = len(self.function_calls)
        for position, (_, tensor) in enumerate(seen.results):
            self._note_result(seen, tensor, (number, position))

    def _note_result(self, seen: SeenFunctionCall, tensor: torch.Tensor, producer: Producer) -> None:
        self._known.add(id(tensor))
        self._producers[id(tensor)] = producer
        base = self._note_version(tensor)
        if not tensor.requires_grad:
            return
        origin = origin_of(tensor)
        if origin is not None:
            seen.origins.append((*origin, producer[1]))
        # An in-place operation on a view gives its base a new grad_fn, CopySlices (torch/csrc/autograd/variable.cpp).
        if base is not None and seen.args and tensor is seen.args[0] and not base.is_leaf:
            seen.origins.append((base.grad_fn, base.output_nr, None))  # type: ignore[arg-type]

    def _note_version(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Remember that a view is up to date now; its base, None where it is no view."""
        if not tensor._is_view() or tensor.is_inference():
            return None
        self._versions[id(tensor)] = tensor._version
        return tensor._base

    def _settle_metas(self, args: tuple[Any, ...]) -> None:
        """A result that is about to change its shape in place is described before it does."""
        number, _ = self._producers.get(id(args[0]) if args else 0, (None, None))
        if number is not None and self.function_calls[number].metas is None:
            seen = self.function_calls[number]
            seen.metas = [self.metas.of_tensor(tensor) for _, tensor in seen.results]

    def _is_stale(self, tensor: torch.Tensor) -> bool:
        """Whether reading ``grad_fn`` might make a node: a view whose base was changed since it was last seen."""
        if not tensor._is_view() or tensor.is_inference():
            return False
        return self._versions.get(id(tensor)) != tensor._version

    # Module calls

    def module_call(self, call_impl: Any, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a module, and note its arguments as forward gets them, its final result and the nodes made meanwhile."""
        call = SeenModuleCall(module, self._current, len(self.module_calls))
        call.in_loss = self.in_loss
        call.checkpointed = self._checkpointed()
        call.frames = user_frames(self.base_frame)
        call.on_source_line = user_calls_module()
        self.module_calls.append(call)
        self._current = call
        call.kwargs = kwargs
        self._note_inputs(call, args)
        try:
            with self._watched_pre_hooks(call):
                result = call_impl(module, *args, **kwargs)
            call.completed = True
        except BaseException:
            self.failed = self.failed or call
            raise
        finally:
            call.end = next_sequence_nr()
            self._finished += 1
            call.finished = self._finished
            self._current = call.parent
        self._note_outputs(call, result)
        return result

    def _note_outputs(self, call: SeenModuleCall, result: Any) -> None:
        call.result = result
        with torch._C.DisableTorchFunction():
            call.legacy_tensor, call.legacy_reason = legacy_tensor(result)
            if call.legacy_tensor is not None and any(kind.is_legacy for kind, _, _ in call.hooks):
                self._note_version(call.legacy_tensor)  # the hook has read its grad_fn a moment ago
            found = tensors_in(result, ("result",)).tensors
            call.outputs = [self._seen(path, tensor) for path, tensor in found]

    def _note_inputs(self, call: SeenModuleCall, args: tuple[Any, ...]) -> None:
        """Note the arguments of a call; forward pre-hooks may replace them, so this may come twice."""
        call.args = args
        with torch._C.DisableTorchFunction():
            found = [*tensors_in(args, ("args",)).tensors, *tensors_in(call.kwargs, ("kwargs",)).tensors]
            call.inputs = [self._seen(path, tensor) for path, tensor in found]

    def _seen(self, path: tuple[str | int, ...], tensor: torch.Tensor) -> SeenTensor:
        return SeenTensor(path, tensor, self._producers.get(id(tensor)), stale=self._is_stale(tensor))

    @contextmanager
    def _watched_pre_hooks(self, call: SeenModuleCall) -> Iterator[None]:
        """Put one more forward pre-hook behind the module's own, for this call: it sees what they made of the args."""
        hooks = call.module._forward_pre_hooks
        if not hooks:
            yield
            return
        key = -1 - call.number

        def note_and_leave(_: nn.Module, args: tuple[Any, ...]) -> None:
            hooks.pop(key, None)
            call.forward_start = next_sequence_nr()
            self._note_inputs(call, args)

        hooks[key] = note_and_leave
        try:
            yield
        finally:
            hooks.pop(key, None)

    def _checkpointed(self) -> str | None:
        if self._inside_checkpoint:
            return "reentrant"
        top = torch._C._autograd._top_saved_tensors_default_hooks(True)
        # torch/utils/checkpoint.py packs what is saved inside a non-reentrant checkpoint with this function
        inside = top is not None and getattr(top[0], "__qualname__", "").startswith("_checkpoint_hook.")
        return "non-reentrant" if inside else None

    def input_hook(self, setup: Any, hook: BackwardHook, args: tuple[Any, ...]) -> Any:
        """See the BackwardHookFunction that a full hook puts on the inputs of the current call."""
        call = self._current
        start = next_sequence_nr()
        result = setup(hook, args)
        if call is not None and call.module is hook.module:
            call.backward_hook = hook
            call.forward_start = start
            self._note_inputs(call, args)
            with torch._C.DisableTorchFunction():
                call.input_hook_node = self._hook_node(hook.input_tensors_index, result)
        return result

    def output_hook(self, setup: Any, hook: BackwardHook, result: Any) -> Any:
        """See the BackwardHookFunction that a full hook puts on the outputs of the current call."""
        call = self._current
        hooked = setup(hook, result)
        if call is not None and call.backward_hook is hook:
            with torch._C.DisableTorchFunction():
                results = hooked if isinstance(hooked, tuple) else (hooked,)
                call.output_hook_node = self._hook_node(hook.output_tensors_index, results)
        return hooked

    @staticmethod
    def _hook_node(positions: list[int] | None, values: tuple[Any, ...]) -> Any:
        nodes = [values[position].grad_fn for position in positions or ()]
        return next((node for node in nodes if node is not None), None)

    def running(self) -> tuple[SeenModuleCall | None, int]:
        """The module call that is running, and autograd's sequence number."""
        return self._current, next_sequence_nr()

    # Recording

    @contextmanager
    def recording(self) -> Iterator[ForwardRecorder]:
        """Watch everything that this thread runs inside. One recording at a time in a process."""
        if not _recording.acquire(blocking=False):
            raise UsageError(
                "a trace inside another one, or in two threads at once",
                "one recording at a time in a process: the methods that it wraps are process-wide",
                "trace one after the other, or in processes of their own",
            )
        try:
            self.base_frame = sys._getframe(2)
            self.started = next_sequence_nr()
            with _wrapped_methods(self), _FunctionMode(self):
                yield self
        finally:
            self.ended = next_sequence_nr()
            self.base_frame = None
            _recording.release()

    def ignores_this_thread(self) -> bool:
        """Whether a call comes from a thread that is not the recorded one."""
        if threading.get_ident() == self.thread:
            return False
        self.other_threads = True
        return True


def _version(tensor: torch.Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _shared(result: torch.Tensor, arguments: Sequence[tuple[Earlier, int | None]], *, detaches: bool) -> Earlier | None:
    """The argument whose version counter a result shares: itself, what it is a view of, or was detached from."""
    base = result._base if result._is_view() else None
    for earlier, _ in arguments:
        argument = earlier.tensor
        if argument is result or detaches:
            return earlier
        if base is not None and (argument is base or (argument._is_view() and argument._base is base)):
            return earlier
    return None


class _FunctionMode(TorchFunctionMode):
    def __init__(self, recorder: ForwardRecorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.recorder.function_call(function, args, kwargs or {})


@contextmanager
def _wrapped_methods(recorder: ForwardRecorder) -> Iterator[None]:
    call_impl: Callable[..., Any] = nn.Module._call_impl
    setup_input_hook: Callable[..., Any] = BackwardHook.setup_input_hook
    setup_output_hook: Callable[..., Any] = BackwardHook.setup_output_hook
    apply = torch.autograd.Function.__dict__["apply"]

    def watched_call_impl(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if recorder.ignores_this_thread():
            return call_impl(module, *args, **kwargs)
        return recorder.module_call(call_impl, module, args, kwargs)

    def watched_input_hook(hook: BackwardHook, args: Any) -> Any:
        if recorder.ignores_this_thread():
            return setup_input_hook(hook, args)
        return recorder.input_hook(setup_input_hook, hook, args)

    def watched_output_hook(hook: BackwardHook, args: Any) -> Any:
        if recorder.ignores_this_thread():
            return setup_output_hook(hook, args)
        return recorder.output_hook(setup_output_hook, hook, args)

    def watched_apply(function: Any, *args: Any, **kwargs: Any) -> Any:
        bound = apply.__get__(None, function)
        if recorder.ignores_this_thread():
            return bound(*args, **kwargs)
        return recorder.function_apply(bound, function, args, kwargs)

    with ExitStack() as stack:
        for owner, name, watched in (
            (nn.Module, "_call_impl", watched_call_impl),
            (BackwardHook, "setup_input_hook", watched_input_hook),
            (BackwardHook, "setup_output_hook", watched_output_hook),
            (torch.autograd.Function, "apply", classmethod(watched_apply)),
        ):
            stack.callback(setattr, owner, name, owner.__dict__[name])
            setattr(owner, name, watched)
        yield
