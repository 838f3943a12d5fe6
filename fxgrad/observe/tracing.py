"""Runs a forward under observation and hands out records. What `fxgrad.api` calls."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.lazy import LazyModuleMixin

from fxgrad.errors import FxgradError, TargetError, UsageError
from fxgrad.graph import BackwardGraph, Path
from fxgrad.observe.forward import ForwardRecorder
from fxgrad.observe.fx_graph import build, runnable
from fxgrad.observe.hooked import HookCollector, existing_hooks
from fxgrad.observe.hooks import LiveHook, RegistrationWatch
from fxgrad.observe.metas import MetaTable
from fxgrad.observe.names import ModuleNames, named_tensors
from fxgrad.observe.observation import Observation, device_of, graph_info
from fxgrad.observe.roots import FoundRoots, find_roots
from fxgrad.observe.state import preserved
from fxgrad.observe.structure import tensors_in
from fxgrad.observe.tracebacks import user_traceback

NO_CALLS = "captured from tensors that exist already: the forward was not watched"


@dataclass(frozen=True)
class RecordedForward:
    """The recorded ``torch.fx.Graph``, with what it needs to run again."""

    graph: fx.Graph
    constants: dict[str, Any]
    changed: frozenset[str]

    def module(self, model: nn.Module) -> fx.GraphModule:
        """A GraphModule that runs the graph with the parameters of `model`."""
        return runnable(self.graph, self.constants, model, self.changed)


@dataclass(frozen=True)
class Observed:
    """The records, and the forward where it was recorded."""

    graph: BackwardGraph
    forward: RecordedForward | None


@dataclass
class Session:
    """One recording of one model, from the first call to the records."""

    model: nn.Module
    watch: RegistrationWatch = field(default_factory=RegistrationWatch)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.metas = MetaTable()
        self.recorder: ForwardRecorder | None = None
        self.earlier: list[LiveHook] = []
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self.versions: dict[str, int] = {}

    @contextmanager
    def recording(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Iterator[Session]:
        """Watch what runs inside."""
        self.args, self.kwargs = args, kwargs or {}
        inputs = self.inputs()
        named = named_tensors(self.model, [(str(path), tensor) for path, tensor in inputs])
        known = [entry.tensor for entry in named.values()]
        self.earlier = existing_hooks(self.model.modules(), known)
        self.versions = {name: tensor._version for name, tensor in self._parameters() if not tensor.is_inference()}
        self.recorder = ForwardRecorder(self.metas, known)
        self.watch.running = self.recorder.running
        with ExitStack() as stack:
            stack.enter_context(self._eager())
            caught = stack.enter_context(warnings.catch_warnings(record=True))
            warnings.simplefilter("always")
            stack.enter_context(self.watch.watching())
            stack.enter_context(self.recorder.recording())
            yield self
        self.notes += _told_once(caught or ())

    def _parameters(self) -> list[tuple[str, torch.Tensor]]:
        return list(self.model.named_parameters(remove_duplicate=False))

    def inputs(self) -> list[tuple[Path, torch.Tensor]]:
        """The tensors among the model's arguments."""
        return [*tensors_in(self.args, ("args",)).tensors, *tensors_in(self.kwargs, ("kwargs",)).tensors]

    @contextmanager
    def _eager(self) -> Iterator[None]:
        """Let compiled modules run as they are written: a compiled region would show as one node."""
        compiled = [module for module in self.model.modules() if getattr(module, "_compiled_call_impl", None)]
        wrapped = [module for module in self.model.modules() if type(module).__name__ == "OptimizedModule"]
        if compiled or wrapped:
            self.notes.append(f"{len(compiled) + len(wrapped)} compiled modules ran eagerly, without torch.compile")
        implementations = [module._compiled_call_impl for module in compiled]
        with ExitStack() as stack:
            if "torch._dynamo" in sys.modules:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            for module, implementation in zip(compiled, implementations, strict=True):
                stack.callback(setattr, module, "_compiled_call_impl", implementation)
                module._compiled_call_impl = None
            yield

    def observed(
        self, output: Any, found: FoundRoots, *, device: str | None = None, emulated: bool = False
    ) -> Observed:
        """Make the records of the run, from the roots in `found`."""
        return self.observed_live(output, found, device=device, emulated=emulated)[0]

    def observed_live(
        self, output: Any, found: FoundRoots, *, device: str | None = None, emulated: bool = False
    ) -> tuple[Observed, Observation, HookCollector]:
        """The same, with the live objects behind the records: to run backward on."""
        assert self.recorder is not None
        module_names = ModuleNames(self.model)
        call_names = {
            call: (module_names.path_of(call.module), type(call.module)) for call in self.recorder.module_calls
        }
        calls, constants = self.recorder.function_calls, self.recorder.constants
        forward = build(self.model, self.args, self.kwargs, output, calls, constants, call_names)
        observation = Observation(
            found.roots,
            self.model,
            inputs=self.inputs(),
            recorder=self.recorder,
            forward=forward,
            module_names=module_names,
            metas=self.metas,
        )
        hooks = HookCollector(observation, earlier=self.earlier, watch=self.watch)
        tensors = [entry.tensor for entry in observation.named.values()]
        info = graph_info(
            device=device or device_of(tensors),
            emulated=emulated,
            root_rule=found.rule,
            skipped=found.skipped,
            notes=tuple(self.notes),
        )
        recorded = RecordedForward(forward.graph, forward.constants, self._changed())
        return Observed(observation.graph(info, hooks), recorded), observation, hooks

    def _changed(self) -> frozenset[str]:
        return frozenset(name for name, p in self._parameters() if self.versions.get(name, p._version) != p._version)


