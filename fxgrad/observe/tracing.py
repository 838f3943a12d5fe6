"""Runs a forward under observation and hands out records. What `fxgrad.api` calls."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from fxgrad.errors import FxgradError, NothingRequiresGradError, TargetError, UsageError
from fxgrad.graph.text import escape
from fxgrad.observe.forward import ForwardRecorder, alone
from fxgrad.observe.frames import source_of_error
from fxgrad.observe.hook_search import HookSearch
from fxgrad.observe.hooked import HookCollector
from fxgrad.observe.names import ModuleNames, TensorNames, module_paths, table_of, tensor_finder
from fxgrad.observe.observation import Observation, device_of, graph_info
from fxgrad.observe.real_types import is_a
from fxgrad.observe.registrations import RegistrationWatch
from fxgrad.observe.restore import preserve
from fxgrad.observe.roots import FoundRoots, find_roots
from fxgrad.observe.seen import SeenModuleCall
from fxgrad.observe.session import Observed, Session
from fxgrad.observe.tracebacks import UserCode, message_of, user_traceback

NO_CALLS = "captured from tensors that exist already: the forward was not watched"


def recorded(session: Session, loss: Any) -> Observed:
    """The records of what a session has watched, with backward starting from `loss`."""
    with keeping_what_ran(session, loss):
        found = find_roots(loss, what="the loss")
    return session.observed(loss, found)


@contextmanager
def keeping_what_ran(session: Session, output: Any) -> Iterator[None]:
    """Where nothing requires grad, let the error have what was recorded, to see where it was lost."""
    try:
        yield
    except NothingRequiresGradError as error:
        error.graph = session.unrooted(output)
        raise


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
    session = Session(model, watch)
    with alone(), preserve(model, (args, kwargs), on_write=True) as memory, session.watch.undone():
        with session.recording(args, kwargs, memory=memory):
            output = run_forward(session, loss)
        return session.observed(output.value, output.found)


@dataclass(frozen=True)
class Output:
    """What forward returned, and the roots chosen in it or in what the loss returned."""

    value: Any
    found: FoundRoots


def run_forward(session: Session, loss: Callable[[Any], Any] | None) -> Output:
    """Call the model, then the loss, inside a session's recording, and choose the roots."""
    assert session.recorder is not None
    assert session.arguments is not None
    args, kwargs = session.arguments
    session.limit_frames(sys._getframe())
    with located(session, "forward", alone="model(*args, **kwargs)"):
        value = session.model(*args, **kwargs)
    if loss is None:
        return _with_roots(session, value, value)
    session.recorder.where.in_loss = True
    with located(session, "the loss function", alone="loss(model(*args, **kwargs))"):
        result = loss(value)
    return _with_roots(session, value, result, what=f"the result of the loss function {escape(_name_of(loss))}")


def _name_of(function: Callable[..., Any]) -> str:
    try:
        name = function.__name__
    except Exception:  # the user's own class, or a callable object
        return type(function).__name__
    return name if is_a(name, str) else type(function).__name__


def _with_roots(session: Session, value: Any, result: Any, *, what: str = "the output of forward") -> Output:
    with keeping_what_ran(session, result):
        return Output(value, find_roots(result, what=what))


def located(session: Session, what: str, *, alone: str) -> UserCode:
    """Turn an exception of the user's code into a TargetError that says where it was raised.

    ``alone`` is how to run it without fxgrad.
    """

    def told(error: BaseException) -> TargetError:
        assert session.recorder is not None
        return TargetError(
            f"{what} raised {escape(type(error).__name__)}{_place(session.model, session.recorder, error)}: {message_of(error)}",
            f"{what} that runs with these arguments",
            f"{alone} by itself: {_without_fxgrad(error)}",
            user_traceback(error),
        )

    return UserCode(told, passing=(FxgradError, KeyboardInterrupt))


def _without_fxgrad(error: BaseException) -> str:
    """What running it without fxgrad shows. From Python 3.12 on C has a limit of its own that no program can raise."""
    if is_a(error, RecursionError):
        return "if it does not raise without fxgrad, the few calls that fxgrad adds are too many for Python's limit"
    return "it raises without fxgrad, too"


def _place(model: nn.Module, recorder: ForwardRecorder, error: BaseException) -> str:
    """The innermost module call that the error left, and the user's line."""
    failure, source = recorder.failure, source_of_error(error)
    call = failure[1] if failure is not None and failure[0] is error else None
    parts = [] if call is None else [f" in {_call_text(model, recorder, call)}"]
    if source is not None:
        parts.append(f" at {escape(source.file)}:{source.line}" + (f" `{escape(source.code)}`" if source.code else ""))
    return ",".join(parts)


def _call_text(model: nn.Module, recorder: ForwardRecorder, call: SeenModuleCall) -> str:
    path = ModuleNames(model).path_of(call.module)
    index = sum(other.module is call.module for other in recorder.module_calls[: call.number + 1])
    text = f"{escape(path) or 'the model'} ({escape(type(call.module).__name__)})"
    return text if index == 1 else f"{text} call {index}"


def check_model(model: object) -> None:
    """Refuse what cannot be traced, saying what to do first."""
    if not is_a(model, nn.Module):
        raise UsageError(
            f"a {escape(type(model).__name__)} as the model",
            "a torch.nn.Module",
            "wrap a function in a Module whose forward calls it, or use fxgrad.capture(outputs)",
        )
    for path, module in module_paths(model):
        if any(map(is_lazy, [*table_of(module, "_parameters").values(), *table_of(module, "_buffers").values()])):
            raise UsageError(
                f"{escape(path) or 'the model'} is a {escape(type(module).__name__)}, whose parameters have no shape yet",
                "modules whose parameters are initialized: the first call of a lazy module changes its class",
                "run model(*args) once before tracing",
            )


def observe_tensors(outputs: Any, model: nn.Module | None, *, node_hooks: bool) -> Observed:
    """Walk the graph behind tensors that exist already; nothing is run."""
    if model is not None:
        check_model(model)
    found = find_roots(outputs, what="the outputs")
    tensor_names = TensorNames(model)
    tensor_names.add_attributes(model)
    with alone(), torch._C.DisableTorchFunctionSubclass():  # the user's tensor classes are not asked
        observation = Observation(found.roots, ModuleNames(model), tensor_names)
        search = HookSearch(observation, every_node=node_hooks)
        info = graph_info(
            device=device_of(observation.root_tensors),
            root_rule=found.rule,
            skipped=found.skipped,
            notes=search.notes,
            calls_reason=NO_CALLS,
        )
        hooks = HookCollector(observation, search)
        return Observed(observation.graph(info, hooks), None, tensor_finder(tensor_names))
