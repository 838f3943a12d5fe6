"""Watches one forward run: the module calls, the function calls, and which nodes each of them made.

Nothing is changed in what runs: a ``TorchFunctionMode`` sees the function calls, and the methods that every program
goes through are wrapped meanwhile (`fxgrad.observe.interception`). Autograd's sequence number before and after each
call is what ties nodes to calls (torch/csrc/autograd/function.h).

Sources relied on: torch/nn/modules/module.py (_call_impl), torch/utils/hooks.py (BackwardHook).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.utils.hooks import BackwardHook

from fxgrad.errors import UsageError
from fxgrad.graph import Path
from fxgrad.observe.compiler import Compiler
from fxgrad.observe.copy_on_write import Memory
from fxgrad.observe.frames import running
from fxgrad.observe.function_calls import FunctionCalls
from fxgrad.observe.interception import intercepted
from fxgrad.observe.metas import MetaTable
from fxgrad.observe.real_types import is_a
from fxgrad.observe.seen import SeenFunctionCall, SeenModuleCall, SeenTensor, legacy_tensor, next_sequence_nr
from fxgrad.observe.structure import tensors_in
from fxgrad.observe.tensor_log import TensorLog
from fxgrad.observe.whereabouts import Whereabouts

_observing = threading.Lock()


@contextmanager
def alone() -> Iterator[None]:
    """One observation at a time in a process: what it wraps and puts back belongs to all threads."""
    if not _observing.acquire(blocking=False):
        raise UsageError(
            "a trace inside another one, or in two threads at once",
            "one observation at a time in a process: the methods that it wraps belong to all threads",
            "trace one after the other, or in processes of their own",
        )
    try:
        yield
    finally:
        _observing.release()


class ForwardRecorder:
    """What happened while `recording` was entered. All of it is live: make records of it, then drop it.

    ``memory`` is asked to keep what is about to be written to.

    ``other_threads`` tells that other threads ran meanwhile; ``failure`` is the last error that left a module, and the
    innermost call that it left. ``grad_enabled`` is the grad mode when it began.
    """

    def __init__(self, metas: MetaTable, known: Iterable[torch.Tensor], compiler: Compiler) -> None:
        self.metas = metas
        self.thread = threading.get_ident()
        self.log = TensorLog(known, metas)
        self.where = Whereabouts()
        self.compiler = compiler
        self.functions = FunctionCalls(self.log, metas, self.where)
        self.module_calls: list[SeenModuleCall] = []
        self.started = self.ended = next_sequence_nr()
        self.grad_enabled = torch.is_grad_enabled()
        self.other_threads = False
        self.failure: tuple[BaseException, SeenModuleCall] | None = None
        self.memory: Memory | None = None
        self.is_over = False
        self._finished = 0

    @property
    def function_calls(self) -> list[SeenFunctionCall]:
        """The calls of torch functions, in order."""
        return self.functions.calls

    # Module calls

    def module_call(self, call_impl: Any, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a module, and note its arguments as forward gets them, its final result and the nodes made meanwhile."""
        where = self.where
        frame = sys._getframe(1)
        around = where.call, where.limit, where.stack
        call = SeenModuleCall(module, where.call, len(self.module_calls), running(frame, where.limit, where.stack))
        self.module_calls.append(call)
        call.in_loss = where.in_loss
        call.checkpointed = self._checkpointed()
        where.call, where.limit, where.stack = call, frame, call.stack
        call.given = args, kwargs
        self._note_inputs(call, args, kwargs)
        watch = self._watch_pre_hooks(call)
        try:
            result = call_impl(module, *args, **kwargs)
            call.completed = True
        except BaseException as error:
            self._note_failure(error, call)
            raise
        finally:
            call.end = next_sequence_nr()
            self._finished += 1
            call.finished = self._finished
            where.call, where.limit, where.stack = around
            if watch is not None:
                _forget_watch(call, watch)
        self._note_outputs(call, result)
        return result

    def _note_failure(self, error: BaseException, call: SeenModuleCall) -> None:
        if self.failure is None or self.failure[0] is not error:
            self.failure = (error, call)

    def _note_outputs(self, call: SeenModuleCall, result: Any) -> None:
        call.result = result
        with torch._C.DisableTorchFunction():
            tensor, call.legacy_reason = legacy_tensor(result)
            if tensor is not None and tensor._is_view() and any(carried.kind.is_legacy for carried in call.hooks):
                self.log.note_fresh(tensor)  # the hook has read its grad_fn a moment ago
            call.outputs = self._seen(result, "result")
            if tensor is not None:
                known = (seen for seen in call.outputs if seen.tensor is tensor)
                call.legacy = next(known, None) or self.log.seen(("result", 0), tensor)

    def _note_inputs(self, call: SeenModuleCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the arguments of a call; forward pre-hooks may replace them, so this may come twice."""
        call.args, call.kwargs = args, kwargs
        with torch._C.DisableTorchFunction():
            call.inputs = self._seen(args, "args")
            if kwargs:
                call.inputs += self._seen(kwargs, "kwargs")

    def _seen(self, value: Any, place: str) -> list[SeenTensor]:
        found: list[tuple[Path, torch.Tensor]]
        if is_a(value, torch.Tensor):
            found = [((place,), value)]
        elif type(value) is tuple and len(value) == 1 and is_a(value[0], torch.Tensor):
            found = [((place, 0), value[0])]
        else:
            found = tensors_in(value, (place,)).tensors
        return [self.log.seen(path, tensor) for path, tensor in found]

    def _watch_pre_hooks(self, call: SeenModuleCall) -> int | None:
        """Put one more forward pre-hook behind those of the module and the global ones, to see what they make of the
        arguments; its key, None where there are no pre-hooks."""
        module = call.module
        if not (module._forward_pre_hooks or module_hooks._global_forward_pre_hooks):
            return None
        key = -1 - call.number

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self.ignores_this_thread():
                return
            _forget_watch(call, key)
            call.forward_start = next_sequence_nr()
            self._note_inputs(call, args, kwargs)

        module._forward_pre_hooks[key] = note
        module._forward_pre_hooks_with_kwargs[key] = True
        return key

    def _checkpointed(self) -> str | None:
        if self.where.rerun is not None:
            return "reentrant" if self.where.checkpoints else "function"
        top = torch._C._autograd._top_saved_tensors_default_hooks(True)
        # torch/utils/checkpoint.py packs what is saved inside a non-reentrant checkpoint with this function
        inside = top is not None and getattr(top[0], "__qualname__", "").startswith("_checkpoint_hook.")
        return "non-reentrant" if inside else None

    # Full hooks

    def input_hook(self, setup: Any, hook: BackwardHook, args: tuple[Any, ...]) -> Any:
        """See the BackwardHookFunction that a full hook puts on the inputs of the current call."""
        call = self.where.call
        start = next_sequence_nr()
        result = setup(hook, args)
        if call is not None and call.module is hook.module:
            call.backward_hook = hook
            call.forward_start = start
            self._note_inputs(call, args, call.kwargs)
            with torch._C.DisableTorchFunction():
                call.input_hook_node = _hook_node(hook.input_tensors_index, result)
        return result

    def output_hook(self, setup: Any, hook: BackwardHook, result: Any) -> Any:
        """See the BackwardHookFunction that a full hook puts on the outputs of the current call."""
        call = self.where.call
        hooked = setup(hook, result)
        if call is not None and call.backward_hook is hook:
            with torch._C.DisableTorchFunction():
                results = hooked if is_a(hooked, tuple) else (hooked,)
                call.output_hook_node = _hook_node(hook.output_tensors_index, results)
        return hooked

    # Recording

    def running(self) -> tuple[SeenModuleCall | None, int]:
        """The module call that is running, and autograd's sequence number."""
        return self.where.call, next_sequence_nr()

    @contextmanager
    def recording(self) -> Iterator[ForwardRecorder]:
        """Watch everything that this thread runs inside."""
        self.started = next_sequence_nr()
        self.grad_enabled = torch.is_grad_enabled()
        self.other_threads = threading.active_count() > 1
        try:
            with intercepted(self):
                yield self
        finally:
            self.end()
            self.is_over = True
            self.where.limit = None
            self.failure = None

    def end(self) -> None:
        """Note that the nodes made from now on are not the recorded run's."""
        self.ended = next_sequence_nr()
        self.other_threads |= threading.active_count() > 1

    def before_unseen_code(self) -> None:
        """To be called before something runs whose function calls no mode sees."""
        if self.memory is not None and not self.ignores_this_thread():
            self.memory.copy_all()

    def ignores_this_thread(self) -> bool:
        """Whether a call is none of the recorded run: it comes from another thread, or after its end."""
        if self.is_over:
            return True
        if threading.get_ident() == self.thread:
            return False
        self.other_threads = True
        return True


def _forget_watch(call: SeenModuleCall, key: int) -> None:
    call.module._forward_pre_hooks.pop(key, None)
    call.module._forward_pre_hooks_with_kwargs.pop(key, None)


def _hook_node(positions: list[int] | None, values: tuple[Any, ...]) -> Any:
    nodes = [values[position].grad_fn for position in positions or ()]
    return next((node for node in nodes if node is not None), None)
