"""Runs a forward, records it and returns the records. What `fxgrad.api` calls."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TextIO

import torch
from msgspec import structs
from torch import nn
from torch._C._dynamo import eval_frame
from torch.nn.modules import module as module_hooks
from torch.nn.parameter import is_lazy

from fxgrad.collection import pause_collection
from fxgrad.errors import FxgradError, NothingRequiresGradError, TargetError, UsageError
from fxgrad.graph import BackwardGraph, NodeKind
from fxgrad.graph.text import add_article, escape, strip_addresses
from fxgrad.observe.autograd.nested_backward import starts_backward
from fxgrad.observe.autograd.provenance import OUTSIDE
from fxgrad.observe.build import build_graph, device_of, make_graph_info
from fxgrad.observe.copy_on_write import Memory
from fxgrad.observe.hooks.records import HookRecords
from fxgrad.observe.hooks.registrations import RegistrationWatch
from fxgrad.observe.hooks.search import HookSearch, list_hooks
from fxgrad.observe.hooks.tables import find_hooks_on_tensor
from fxgrad.observe.observed_graph import ObservedGraph
from fxgrad.observe.real_types import is_a, is_optimized
from fxgrad.observe.record.events import ModuleEvent
from fxgrad.observe.record.forward_graph import ForwardGraph, RecordedForward
from fxgrad.observe.record.frames import (
    UserCode,
    find_error_source,
    forget_sources,
    format_message,
    format_user_traceback,
    user_code,
)
from fxgrad.observe.record.graph_modules import GraphModules
from fxgrad.observe.record.names import (
    ModuleNames,
    TensorNames,
    get_table,
    list_argument_names,
    list_computed_attributes,
    list_module_paths,
    list_modules,
    make_tensor_finder,
)
from fxgrad.observe.record.patches import Compiler, patch_torch
from fxgrad.observe.record.recorder import Recorder
from fxgrad.observe.record.tensors import FoundRoots, MetaTable, find_roots, find_tensors, identify_memory
from fxgrad.observe.restore import preserve

GATHERED = "FSDP gathers its parameters while it runs"
NO_CALLS = "captured from existing tensors: forward was not recorded"

JOINED_LATER = (
    "TorchScript optimizes what it has run before: in a later run one DifferentiableGraphBackward may take the place of "
    "several of its nodes"
)

_ADVICE_ON_SEARCH = (
    "use Tensor.register_hook on the tensors in it, or return a Tensor or a tuple of Tensors: a full hook would not raise "
    "there, and not fire"
)
_HOOKED_VIEW = "is a view and is being modified inplace"
"""In the message of torch/csrc/autograd/variable.cpp, handle_view_on_rebase."""

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]


class _Claim:
    """The right to observe, which one thread at a time has: what it patches and puts back belongs to all threads.

    ``patches`` closes what a recording has patched.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.thread: int | None = None
        self.patches = ExitStack()

    def drop_in_child(self) -> None:
        """In a forked child: a trace of another thread, which is not there any more, never ends by itself."""
        if self.lock.locked() and self.thread != threading.get_ident():
            with suppress(ValueError):  # that thread was just entering or leaving one of them
                self.patches.close()
            self.lock.release()


_claim = _Claim()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_claim.drop_in_child)


@dataclass(frozen=True)
class TracedRun:
    """The records, the forward where it was recorded, and what finds the name of a tensor object."""

    graph: BackwardGraph
    forward: RecordedForward | None
    name_of_tensor: Callable[[object], str | None]


# The entry points


def observe_forward(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    loss: Callable[[Any], Any] | None = None,
    watch: RegistrationWatch | None = None,
) -> TracedRun:
    """Run ``model(*args, **kwargs)`` once, record it, and put back what it changed.

    `watch` has seen earlier registrations: those that the making of the model did.
    """
    check_model(model)
    watch = watch or RegistrationWatch()
    with claim_process(), preserve(model, (args, kwargs), on_write=True) as memory, watch.undo_on_exit():
        with record_run(model, (args, kwargs), watch=watch, memory=memory) as run:
            output = run_forward(run, loss)
        return run.trace(output.value, output.found)


