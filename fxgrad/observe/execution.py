"""Runs the real backward and notes what every hook gets.

The user's hooks run, each through a `_Spy` that notes its arguments first. Spies are put where backward will look: in
the tables of hooks on nodes and tensors, and into the snapshots that full module hooks took. Those in the tables of
modules are for calls that backward itself makes, as a reversible block does. Which node runs is asked of the engine
(torch/csrc/autograd/engine.cpp: get_current_node).
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.autograd.graph import Node as AutogradNode
from torch.nn.modules import module as module_hooks

from fxgrad.errors import TargetError, UsageError
from fxgrad.graph import BackwardGraph, HookKind, NodeKind
from fxgrad.graph.hook_kinds import HookArguments, HookMoment
from fxgrad.graph.records import Firing, Received
from fxgrad.graph.text import escape, format_brief_source, format_hook, format_path
from fxgrad.observe.hooks.records import HookRecords
from fxgrad.observe.hooks.registrations import RegistrationWatch
from fxgrad.observe.hooks.search import HookSlot
from fxgrad.observe.hooks.tables import LiveHook
from fxgrad.observe.observed_graph import ObservedGraph
from fxgrad.observe.real_types import is_a, is_optimized
from fxgrad.observe.record.frames import UserCode, format_message, format_user_traceback, user_code
from fxgrad.observe.record.names import list_modules
from fxgrad.observe.record.tensors import find_roots
from fxgrad.observe.restore import preserve
from fxgrad.observe.run import check_model, claim_process, collect_warnings, record_run, run_forward
from fxgrad.observe.sharding import reset_replicas

_COUNTED = "returned an incorrect number of gradients"
_FREED = "Trying to backward through the graph a second time"
_CHANGED = "one of the variables needed for gradient computation has been modified by an inplace operation"


@dataclass(frozen=True)
class EngineCall:
    """One call of ``torch.autograd.backward`` or ``grad`` on an observed graph, as ``graph.info.backward`` says."""

    observed: ObservedGraph
    graph: BackwardGraph

    @property
    def after(self) -> str | None:
        """Whether the same call is made once before: see `BackwardCall`."""
        return self.graph.info.backward.after

    def run(self, *, retain_graph: bool) -> None:
        """Call backward. That it ends at what an earlier call has freed is no error where that is asked for."""
        roots, gradients = self._list_roots(), self._make_gradients()
        try:
            inputs = self._list_inputs()
            if self.graph.info.backward.api == "grad":
                assert inputs is not None
                torch.autograd.grad(roots, inputs, gradients, retain_graph=retain_graph, allow_unused=True)
            else:
                torch.autograd.backward(roots, gradients, retain_graph=retain_graph, inputs=inputs)
        except RuntimeError as error:
            if self.after != "freed" or not str(error).startswith(_FREED):
                raise

    def _list_roots(self) -> list[Any]:
        if self.graph.info.backward.roots is None:
            return list(self.observed.root_tensors)
        return [GradientEdge(self._find_node(root.node), root.slot) for root in self.graph.roots]

    def _make_gradients(self) -> list[torch.Tensor]:
        if self.graph.info.backward.roots is None:
            return [torch.ones_like(root) for root in self.observed.root_tensors]
        metas = [self._find_node(root.node)._input_metadata[root.slot] for root in self.graph.roots]
        return [torch.ones(meta.shape, dtype=meta.dtype, device=meta.device) for meta in metas]

    def _list_inputs(self) -> list[Any] | None:
        """Leaves as tensors, others as edges. An input outside of the graph is replaced by a new leaf, as unreachable.

        A leaf whose gradient goes to another AccumulateGrad since is not the input: the one in the graph is.
        """
        call = self.graph.info.backward
        if call.inputs is None:
            return None
        leaves = dict(zip(self.observed.leaves.values(), self.observed.leaf_tensors, strict=True))
        nodes = [(self._find_node(node), slot) for node, slot in call.inputs]
        inside = [
            leaves[node] if node in leaves and _is_node_of(leaves[node], node) else GradientEdge(node, slot)
            for node, slot in nodes
        ]
        return [*inside, *(torch.zeros((), requires_grad=True) for _ in call.absent)]

    def _find_node(self, node: int) -> Any:
        return self.observed.walked.order[node]


def _is_node_of(leaf: torch.Tensor, node: Any) -> bool:
    return leaf.requires_grad and get_gradient_edge(leaf).node is node


@dataclass(frozen=True)
class Executed:
    """The graph without sites, and every firing of a hook in the order in which they came.

    ``raised`` is the message of PyTorch's error, where backward came to a node that could no longer read what it saved.
    """

    graph: BackwardGraph
    firings: tuple[Firing, ...]
    raised: str | None = None


def execute(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    loss: Callable[[Any], Any] | None = None,
    watch: RegistrationWatch | None = None,
    called: Callable[[BackwardGraph], BackwardGraph] | None = None,
) -> Executed:
    """Run forward and backward once, as ``torch.autograd.backward(roots, ones)``, and put the state back.

    `called` puts into the graph how backward is called otherwise; the graph with that is returned.
    """
    check_model(model)
    watch = watch or RegistrationWatch()
    with claim_process(), preserve(model, (args, kwargs)), watch.undo_on_exit():
        with record_run(model, (args, kwargs), watch=watch) as run:
            output = run_forward(run, loss)
        traced, observed, hooks = run.trace_live(output.value, output.found)
        graph = traced.graph if called is None else called(traced.graph)
        with preserve(model, (args, kwargs, *_list_tensors_with_gradient(observed, hooks))):
            try:
                return Executed(graph, *_backward(EngineCall(observed, graph), hooks, watch))
            finally:
                reset_replicas(list_modules(model))


@dataclass(frozen=True)
class CompiledRun:
    """The graph of a run without torch.compile, without sites, and how often a run with it called each hook, by its id.

    Hooks that were not there before forward are left out: only such hooks can be told apart in the compiled run.
    """

    graph: BackwardGraph
    times: Mapping[int, int]


def execute_compiled(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    loss: Callable[[Any], Any] | None = None,
    watch: RegistrationWatch | None = None,
) -> CompiledRun:
    """Record a forward without torch.compile; then run forward and backward with it, and put the state back.

    Nothing is monkey-patched in the second run, as Dynamo would see it. What it compiles stays compiled. Its guards do not
    look at which function a hook is, so the spies change nothing for it.
    """
    check_model(model)
    _check_compiled(model)
    watch = watch or RegistrationWatch()
    with claim_process():
        with preserve(model, (args, kwargs)), watch.undo_on_exit():
            with record_run(model, (args, kwargs), watch=watch) as run:
                output = run_forward(run, loss)
            traced, observed, hooks = run.trace_live(output.value, output.found)
        with preserve(model, (args, kwargs, *_list_tensors_with_gradient(observed, hooks))):
            log = _Log(observed, hooks)
            with ExitStack() as stack, collect_warnings():
                ranks = [rank for rank, hook in enumerate(hooks.hooks) if _put_in_early(stack, log, rank, hook)]
                try:
                    _run_compiled(model, args, kwargs, loss, partial(_make_error, observed, log))
                finally:
                    reset_replicas(list_modules(model))
    counts = Counter(firing.hook for firing in log.firings)
    return CompiledRun(traced.graph, {rank: counts[rank] for rank in ranks})


def _check_compiled(model: nn.Module) -> None:
    """Refuse a model in which nothing can be compiled."""
    compiled = any(is_optimized(module) or vars(module).get("_compiled_call_impl") for module in list_modules(model))
    if not compiled and "torch._dynamo.eval_frame" not in sys.modules:
        raise UsageError(
            "a compiled run of a model of which nothing is compiled",
            "what torch.compile(model) returns, or a model with a module on which compile() was called",
            "pass the compiled model, or omit compiled",
        )


def _put_in_early(stack: ExitStack, log: _Log, rank: int, hook: LiveHook) -> bool:
    """Put a spy where calls and tensors take a hook from, if it is registered there. Whether it is."""
    if hook.kind.on_several_tensors:
        is_there = any(part.table is not None and part.number in part.table for part in hook.parts)
        if is_there:
            stack.enter_context(_put_in_closure(log, rank, hook))
        return is_there
    is_there = hook.kind.moment is not HookMoment.RETAIN_GRAD and hook.number in hook.table
    if is_there:
        spy = _Spy(log, rank, hook.kind, None, hook.table[hook.number])
        stack.enter_context(_put_in(spy, HookSlot(hook.table, hook.number, hook)))
    return is_there


def _run_compiled(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    loss: Callable[[Any], Any] | None,
    make_error: Callable[[BaseException], TargetError],
) -> None:
    with user_code(
        "running the compiled forward",
        allowed="a forward that runs compiled",
        advice=lambda _: "run model(*args) by itself, or verify without compiled",
    ):
        value = model(*args, **kwargs)
        result = value if loss is None else loss(value)
    roots = [tensor for _, tensor in find_roots(result, what="the output of the compiled forward").roots]
    with UserCode(make_error):
        torch.autograd.backward(roots, [torch.ones_like(root) for root in roots])


def _list_tensors_with_gradient(observed: ObservedGraph, hooks: HookRecords) -> list[torch.Tensor]:
    """The tensors that backward will give a gradient: leaves, and those that retain theirs."""
    retaining = [
        hook.tensor for hook in hooks.hooks if hook.kind.moment is HookMoment.RETAIN_GRAD and hook.tensor is not None
    ]
    return [*observed.leaf_tensors, *retaining]


def _backward(call: EngineCall, hooks: HookRecords, watch: RegistrationWatch) -> tuple[tuple[Firing, ...], str | None]:
    if call.after is not None:
        with watch.watching():
            _run(call, _Log(call.observed, hooks), retain_graph=call.after == "retained")
    raised: str | None = None
    log = _Log(call.observed, hooks)
    slots = list(hooks.list_slots())
    for slot in slots:
        if isinstance(slot.table, dict):
            watch.remember(slot.table)
    with ExitStack() as stack:
        stack.enter_context(watch.watching(every_thread=not _runs_in_this_thread(call.observed)))
        for slot in slots:
            call_id, function = call.observed.call_id(slot.call), slot.table[slot.key]
            spy = _Spy(log, hooks.id_of(slot.hook), slot.hook.kind, call_id, function)
            stack.enter_context(_put_in(spy, slot))
        for rank, hook in enumerate(hooks.hooks):
            if hook.kind.on_several_tensors:
                stack.enter_context(_put_in_closure(log, rank, hook))
            elif hook.kind.is_module and hook.number in hook.table:
                watch.remember(hook.table)
                spy = _Spy(log, rank, hook.kind, None, hook.function)
                stack.enter_context(_put_in(spy, HookSlot(hook.table, hook.number, hook)))
        try:
            _run(call, log, retain_graph=True)
        except TargetError as error:
            if not _is_expected(call.graph, log, error):
                raise
            raised = format_message(error.__cause__ or error)
        log.note_retained()
    return tuple(log.firings), raised


def _is_expected(graph: BackwardGraph, log: _Log, error: TargetError) -> bool:
    """Whether it is the error of a node that can no longer read what it saved, or that always raises, in a graph that has
    such nodes."""
    message = str(error.__cause__)
    errors = [node.return_error for node in graph.nodes if node.return_error is not None]
    own = any(each.got is None or _COUNTED in message for each in errors)
    own = own or any(node.kind is NodeKind.ERROR for node in graph.nodes)
    lost = message.startswith((_FREED, _CHANGED)) and any(node.has_lost_saved for node in graph.nodes)
    return (own or lost) and log.failure is None


def _runs_in_this_thread(observed: ObservedGraph) -> bool:
    """Whether the engine calls all hooks in the thread that calls backward: where nothing is on an accelerator
    (torch/csrc/autograd/engine.cpp: should_run_in_cpu_ready_queue)."""
    tensors = (*observed.root_tensors, *observed.leaf_tensors)
    with torch._C.DisableTorchFunctionSubclass():
        return all(tensor.device.type in ("cpu", "meta") for tensor in tensors)


def _run(call: EngineCall, log: _Log, *, retain_graph: bool) -> None:
    with UserCode(partial(_make_error, call.observed, log)), collect_warnings():
        call.run(retain_graph=retain_graph)  # PyTorch warns of hooks here, too, as while forward is recorded


def _make_error(observed: ObservedGraph, log: _Log, error: BaseException) -> TargetError:
    return TargetError(
        f"{log.name_culprit(error)} raised {escape(type(error).__name__)}: {format_message(error)}",
        "a backward that runs, with hooks that do not raise",
        "call backward() on " + ", ".join(format_path(path) for path in observed.root_paths[:3]) + " by itself",
        format_user_traceback(error),
    )


class _Log:
    """The firings so far."""

    def __init__(self, observed: ObservedGraph, hooks: HookRecords) -> None:
        self.firings: list[Firing] = []
        self.failure: tuple[BaseException, int] | None = None
        self._hooks = hooks
        self._thread = threading.get_ident() if _runs_in_this_thread(observed) else None
        self._ids: dict[AutogradNode, int] = observed.walked.ids
        self._retaining = [
            (rank, hook, hook.tensor, hook.tensor.grad)
            for rank, hook in enumerate(hooks.hooks)
            if hook.kind.moment is HookMoment.RETAIN_GRAD and hook.tensor is not None
        ]

    def note(self, rank: int, kind: HookKind, call: str | None, arguments: tuple[Any, ...]) -> None:
        """Note one firing by the arguments that the hook is called with. Another thread's backward is not this one."""
        if self._thread not in (None, threading.get_ident()):
            return
        node = torch._C._current_autograd_node()
        grad_input, grad_output = _pick_gradients(kind, arguments)
        order = len(self.firings)
        self.firings.append(
            Firing(rank, call, order, self._ids.get(node), _describe_all(grad_input), _describe_all(grad_output))
        )

    def note_failure(self, error: BaseException, rank: int) -> None:
        """Note that an error left a hook; the first hook that it left is where it was raised."""
        if self.failure is None or self.failure[0] is not error:
            self.failure = error, rank

    def name_culprit(self, error: BaseException) -> str:
        """What raised an error: a hook, or something else in backward."""
        if self.failure is None or self.failure[0] is not error:
            return "backward"
        hook = self._hooks.make_records()[self.failure[1]]
        registered = "" if hook.registered is None else f", registered at {format_brief_source(hook.registered)},"
        return f"the hook {format_hook(hook)}{registered}"

    def note_retained(self) -> None:
        """retain_grad runs no Python; what it stored is seen afterwards, in ``.grad``."""
        for rank, hook, tensor, before in self._retaining:
            if tensor.grad is not None and tensor.grad is not before:
                node = None if hook.origin is None else self._ids.get(hook.origin[0])
                self.firings.append(Firing(rank, None, None, node, (), _describe_all((tensor.grad,))))


