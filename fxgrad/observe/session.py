"""One recording of one model, from the first call to the records."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import nn

from fxgrad.errors import UsageError
from fxgrad.graph import BackwardGraph, NodeKind, Path
from fxgrad.graph.text import strip_addresses
from fxgrad.observe.compiler import Compiler
from fxgrad.observe.copy_on_write import Memory
from fxgrad.observe.forward import ForwardRecorder
from fxgrad.observe.frames import read_again
from fxgrad.observe.hook_search import HookSearch, existing_hooks
from fxgrad.observe.hooked import HookCollector
from fxgrad.observe.hooks import LiveHook
from fxgrad.observe.metas import MetaTable
from fxgrad.observe.names import ModuleNames, TensorNames, argument_names, modules_of, tensor_finder
from fxgrad.observe.observation import Observation, device_of, graph_info
from fxgrad.observe.provenance import OUTSIDE
from fxgrad.observe.real_types import is_optimized
from fxgrad.observe.record.forward_graph import ForwardGraph
from fxgrad.observe.record.forward_module import RecordedForward
from fxgrad.observe.registrations import RegistrationWatch
from fxgrad.observe.roots import FoundRoots
from fxgrad.observe.structure import tensors_in
from fxgrad.observe.warned import kept_warnings

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]


@dataclass(frozen=True)
class Observed:
    """The records, the forward where it was recorded, and what finds the name of a tensor object."""

    graph: BackwardGraph
    forward: RecordedForward | None
    name_of_tensor: Callable[[object], str | None]


class Session:
    """One recording of one model. `watch` has seen earlier registrations, where there were any to see."""

    def __init__(self, model: nn.Module, watch: RegistrationWatch | None = None) -> None:
        self.model = model
        self.watch = watch or RegistrationWatch()
        self.notes: list[str] = []
        self.metas = MetaTable()
        self.arguments: Arguments | None = None
        self.recorder: ForwardRecorder | None = None
        self._earlier: list[LiveHook] = []
        self._module_names = ModuleNames(None)
        self._tensor_names = TensorNames(None)
        self._attributes: dict[int, str] = {}

    @contextmanager
    def recording(
        self,
        args: tuple[Any, ...] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        memory: Memory | None = None,
    ) -> Iterator[Session]:
        """Watch what runs inside. Without arguments it is the user's own program, whose warnings are the user's.

        `memory` is told what is about to write to the model.
        """
        self.arguments = None if args is None else (args, kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():  # the user's tensor classes are not asked
            self._look_at_model()
        with ExitStack() as stack:
            stack.enter_context(_room_for_own_frames())
            stack.enter_context(self._eager())
            caught = [] if args is None else stack.enter_context(kept_warnings())
            stack.enter_context(self.watch.watching())
            assert self.recorder is not None
            self.recorder.memory = memory
            stack.enter_context(self.recorder.recording())
            yield self
        self.notes += _told_once(caught)

    def _look_at_model(self) -> None:
        """Names and hooks before anything runs: forward may change what the model holds."""
        self._module_names = ModuleNames(self.model)
        self._tensor_names = TensorNames(self.model)
        self._attributes = {key: named.name for key, named in self._tensor_names.named.items()}
        if self.arguments is not None:
            self._name_inputs(self.arguments)
        known = [named.tensor for named in self._tensor_names.named.values()]
        self._earlier = existing_hooks(self._module_names.modules.values(), known)
        self.recorder = ForwardRecorder(self.metas, known, Compiler(self.watch))
        self.watch.running = self.recorder.running

    def _name_inputs(self, arguments: Arguments) -> None:
        args, kwargs = arguments
        names = argument_names(self.model, len(args))
        self._tensor_names.add_inputs(names, [*tensors_in(args, ("args",)).tensors, *_keyword_tensors(kwargs)])

    @contextmanager
    def _eager(self) -> Iterator[None]:
        """Let compiled modules run as they are written: a compiled region would show as one node."""
        modules = modules_of(self.model)
        compiled = [module for module in modules if vars(module).get("_compiled_call_impl") is not None]
        wrapped = [module for module in modules if is_optimized(module)]
        if compiled or wrapped:
            count = len(compiled) + len(wrapped)
            several = "compiled modules ran" if count > 1 else "compiled module ran"
            self.notes.append(f"{count} {several} eagerly, without torch.compile")
        with ExitStack() as stack:
            assert self.recorder is not None
            stack.callback(self.recorder.compiler.let_go)
            self.recorder.compiler.hold_back()
            for module in compiled:
                stack.callback(vars(module).__setitem__, "_compiled_call_impl", vars(module)["_compiled_call_impl"])
                vars(module)["_compiled_call_impl"] = None
            yield

    def limit_frames(self, frame: FrameType) -> None:
        """What called `frame` is not the user's model, so it belongs into no stack trace."""
        assert self.recorder is not None
        self.recorder.where.limit = frame

    # Records

    def observed(
        self, output: Any, found: FoundRoots, *, device: str | None = None, emulated: bool = False
    ) -> Observed:
        """Make the records of the run, from the roots in `found`."""
        return self.observed_live(output, found, device=device, emulated=emulated)[0]

    def observed_live(
        self, output: Any, found: FoundRoots, *, device: str | None = None, emulated: bool = False
    ) -> tuple[Observed, Observation, HookCollector]:
        """The same, with the live objects behind the records: to run backward on."""
        recorder = self.recorder
        assert recorder is not None
        _check_finished(recorder)
        with self._unobserved(recorder):
            read_again()
            placeholders = self._complete_names(recorder)
            forward = self._forward_graph(recorder, placeholders, output)
            observation = Observation(
                found.roots,
                self._module_names,
                self._tensor_names,
                recorder=recorder,
                forward=forward,
                metas=self.metas,
            )
            search = HookSearch(observation, earlier=self._earlier, watch=self.watch)
            hooks = HookCollector(observation, search)
            tensors = [named.tensor for named in self._tensor_names.named.values()]
            info = graph_info(
                device=device or device_of(tensors),
                emulated=emulated,
                root_rule=found.rule,
                skipped=found.skipped,
                notes=(*self.notes, *search.notes),
            )
            graph = observation.graph(info, hooks)
            forward.refusal = forward.refusal or _unseen_function(graph)
            return Observed(graph, forward.finish(), tensor_finder(self._tensor_names)), observation, hooks

    def unrooted(self, output: Any) -> BackwardGraph:
        """The records of a run of which no output requires grad: of what forward did, the loss function included."""
        recorder = self.recorder
        assert recorder is not None
        with self._unobserved(recorder):
            read_again()
            placeholders = self._complete_names(recorder)
            forward = self._forward_graph(recorder, placeholders, output, with_loss=True)
            observation = Observation(
                (), self._module_names, self._tensor_names, recorder=recorder, forward=forward, metas=self.metas
            )
            hooks = HookCollector(observation, HookSearch(observation, earlier=self._earlier, watch=self.watch))
            return observation.graph(graph_info(device="none", root_rule="none"), hooks)

    @contextmanager
    def _unobserved(self, recorder: ForwardRecorder) -> Iterator[None]:
        """What the records are made with is no part of the program, which may still be being watched."""
        recorder.functions.paused = True
        recorder.end()
        try:
            with self.watch.paused_inside(), torch._C.DisableTorchFunctionSubclass():
                yield
        finally:
            recorder.functions.paused = False

    def _complete_names(self, recorder: ForwardRecorder) -> Arguments | None:
        """Name what the model got meanwhile; the arguments that become placeholders of the recorded graph."""
        placeholders = self.arguments
        self._module_names.add(self.model)
        if placeholders is None:
            calls = [call for call in recorder.module_calls if call.module is self.model and call.parent is None]
            for call in calls:
                self._name_inputs(call.given)
            if len(calls) == 1 and not _made_by_functions(recorder, calls[0].given):
                placeholders = calls[0].given
        self._tensor_names.add_model(self.model)
        self._tensor_names.add_attributes(self.model)
        return placeholders

    def _forward_graph(
        self, recorder: ForwardRecorder, placeholders: Arguments | None, output: Any, *, with_loss: bool = False
    ) -> ForwardGraph:
        names = self._module_names
        call_names = {call: (names.path_of(call.module), type(call.module)) for call in recorder.module_calls}
        forward = ForwardGraph(recorder, self._attributes, call_names)
        args, kwargs = placeholders or ((), {})
        forward.add_placeholders(argument_names(self.model, len(args)), args, kwargs)
        for number, seen in enumerate(recorder.function_calls):
            if with_loss or not seen.in_loss:
                forward.add_call(number, seen)
        forward.add_output(output)
        return forward


