"""Loads a TARGET and runs it while fxgrad records it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from fxgrad.graph import BackwardGraph, HookKind
from fxgrad.graph.backward_graph import ProbeRun
from fxgrad.observe.execution import Executed, execute
from fxgrad.observe.hooks.registrations import RegistrationWatch
from fxgrad.observe.probing import observe_with_hook
from fxgrad.observe.run import TracedRun, observe_forward
from fxgrad.observe.target.importing import parse_target, run_as_program
from fxgrad.observe.target.loading import Target, load_target
from fxgrad.target_options import TargetOptions

_AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16}


def observe_target(options: TargetOptions) -> tuple[TracedRun, nn.Module]:
    """Load the target and trace its forward; also returns its model."""
    with _load(options) as (target, watch):
        observed = observe_forward(
            target.model, tuple(target.args), dict(target.kwargs or {}), loss=target.loss, watch=watch
        )
    return observed, target.model


def execute_target(options: TargetOptions, called: Callable[[BackwardGraph], BackwardGraph]) -> Executed:
    """Load the target and run its forward and backward. `called` puts into the graph how backward is called."""
    with _load(options) as (target, watch):
        return execute(
            target.model, tuple(target.args), dict(target.kwargs or {}), loss=target.loss, watch=watch, called=called
        )


def observe_target_with_hook(options: TargetOptions, module: str, kind: HookKind) -> ProbeRun:
    """Load the target and run its forward without a hook of `kind` on `module` and with it."""
    with _load(options) as (target, watch):
        args, kwargs = tuple(target.args), dict(target.kwargs or {})
        return observe_with_hook(target.model, args, kwargs, module=module, kind=kind, loss=target.loss, watch=watch)


@contextmanager
def _load(options: TargetOptions) -> Iterator[tuple[Target, RegistrationWatch]]:
    """The target, with the places where it registered its hooks; inside, it runs as a program of its own would."""
    watch = RegistrationWatch()
    with run_as_program(parse_target(options.text)):
        with watch.watching():
            target = load_target(options)
        with _find_autocast(options):
            yield target, watch


def _find_autocast(options: TargetOptions) -> AbstractContextManager[object]:
    if options.autocast is None:
        return nullcontext()
    kind = "cpu" if options.device is None else torch.device(options.device).type
    return torch.autocast(kind, dtype=_AUTOCAST_DTYPES[options.autocast])