def _pick_gradients(kind: HookKind, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    """grad_input and grad_output among the arguments of a hook of this kind."""
    if kind.is_full_pre:
        return (), arguments[1]
    if kind.is_module:
        return arguments[1], arguments[2]
    if kind.arguments is HookArguments.NODE_GRADIENTS:
        return arguments
    if kind.arguments is HookArguments.LEAF:
        return (), ()
    if kind.arguments is HookArguments.NODE_GRAD_OUTPUT:
        return (), arguments[0]
    return (), arguments[0] if is_a(arguments[0], (list, tuple)) else (arguments[0],)


def _describe_all(gradients: Any) -> tuple[Received | None, ...]:
    return tuple([None if gradient is None else _describe(gradient) for gradient in gradients])


def _describe(gradient: torch.Tensor) -> Received:
    nested = gradient.is_nested and gradient.layout is torch.strided
    sizes = None if nested else tuple(size if type(size) is int else str(size) for size in gradient.shape)
    return sizes, str(gradient.dtype).rpartition(".")[2]


@dataclass(frozen=True, slots=True)  # PyTorch copies the __dict__ of a legacy hook into its wrapper (_WrappedHook)
class _Spy:
    """Stands where a hook stood: notes what it is called with, then calls it."""

    log: _Log
    rank: int
    kind: HookKind
    call: str | None
    hook: Any

    def __call__(self, *arguments: Any) -> Any:
        seen = (None, *arguments) if is_a(self.hook, module_hooks._WrappedHook) else arguments
        self.log.note(self.rank, self.kind, self.call, seen)
        try:
            return self.hook(*arguments)
        except BaseException as error:
            self.log.note_failure(error, self.rank)
            raise


@contextmanager
def _put_in(spy: _Spy, slot: HookSlot) -> Iterator[None]:
    """Replace a hook by the spy that calls it."""
    table, key = slot.table, slot.key
    table[key] = spy
    try:
        yield
    finally:
        if isinstance(table, list) or key in table:
            table[key] = spy.hook


@contextmanager
def _put_in_closure(log: _Log, rank: int, hook: LiveHook) -> Iterator[None]:
    """The user's function sits in a closure cell of the tensor hooks (torch/autograd/graph.py)."""
    inner = hook.inner
    cell = inner.__closure__[inner.__code__.co_freevars.index("fn")]
    function = cell.cell_contents
    cell.cell_contents = _Spy(log, rank, hook.kind, None, function)
    try:
        yield
    finally:
        cell.cell_contents = function