def finish_recording(run: ModelRun, loss: Any) -> TracedRun:
    """The records of the user's own program, with backward starting from `loss`."""
    with attach_run(run, loss):
        found = find_roots(loss, what="the loss")
    return run.trace(loss, found)


@pause_collection()
def observe_tensors(outputs: Any, model: nn.Module | None, *, node_hooks: bool) -> TracedRun:
    """Walk the graph behind tensors that exist already; nothing is run."""
    if model is not None:
        check_model(model)
    found = find_roots(outputs, what="the outputs")
    tensor_names = TensorNames(model)
    tensor_names.add_attributes(model)
    with claim_process(), torch._C.DisableTorchFunctionSubclass():  # the user's tensor classes are not asked
        observed = ObservedGraph(found.roots, ModuleNames(model), tensor_names)
        search = HookSearch(observed, every_node=node_hooks)
        info = make_graph_info(
            device=device_of(observed.root_tensors),
            root_rule=found.rule,
            skipped=found.skipped,
            notes=search.notes,
            calls_reason=NO_CALLS,
        )
        hooks = HookRecords(observed, search)
        return TracedRun(build_graph(observed, hooks, info), None, make_tensor_finder(tensor_names))


def check_surroundings() -> None:
    """Refuse to observe inside of what has PyTorch make no graph, or another one than the program's.

    To be called first of all: inside a function that torch.compile compiles, Dynamo would go on into what follows.
    """
    for is_inside, place in (
        # get_eval_frame_callback: Dynamo calls fxgrad as it is written, but would compile what that calls
        (
            torch.compiler.is_compiling() or eval_frame.get_eval_frame_callback() is not None,
            "torch.compile or torch.export",
        ),
        (torch.is_inference_mode_enabled(), "torch.inference_mode, which makes no graph"),
        (torch._C._functorch.maybe_current_level() is not None, "a transform of torch.func, such as vmap or grad"),
        (torch._C._is_tracing(), "torch.jit.trace"),
        (torch._C._is_torch_function_all_disabled(), "torch._C.DisableTorchFunction, where no call can be recorded"),
    ):
        if is_inside:
            raise UsageError(
                f"fxgrad inside {place}",
                "a place where PyTorch runs the program as it is written",
                "call fxgrad outside of it",
            )


def unpack_exported(model: Any) -> Any:
    """The GraphModule of an ExportedProgram, which is no Module itself; any other model as it is."""
    if not _is_exported(model):
        return model
    with user_code(
        "calling module() of the ExportedProgram",
        allowed="an ExportedProgram that can be run",
        advice=lambda _: "program.module() by itself, which should raise as well",
    ):
        return model.module()


def _is_exported(model: object) -> bool:
    exporting = sys.modules.get("torch.export")  # who has an ExportedProgram has imported it
    return exporting is not None and is_a(model, exporting.ExportedProgram)


def check_model(model: object) -> None:
    """Refuse what cannot be traced, saying what to do first."""
    if _is_exported(model):
        raise UsageError(
            "an ExportedProgram as the model, of which each module() is another module",
            "the module that is run",
            "module = program.module(), and pass that",
        )
    if not is_a(model, nn.Module):
        raise UsageError(
            f"a {escape(type(model).__name__)} as the model",
            "a torch.nn.Module",
            "wrap a function in a Module whose forward calls it, or use fxgrad.capture(outputs)",
        )
    for path, module in list_module_paths(model):
        if any(map(is_lazy, [*get_table(module, "_parameters").values(), *get_table(module, "_buffers").values()])):
            raise UsageError(
                f"{escape(path) or 'the model'} is a {escape(type(module).__name__)}, whose parameters have no shape yet",
                "modules with initialized parameters: the first call of a lazy module changes its class",
                "run model(*args) once before tracing",
            )