def _told_once(caught: Iterable[warnings.WarningMessage]) -> list[str]:
    counts = Counter(f"while forward ran, {entry.category.__name__}: {entry.message}" for entry in caught)
    return [text if count == 1 else f"{text} ({count} times)" for text, count in counts.items()]


def recorded(session: Session, loss: Any) -> Observed:
    """The records of what a session has watched, with backward starting from `loss`."""
    return session.observed(loss, find_roots(loss, what="the loss"))


def observe_forward(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    loss: Callable[[Any], Any] | None = None,
    watch: RegistrationWatch | None = None,
) -> Observed:
    """Run ``model(*args, **kwargs)`` once under observation, and put back what it changed.

    `watch` has seen earlier registrations: those that the making of the model did.
    """
    check_model(model)
    session = Session(model, watch or RegistrationWatch())
    inputs = tensors_in((args, kwargs)).tensors
    with preserved(model, [tensor for _, tensor in inputs]), forgotten(session.watch):
        with session.recording(args, kwargs):
            output = run_forward(session, loss)
        return session.observed(output.value, output.found)


@contextmanager
def forgotten(watch: RegistrationWatch) -> Iterator[None]:
    """The hooks that are registered inside are gone afterwards, also those that PyTorch puts on nodes for modules."""
    known = frozenset(watch.registrations)
    try:
        yield
    finally:
        watch.forget(known)


@dataclass(frozen=True)
class Output:
    """What forward returned, and the roots chosen in it or in what the loss returned."""

    value: Any
    found: FoundRoots


def run_forward(session: Session, loss: Callable[[Any], Any] | None) -> Output:
    """Call the model, then the loss, inside a session's recording."""
    recorder = session.recorder
    assert recorder is not None
    with located(recorder, "forward"):
        value = session.model(*session.args, **session.kwargs)
    if loss is None:
        return Output(value, find_roots(value))
    recorder.in_loss = True
    with located(recorder, "the loss function"):
        result = loss(value)
    name = getattr(loss, "__name__", type(loss).__name__)
    return Output(value, find_roots(result, what=f"the result of the loss function {name}"))


@contextmanager
def located(recorder: ForwardRecorder, what: str) -> Iterator[None]:
    """Turn an exception of the user's code into a TargetError that says in which module it was raised."""
    try:
        yield
    except FxgradError:
        raise
    except Exception as error:
        failed = recorder.failed
        where = "" if failed is None else f" in {type(failed.module).__name__}"
        raise TargetError(
            f"{what} raised {type(error).__name__}{where}: {error}",
            "a forward that runs with these arguments",
            "run model(*args, **kwargs) by itself",
            user_traceback(error),
        ) from error


def check_model(model: object) -> None:
    """Refuse what cannot be traced, saying what to do first."""
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"a {type(model).__name__} as the model",
            "a torch.nn.Module",
            "wrap a function in a Module whose forward calls it, or use fxgrad.capture(outputs)",
        )
    for path, module in model.named_modules():
        uninitialized = isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()  # type: ignore[misc]
        if uninitialized:
            raise UsageError(
                f"{path or 'the model'} is a {type(module).__name__}, whose parameters have no shape yet",
                "modules whose parameters are initialized: the first call of a lazy module changes its class",
                "run model(*args) once before tracing",
            )


def observe_tensors(outputs: Any, model: nn.Module | None, *, node_hooks: bool) -> Observed:
    """Walk the graph behind tensors that exist already; nothing is run."""
    found = find_roots(outputs, what="the outputs")
    observation = Observation(found.roots, model)
    hooks = HookCollector(observation, earlier=[], every_node=node_hooks)
    tensors = [tensor for _, tensor in found.roots]
    info = graph_info(device=device_of(tensors), root_rule=found.rule, skipped=found.skipped, calls_reason=NO_CALLS)
    return Observed(observation.graph(info, hooks), None)
