"""Runs forward without a module hook and with it, and takes the hook off again.

Sources relied on: torch/nn/modules/module.py (register_backward_hook, register_full_backward_hook and the other
registering functions), torch/_dynamo/eval_frame.py (OptimizedModule.__setattr__).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from msgspec import structs
from torch import nn
from torch.nn.modules import module as module_hooks

from fxgrad.errors import NothingRequiresGradError, TargetError, UsageError
from fxgrad.graph import BackwardGraph, Hook, HookKind
from fxgrad.graph.backward_graph import ProbeRun
from fxgrad.graph.lookup import find_module_path
from fxgrad.graph.text import escape
from fxgrad.observe.autograd.python_code import find_source
from fxgrad.observe.hooks.registrations import RegistrationWatch
from fxgrad.observe.real_types import is_a
from fxgrad.observe.record.events import NEVER_ENDS, next_sequence_nr
from fxgrad.observe.record.frames import format_message
from fxgrad.observe.record.names import list_module_paths, list_modules
from fxgrad.observe.run import check_model, observe_forward

_FLAG = "_is_full_backward_hook"
_GLOBAL_FLAG = "_global_is_full_backward_hook"
_MISSING = object()


def _hook(*_: object) -> None:
    """The hook that is added."""


def observe_with_hook(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    module: str | nn.Module,
    kind: HookKind,
    loss: Callable[[Any], Any] | None = None,
    watch: RegistrationWatch | None = None,
) -> ProbeRun:
    """Run ``model(*args, **kwargs)`` twice: as it is, and with a hook of `kind` that does nothing on `module`.

    `module` is a path or the module itself. A hook that PyTorch refuses is no error: the ProbeRun says why.

    Raises UsageError for an unknown module, and TargetError where the model does not run without the hook.
    """
    watch = watch or RegistrationWatch()

    def run() -> BackwardGraph:
        return observe_forward(model, args, kwargs, loss=loss, watch=watch.copy()).graph

    check_model(model)
    start = next_sequence_nr()
    before = run()
    end = next_sequence_nr()
    path, place = _find_module(model, before, module)
    hook = Hook(len(before.hooks), kind, "" if kind.is_global else path, "hook", may_return=False)
    endless = _find_endless_call(before, hook)
    if endless is not None:
        return ProbeRun(hook, before, None, endless)
    after = _run_with_hook(run, model, place, kind)
    if isinstance(after, str):
        return ProbeRun(hook, before, None, after)
    _check_apart(after, start, end)
    return _blank_source(ProbeRun(hook, before, after))


def _run_with_hook(
    run: Callable[[], BackwardGraph], model: nn.Module, place: nn.Module, kind: HookKind
) -> BackwardGraph | str:
    """The graph with the hook, or what PyTorch raises instead."""
    registering = RegistrationWatch()
    with registering.undo_on_exit(), _preserve_flags(model):
        try:
            with registering.watching():
                _register(place, kind)
        except Exception as error:  # a class may override the registering function, and raise anything
            return f"{kind.value} raises {type(error).__name__}: {format_message(error)}"
        try:
            return run()
        except NothingRequiresGradError:
            raise
        except TargetError as error:
            refused = error.given
    try:
        run()  # does it raise without the hook, too, because it is not the first time?
    except TargetError as error:
        raise _not_repeatable(f"forward runs once, but not again: {error.given}") from error
    return refused


def _check_apart(graph: BackwardGraph, start: int, end: int) -> None:
    """Refuse a graph with nodes of the run before: what forward changed then could not be put back.

    An operation in place gives a tensor another grad_fn, and nothing gives it the old one again.
    """
    numbers = [(node.label, node.sequence_nr) for node in graph.nodes]
    for call in graph.calls:  # their tensors may have nodes that the roots do not reach
        numbers += [(each.node_name, each.sequence_nr) for each in (*call.inputs, *call.outputs) if each.node_name]
    for label, number in numbers:
        if number is not None and start <= number < end:
            raise _not_repeatable(
                f"the second forward may depend on the first: {label} has a sequence number of the first run"
            )


def _not_repeatable(given: str) -> TargetError:
    return TargetError(
        given,
        "a forward that can run twice, without the hook and with it",
        "build the model and its arguments again, register the hook, and trace them",
    )


def _find_module(model: nn.Module, graph: BackwardGraph, module: str | nn.Module) -> tuple[str, nn.Module]:
    if is_a(module, str):
        path = find_module_path(graph, module)
        found = next((held for known, held in list_module_paths(model) if known == path), None)
        if found is None:
            raise UsageError(
                f"a hook on {escape(path)}, which is not in the model",
                "a module that is an attribute of the model or of its modules",
                "make it an attribute, or put it into an nn.ModuleList",
            )
        return path, found
    known_path = next((known for known, held in list_module_paths(model) if held is module), None)
    if known_path is None:
        raise UsageError(
            f"a {escape(type(module).__name__)} as the module",
            "a dotted path, or a module of the model",
            "a path such as " + ", ".join(m.path or '""' for m in graph.modules[:3]),
        )
    return known_path, module


def _find_endless_call(graph: BackwardGraph, hook: Hook) -> str | None:
    """Why forward would never return with a non-full hook: it must not be tried."""
    for call in graph.calls if hook.kind.is_legacy else ():
        if call.legacy_reason == NEVER_ENDS and (hook.kind.is_global or call.path == hook.owner):
            return f"forward does not return from {escape(call.id)}: {NEVER_ENDS}"
    return None


def _register(module: nn.Module, kind: HookKind) -> None:
    owner: Any = module_hooks if kind.is_global else module
    getattr(owner, kind.value.rpartition(".")[2])(_hook)


@contextmanager
def _preserve_flags(model: nn.Module) -> Iterator[None]:
    """Put back the flags that say which kind of hooks a table holds.

    Those of all modules: registering on what torch.compile returned sets the flag of the module inside, and a class may
    override the registering functions.
    """
    with ExitStack() as stack:
        stack.callback(setattr, module_hooks, _GLOBAL_FLAG, getattr(module_hooks, _GLOBAL_FLAG))
        for attributes in map(vars, list_modules(model)):
            stack.callback(_put_back, attributes, attributes.get(_FLAG, _MISSING))
        yield


def _put_back(attributes: dict[str, Any], flag: Any) -> None:
    """Set the flag past ``__setattr__``, which an OptimizedModule passes on to the module inside."""
    if flag is _MISSING:
        attributes.pop(_FLAG, None)
    else:
        attributes[_FLAG] = flag


def _blank_source(run: ProbeRun) -> ProbeRun:
    """Find the record of the hook, and remove from it that its function is defined in this file."""
    assert run.after is not None
    defined = find_source(_hook)
    found = next((each for each in run.after.hooks if each.source == defined), None)
    if found is None:
        raise UsageError(
            (
                f"{run.hook.kind.value} of {escape(run.hook.owner) or 'the model'}, after which the hook is in none of "
                "PyTorch's hook tables"
            ),
            "a module that keeps its hooks as torch.nn.Module does",
            "register the hook and trace again",
        )
    hook = structs.replace(found, function=run.hook.function, source=None)
    hooks = tuple([hook if each is found else each for each in run.after.hooks])
    return ProbeRun(hook, run.before, structs.replace(run.after, hooks=hooks))
