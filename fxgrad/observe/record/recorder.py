"""Records one forward run: the module calls, the function calls, and which nodes each of them made.

Nothing is changed in what runs: a ``TorchFunctionMode`` sees the function calls, and torch is monkey-patched meanwhile
(`fxgrad.observe.record.patches`). Autograd's sequence number before and after each call is what ties nodes to calls
(torch/csrc/autograd/function.h).

Sources relied on: torch/nn/modules/module.py (_call_impl), torch/utils/hooks.py (BackwardHook).
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.utils.hooks import BackwardHook

from fxgrad.graph import Path
from fxgrad.graph.records import Checkpoint
from fxgrad.observe.copy_on_write import Memory
from fxgrad.observe.real_types import is_a
from fxgrad.observe.record.compiled_code import find_compiled_around
from fxgrad.observe.record.events import ModuleEvent, OpEvent, TensorSnapshot, find_legacy_tensor, next_sequence_nr
from fxgrad.observe.record.frames import read_stack
from fxgrad.observe.record.operations import Cursor, OpRecorder, TensorLog
from fxgrad.observe.record.tensors import MetaTable, find_tensors

_DisableTorchFunction = torch._C.DisableTorchFunction  # it is monkey-patched while a forward is recorded


class Recorder:
    """What happened between `begin` and `finish`. All of it is live: make records of it, then drop it.

    ``module_calls``  the module calls, in the order in which they began
    ``ops``, ``log``  the function calls, and the tensors that they got and returned
    ``cursor``  where in the run the recorder is
    ``started``, ``ended``  autograd's sequence numbers: the nodes of the run lie between
    ``grad_enabled``  the grad mode when it began
    ``other_threads``  whether another thread ran meanwhile
    ``failure``  the last error that left a module, and the innermost call that it left
    ``memory``  is asked to keep what is about to be written to
    ``runs_compiled``  whether the program, without fxgrad, runs what torch.compile has compiled
    ``compiled``  the identities of the modules that were compiled in place
    """

    def __init__(
        self,
        metas: MetaTable,
        known: Iterable[torch.Tensor],
        *,
        hooks_on: Callable[[torch.Tensor], Iterable[Any]],
        nests: Callable[[type], bool | None],
        memory: Memory | None = None,
    ) -> None:
        self.metas = metas
        self.log = TensorLog(known, metas, hooks_on)
        self.cursor = Cursor()
        self.ops = OpRecorder(self.log, metas, self.cursor, nests)
        self.module_calls: list[ModuleEvent] = []
        self.started = self.ended = next_sequence_nr()
        self.grad_enabled = torch.is_grad_enabled()
        self.other_threads = False
        self.failure: tuple[BaseException, ModuleEvent] | None = None
        self.memory = memory
        self.runs_compiled = True
        self.compiled: set[int] = set()
        self._thread = threading.get_ident()
        self._clocks: dict[int, float] = {}
        self._is_over = False
        self._finished_calls = 0

    @property
    def function_calls(self) -> list[OpEvent]:
        """The calls of torch functions, in order."""
        return self.ops.events

    # Beginning and end

    def begin(self) -> None:
        """Record from now on what this thread runs."""
        self.started = next_sequence_nr()
        self.grad_enabled = torch.is_grad_enabled()
        self.other_threads = False
        self._clocks = _read_other_clocks()

    def note_end(self) -> None:
        """Note that the nodes made from now on are not the recorded run's."""
        self.ended = next_sequence_nr()
        self.other_threads |= _read_other_clocks() != self._clocks

    def finish(self) -> None:
        """Record nothing any more."""
        self.note_end()
        self._is_over = True
        self.cursor.limit = None
        self.failure = None

    def ignores_this_thread(self) -> bool:
        """Whether a call is none of the recorded run: it comes from another thread, or after its end."""
        if self._is_over:
            return True
        if threading.get_ident() == self._thread:
            return False
        self.other_threads = True
        return True

    def read_position(self) -> tuple[ModuleEvent | None, int]:
        """The module call that is running, and autograd's sequence number."""
        return self.cursor.call, next_sequence_nr()

    def before_unseen_code(self) -> None:
        """To be called before something runs whose function calls no mode sees."""
        if self.memory is not None and not self.ignores_this_thread():
            self.memory.copy_all()

    # Module calls

    def call_module(self, call_impl: Any, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a module, and record its arguments as forward gets them, its final result and the nodes made meanwhile."""
        cursor = self.cursor
        frame = sys._getframe(1)
        around = cursor.call, cursor.limit, cursor.stack, cursor.region
        stack = read_stack(frame, cursor.limit, cursor.stack)
        call = ModuleEvent(module, args, kwargs, parent=cursor.call, number=len(self.module_calls), stack=stack)
        self.module_calls.append(call)
        call.checkpointed, call.gradless = self._read_checkpoint(), cursor.gradless
        if cursor.nesting is not None:
            cursor.nesting.calls.append(call)
        cursor.call, cursor.limit, cursor.stack = call, frame, stack
        if cursor.region is None and id(module) in self.compiled:
            cursor.region = frame
        if call.hooks and self.runs_compiled:
            call.compiled = find_compiled_around(frame, cursor.region)
        self._note_inputs(call, args, kwargs)
        watch = self._watch_pre_hooks(call)
        try:
            result = call_impl(module, *args, **kwargs)
            call.completed = True
        except BaseException as error:
            if self.failure is None or self.failure[0] is not error:  # else a call inside has raised it
                self.failure = (error, call)
            raise
        finally:
            call.end = next_sequence_nr()
            self._finished_calls += 1
            call.finished = self._finished_calls
            cursor.call, cursor.limit, cursor.stack, cursor.region = around
            if watch is not None:
                _forget_watch(call, watch)
        self._note_outputs(call, result)
        return result

    def _note_inputs(self, call: ModuleEvent, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the arguments of a call; forward pre-hooks may replace them, so this may come twice."""
        call.args, call.kwargs = args, kwargs
        with _DisableTorchFunction():
            call.inputs = self._snapshot(args, "args")
            if kwargs:
                call.inputs += self._snapshot(kwargs, "kwargs")

    def _note_outputs(self, call: ModuleEvent, result: Any) -> None:
        call.result = result
        with _DisableTorchFunction():
            tensor, call.legacy_reason = find_legacy_tensor(result)
            if tensor is not None and tensor._is_view() and any(carried.kind.is_legacy for carried in call.hooks):
                self.log.note_fresh(tensor)  # the hook has read its grad_fn a moment ago
            call.outputs = self._snapshot(result, "result")
            if tensor is not None:
                known = (seen for seen in call.outputs if seen.tensor is tensor)
                call.legacy = next(known, None) or self.log.snapshot(("result", 0), tensor)

    def _snapshot(self, value: Any, place: str) -> list[TensorSnapshot]:
        found: list[tuple[Path, torch.Tensor]]
        if is_a(value, torch.Tensor):
            found = [((place,), value)]
        elif type(value) is tuple and len(value) == 1 and is_a(value[0], torch.Tensor):
            found = [((place, 0), value[0])]
        else:
            found = find_tensors(value, (place,)).tensors
        return [self.log.snapshot(path, tensor) for path, tensor in found]

    def _watch_pre_hooks(self, call: ModuleEvent) -> int | None:
        """Put one more forward pre-hook behind those of the module and the global ones, to see what they make of the
        arguments; its key, None where there are no pre-hooks."""
        module = call.module
        if not (module._forward_pre_hooks or module_hooks._global_forward_pre_hooks):
            return None
        key = -1 - call.number  # PyTorch counts its keys from 0 up (RemovableHandle.next_id, torch/utils/hooks.py)

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self.ignores_this_thread():
                return
            _forget_watch(call, key)
            self._note_inputs(call, args, kwargs)

        module._forward_pre_hooks[key] = note
        module._forward_pre_hooks_with_kwargs[key] = True
        return key

    def _read_checkpoint(self) -> Checkpoint | None:
        """The kind of checkpoint around; "function" where a Function's backward may run its forward again."""
        if self.cursor.nesting is not None:
            return "reentrant" if self.cursor.checkpoints else "function"
        top = torch._C._autograd._top_saved_tensors_default_hooks(True)
        # torch/utils/checkpoint.py packs what is saved inside a non-reentrant checkpoint with this function
        inside = top is not None and getattr(top[0], "__qualname__", "").startswith("_checkpoint_hook.")
        return "non-reentrant" if inside else None

    # Full hooks

    def set_up_input_hook(self, setup: Any, hook: BackwardHook, args: tuple[Any, ...]) -> Any:
        """See the BackwardHookFunction that a full hook puts on the inputs of the current call."""
        call = self.cursor.call
        result = setup(hook, args)
        if call is not None and call.module is hook.module:
            call.backward_hook = hook
            self._note_inputs(call, args, call.kwargs)
            with _DisableTorchFunction():
                call.input_hook_node = _find_hook_node(hook.input_tensors_index, result)
        return result

    def set_up_output_hook(self, setup: Any, hook: BackwardHook, result: Any) -> Any:
        """See the BackwardHookFunction that a full hook puts on the outputs of the current call."""
        call = self.cursor.call
        hooked = setup(hook, result)
        if call is not None and call.backward_hook is hook:
            with _DisableTorchFunction():
                results = hooked if is_a(hooked, tuple) else (hooked,)
                call.output_hook_node = _find_hook_node(hook.output_tensors_index, results)
        return hooked


def _read_other_clocks() -> dict[int, float]:
    """The processor time that each other thread has taken, in nanoseconds: a thread that only waits takes none.

    NaN, which equals nothing, where it cannot be read: on some platforms, and of a thread that Python did not start, which
    may have ended (then pthread_getcpuclockid may crash: Python's Modules/timemodule.c).
    """
    others = [thread for thread in threading.enumerate() if thread.ident != threading.get_ident()]
    return {thread.ident: _read_clock(thread) for thread in others if thread.ident is not None}


def _read_clock(thread: threading.Thread) -> float:
    if not hasattr(time, "pthread_getcpuclockid") or isinstance(thread, threading._DummyThread):
        return float("nan")  # not math.nan: one object equals itself in a dict
    assert thread.ident is not None
    return time.clock_gettime_ns(time.pthread_getcpuclockid(thread.ident))


def _forget_watch(call: ModuleEvent, key: int) -> None:
    call.module._forward_pre_hooks.pop(key, None)
    call.module._forward_pre_hooks_with_kwargs.pop(key, None)


def _find_hook_node(positions: list[int] | None, values: tuple[Any, ...]) -> Any:
    nodes = [values[position].grad_fn for position in positions or ()]
    return next((node for node in nodes if node is not None), None)