@contextmanager
def claim_process() -> Iterator[None]:
    """Allow one observation at a time in a process."""
    if not _claim.lock.acquire(blocking=False):
        raise UsageError(
            "a trace while another one is running",
            "one trace at a time per process: the methods that it wraps are shared by all threads",
            "trace one after the other, or in separate processes",
        )
    _claim.thread = threading.get_ident()
    try:
        yield
    finally:
        _claim.lock.release()


# Recording


@contextmanager
def record_run(
    model: nn.Module, arguments: Arguments | None = None, *, watch: RegistrationWatch, memory: Memory | None = None
) -> Iterator[ModelRun]:
    """Record what runs inside. Without arguments it is the user's own program, whose warnings are the user's.

    `watch` has seen earlier registrations, if there were any to see. `memory` is told what is about to write to the model.
    """
    run = ModelRun(model, arguments, watch=watch, memory=memory)
    compiler = Compiler(watch.pause)
    with ExitStack() as stack:
        _claim.patches = stack
        stack.enter_context(_double_recursion_limit())
        stack.callback(compiler.let_go)
        compiler.hold_back()
        run.recorder.runs_compiled = not compiler.is_off
        stack.enter_context(run.without_compiled_calls())
        caught = [] if arguments is None else stack.enter_context(collect_warnings())
        if arguments is not None:
            stack.callback(run.recorder.ops.forget_first_runs)
        stack.enter_context(watch.watching())
        stack.callback(run.recorder.finish)
        run.recorder.begin()
        stack.enter_context(patch_torch(run.recorder, compiler))
        yield run
    run.notes += _count_warnings(caught)