@contextmanager
def _room_for_own_frames() -> Iterator[None]:
    """Let a model that runs by itself run watched: each module call has fewer frames of fxgrad's than of torch's."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(2 * limit)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _unseen_function(graph: BackwardGraph) -> str | None:
    """From torch 2.14 on, an ``apply`` that a program kept from before is C alone, and calls nothing that can be seen:
    of its forward the operations are recorded, which make no node."""
    for node in graph.nodes:
        if node.kind is NodeKind.CUSTOM_FUNCTION and node.fx_reason == OUTSIDE:
            return f"{node.label} was made by an apply that was kept from before, and that nobody saw"
    return None


def _keyword_tensors(kwargs: Mapping[str, Any]) -> list[tuple[Path, torch.Tensor]]:
    return tensors_in(dict(kwargs), ("kwargs",)).tensors


def _made_by_functions(recorder: ForwardRecorder, given: Arguments) -> bool:
    return any(id(tensor) in recorder.log.producers for _, tensor in tensors_in(given).tensors)


def _check_finished(recorder: ForwardRecorder) -> None:
    if recorder.where.call is not None:
        raise UsageError(
            "a trace from inside of the forward that is being recorded",
            "a trace when the model has returned: hooks are put on its results last",
            "call recording.trace after the model",
        )


def _told_once(caught: Iterable[warnings.WarningMessage]) -> list[str]:
    told = [strip_addresses(f"while forward ran, {entry.category.__name__}: {entry.message}") for entry in caught]
    counts = Counter(told)
    return [text if count == 1 else f"{text} ({count} times)" for text, count in counts.items()]