class ModelRun:
    """One recorded run of one model, from what is known before it to the records.

    ``arguments`` are those of the model; None where the program around calls it. ``notes`` are sentences for the report.
    """

    def __init__(
        self, model: nn.Module, arguments: Arguments | None, *, watch: RegistrationWatch, memory: Memory | None
    ) -> None:
        self.model = model
        self.arguments = arguments
        self.notes: list[str] = []
        self._watch = watch
        self._metas = MetaTable()
        # forward may change what the model holds, so names and hooks are read before
        with torch._C.DisableTorchFunctionSubclass():  # the user's tensor classes are not asked
            self._module_names = ModuleNames(model)
            self._tensor_names = TensorNames(model)
            self._attributes = {key: named.name for key, named in self._tensor_names.named.items()}
            if arguments is not None:
                self._name_inputs(arguments)
            self._computed = list_computed_attributes(model)
            known = [named.tensor for named in self._tensor_names.named.values()]
            self._earlier = list_hooks(self._module_names.modules.values(), known)
            self.recorder = Recorder(
                self._metas, known, hooks_on=find_hooks_on_tensor, nests=starts_backward, memory=memory
            )
        watch.running = self.recorder.read_position

    def _name_inputs(self, arguments: Arguments) -> None:
        args, kwargs = arguments
        inputs = [*find_tensors(args, ("args",)).tensors, *find_tensors(dict(kwargs), ("kwargs",)).tensors]
        self._tensor_names.add_inputs(list_argument_names(self.model, len(args)), inputs)

    @contextmanager
    def without_compiled_calls(self) -> Iterator[None]:
        """Let modules that were compiled in place run as they are written: a compiled region would show as one node."""
        modules = list_modules(self.model)
        compiled = [module for module in modules if vars(module).get("_compiled_call_impl") is not None]
        count = len(compiled) + sum(map(is_optimized, modules))
        if count:
            several = "compiled modules ran" if count > 1 else "compiled module ran"
            self.notes.append(f"{count} {several} eagerly, without torch.compile")
        before = [vars(module)["_compiled_call_impl"] for module in compiled]
        self.recorder.compiled = {id(module) for module in compiled}
        for module in compiled:
            vars(module)["_compiled_call_impl"] = None
        try:
            yield
        finally:
            for module, call_impl in zip(compiled, before, strict=True):
                vars(module)["_compiled_call_impl"] = call_impl

    # Records

    def trace(self, output: Any, found: FoundRoots) -> TracedRun:
        """Make the records of the run, from the roots in `found`."""
        return self.trace_live(output, found)[0]

    def trace_live(self, output: Any, found: FoundRoots) -> tuple[TracedRun, ObservedGraph, HookRecords]:
        """The same, with the live objects of the records, to run backward on."""
        if self.recorder.cursor.call is not None:
            raise UsageError(
                "a trace from inside the forward that is being recorded",
                "a trace after the model has returned: its hooks are attached last",
                "call recording.trace after the model",
            )
        with pause_collection(), self._pause_recording():
            observed, hooks, forward = self._find_graph_and_hooks(output, found, with_loss=False)
            tensors = [named.tensor for named in self._tensor_names.named.values()]
            info = make_graph_info(
                device=device_of(tensors),
                root_rule=found.rule,
                skipped=found.skipped,
                notes=(*self.notes, *hooks.notes),
            )
            graph = _note_scripts(build_graph(observed, hooks, info))
            forward.refusal = forward.refusal or _find_unseen_function(graph)
            return TracedRun(graph, forward.finish(), make_tensor_finder(self._tensor_names)), observed, hooks

    def trace_unrooted(self, output: Any) -> BackwardGraph:
        """The records of a run of which no output requires grad: of what forward did, the loss function included."""
        with self._pause_recording():
            observed, hooks, _ = self._find_graph_and_hooks(output, FoundRoots([], "none", ()), with_loss=True)
            return build_graph(observed, hooks, make_graph_info(device="none", root_rule="none"))

    @contextmanager
    def _pause_recording(self) -> Iterator[None]:
        """What the records are made with is no part of the program, which may still be being recorded."""
        self.recorder.ops.paused = True
        self.recorder.note_end()
        try:
            with self._watch.pause(), torch._C.DisableTorchFunctionSubclass():
                yield
        finally:
            self.recorder.ops.paused = False

    def _find_graph_and_hooks(
        self, output: Any, found: FoundRoots, *, with_loss: bool
    ) -> tuple[ObservedGraph, HookRecords, ForwardGraph]:
        forget_sources()
        forward = self._make_forward_graph(self._complete_names(), output, with_loss=with_loss)
        observed = ObservedGraph(
            found.roots,
            self._module_names,
            self._tensor_names,
            recorder=self.recorder,
            forward=forward,
            metas=self._metas,
        )
        search = HookSearch(observed, earlier=self._earlier, watch=self._watch)
        return observed, HookRecords(observed, search), forward

    def _complete_names(self) -> Arguments | None:
        """Name what the model got while it ran, and return the arguments that become placeholders of the recorded graph."""
        recorder, placeholders = self.recorder, self.arguments
        self._module_names.add(self.model)
        if placeholders is None:
            calls = [call for call in recorder.module_calls if call.module is self.model and call.parent is None]
            for call in calls:
                self._name_inputs(call.given)
            if len(calls) == 1:
                tensors = [tensor for _, tensor in find_tensors(calls[0].given).tensors]
                if not any(id(tensor) in recorder.log.producers for tensor in tensors):  # else they are the run's own
                    placeholders = calls[0].given
        self._tensor_names.add_model(self.model)
        self._tensor_names.add_attributes(self.model)
        used = {id(seen.tensor) for seen in recorder.log.foreign}  # of others the node is not read: that could make one
        self._tensor_names.add_left([(name, tensor) for name, tensor in self._computed if id(tensor) in used])
        return placeholders

    def _make_forward_graph(self, placeholders: Arguments | None, output: Any, *, with_loss: bool) -> ForwardGraph:
        recorder, names = self.recorder, self._module_names
        call_names = {call: (names.path_of(call.module), type(call.module)) for call in recorder.module_calls}
        paths = {names.path_of(module): module for module in names.modules.values()}
        traced = GraphModules(paths, recorder)
        forward = ForwardGraph(recorder, self._attributes | self._name_gathered(), call_names, traced)
        forward.refusal = forward.refusal or (GATHERED if self._tensor_names.sharded else None)
        args, kwargs = placeholders or ((), {})
        forward.add_placeholders(list_argument_names(self.model, len(args)), args, kwargs)
        for number, event in enumerate(recorder.function_calls):
            if with_loss or not event.in_loss:
                forward.add_call(number, event)
        forward.add_output(output)
        return forward

    def _name_gathered(self) -> dict[int, str]:
        """What FSDP has gathered is in the model's table while forward runs, under the name of the sharded parameter."""
        named = self._tensor_names.named
        return {id(each.unsharded): named[id(each.sharded)].name for each in self._tensor_names.sharded}


def _find_unseen_function(graph: BackwardGraph) -> str | None:
    """From torch 2.14 on, an ``apply`` that a program kept from before is C alone, and calls nothing that can be seen:
    of its forward the operations are recorded, which make no node."""
    for node in graph.nodes:
        if node.kind is NodeKind.CUSTOM_FUNCTION and node.fx_reason == OUTSIDE:
            return f"{node.label} was made by an apply that was stored before the trace and not recorded"
    return None


@contextmanager
def _double_recursion_limit() -> Iterator[None]:
    """Let a model that runs by itself run recorded: each module call has fewer frames of fxgrad's than of torch's."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(2 * limit)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


@contextmanager
def collect_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Collect what this thread is warned of, every time. Filters belong to all threads; others' warnings are shown."""
    thread = threading.get_ident()
    kept: list[warnings.WarningMessage] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if threading.get_ident() == thread:
                kept.append(warnings.WarningMessage(message, category, filename, lineno, file, line))
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = note
        warnings.simplefilter("always")
        yield kept


def _note_scripts(graph: BackwardGraph) -> BackwardGraph:
    """Say that TorchScript may make other nodes the next time, where it has not joined any yet."""
    if all(node.script is None for node in graph.nodes) or any(node.kind is NodeKind.SCRIPTED for node in graph.nodes):
        return graph
    return structs.replace(graph, info=structs.replace(graph.info, notes=(*graph.info.notes, JOINED_LATER)))


def _count_warnings(caught: Iterable[warnings.WarningMessage]) -> list[str]:
    """Each warning once, with how often it came."""
    texts = [strip_addresses(f"while forward ran, {entry.category.__name__}: {entry.message}") for entry in caught]
    return [text if count == 1 else f"{text} ({count} times)" for text, count in Counter(texts).items()]


# Running the model


@dataclass(frozen=True)
class Output:
    """What forward returned, and the roots chosen in it or in what the loss returned."""

    value: Any
    found: FoundRoots


def run_forward(run: ModelRun, loss: Callable[[Any], Any] | None) -> Output:
    """Call the model, then the loss, inside of `record_run`, and choose the roots."""
    assert run.arguments is not None
    args, kwargs = run.arguments
    run.recorder.cursor.limit = sys._getframe()  # what called this is not the user's model
    with locate_errors(run, "forward", alone="model(*args, **kwargs)"):
        value = run.model(*args, **kwargs)
    result, what = value, "the output of forward"
    if loss is not None:
        run.recorder.cursor.in_loss = True
        with locate_errors(run, "the loss function", alone="loss(model(*args, **kwargs))"):
            result = loss(value)
        what = f"the result of the loss function {escape(_name_of(loss))}"
    with attach_run(run, result):
        return Output(value, find_roots(result, what=what))


def _name_of(function: Callable[..., Any]) -> str:
    try:
        name = function.__name__
    except Exception:  # the user's own class, or a callable object
        return type(function).__name__
    return name if is_a(name, str) else type(function).__name__


@contextmanager
def attach_run(run: ModelRun, output: Any) -> Iterator[None]:
    """If nothing requires grad, attach what was recorded to the error: it shows where the history was lost."""
    try:
        yield
    except NothingRequiresGradError as error:
        error.graph = run.trace_unrooted(output)
        raise


def locate_errors(run: ModelRun, what: str, *, alone: str) -> UserCode:
    """Turn an exception of the user's code into a TargetError that says where it was raised.

    ``alone`` is how to run it without fxgrad.
    """

    def make_error(error: BaseException) -> TargetError:
        place = _format_place(run.model, run.recorder, error) + _format_hooked_view(run.model, run.recorder, error)
        searched = _find_searched_result(run.recorder, error)
        if searched is not None:
            place += (
                f", where PyTorch looks in its result, {add_article(searched)}, for a tensor to put a non-full hook on"
            )
        return TargetError(
            f"{what} raised {escape(type(error).__name__)}{place}: {format_message(error)}",
            f"arguments with which {what} runs",
            f"{alone} by itself{_say_what_for(error)}" if searched is None else _ADVICE_ON_SEARCH,
            format_user_traceback(error),
        )

    return UserCode(make_error, passing=(FxgradError, KeyboardInterrupt))


def _say_what_for(error: BaseException) -> str:
    """What to run it without fxgrad for: nobody has tried whether it raises there. From Python 3.12 on C has a limit of
    recursion of its own that no program can raise."""
    if is_a(error, RecursionError):
        return "; if it does not raise without fxgrad, the few frames that fxgrad adds exceed Python's recursion limit"
    return ", to see whether it raises without fxgrad as well"


def _format_place(model: nn.Module, recorder: Recorder, error: BaseException) -> str:
    """The innermost module call that the error left, and the user's line."""
    failure, source = recorder.failure, find_error_source(error)
    call = failure[1] if failure is not None and failure[0] is error else None
    parts = [] if call is None else [f" in {_format_call(model, recorder, call)}"]
    if source is not None:
        parts.append(f" at {escape(source.file)}:{source.line}" + (f" `{escape(source.code)}`" if source.code else ""))
    return ",".join(parts)


def _find_searched_result(recorder: Recorder, error: BaseException) -> str | None:
    """The class of a module's result in which PyTorch found no first tensor for a non-full hook; None for other errors.

    The loop in ``Module._call_impl`` (torch/nn/modules/module.py) takes result[0], or the first tensor of a dict.
    """
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None or recorder.failure is None or recorder.failure[0] is not error:
        return None
    frame, call = traceback.tb_frame, recorder.failure[1]
    if frame.f_globals is not vars(module_hooks) or not {"var", "result"} <= frame.f_locals.keys():
        return None
    is_legacy = any(hook.kind.is_legacy for hook in call.hooks)
    return escape(type(frame.f_locals["result"]).__name__) if is_legacy else None


def _format_hooked_view(model: nn.Module, recorder: Recorder, error: BaseException) -> str:
    """Whose full hook it is that forbids to change a tensor in place, if that is what PyTorch raised."""
    if _HOOKED_VIEW not in format_message(error) or not recorder.ops.failed:
        return ""
    memory = identify_memory(recorder.ops.failed[0].tensor)
    for call in reversed(recorder.module_calls):
        seen, verb = (call.outputs, "returned") if call.completed else (call.inputs, "got")
        if call.backward_hook is not None and any(identify_memory(one.tensor) == memory for one in seen):
            return f", which changes in place what {_format_call(model, recorder, call)}, with a full hook, {verb}"
    return ""


def _format_call(model: nn.Module, recorder: Recorder, call: ModuleEvent) -> str:
    path = ModuleNames(model).path_of(call.module)
    index = sum(other.module is call.module for other in recorder.module_calls[: call.number + 1])
    text = f"{escape(path) or 'the model'} ({escape(type(call.module).__name__)})"
    return text if index == 1 else f"{text} call {index}"
