"""Loads a TARGET and runs it under observation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from fxgrad.graph import BackwardGraph
from fxgrad.observe import accelerator
from fxgrad.observe.devices import as_emulated
from fxgrad.observe.execution import Executed, execute
from fxgrad.observe.importing import as_program
from fxgrad.observe.loading import Target, load_target
from fxgrad.observe.registrations import RegistrationWatch
from fxgrad.observe.session import Observed
from fxgrad.observe.target_text import parse_target
from fxgrad.observe.tracing import observe_forward

_AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16}


@dataclass(frozen=True)
class Request:
    """A TARGET with its options, as the command line gives them.

    ``backward_inputs`` and ``api`` are how its backward is called, where it is.
    """

    text: str
    init: str | None = None
    inputs: tuple[str, ...] = ()
    loss: str | None = None
    seed: int | None = None
    mode: Literal["train", "eval"] | None = None
    device: str | None = None
    autocast: str | None = None
    backward_inputs: tuple[str, ...] = ()
    api: Literal["backward", "grad"] = "backward"


def observe(request: Request) -> tuple[Observed, nn.Module]:
    """Load the target and trace its forward, on a device that is there."""
    with _loaded(request) as (target, watch):
        observed = observe_forward(
            target.model, tuple(target.args), dict(target.kwargs or {}), loss=target.loss, watch=watch
        )
    return observed, target.model


Called = Callable[[BackwardGraph], BackwardGraph]
"""Puts into a graph how its backward is called."""


def run(request: Request, called: Called) -> Executed:
    """Load the target and run its forward and backward, on a device that is there."""
    with _loaded(request) as (target, watch):
        return execute(
            target.model, tuple(target.args), dict(target.kwargs or {}), loss=target.loss, watch=watch, called=called
        )


def observe_emulated(request: Request) -> BackwardGraph:
    """`observe` on the fake accelerator. Only for an interpreter of its own: the backend stays."""
    assert request.device is not None
    with accelerator.emulate(request.device):
        return as_emulated(observe(request)[0].graph, request.device)


def run_emulated(request: Request, called: Called) -> Executed:
    """`run` on the fake accelerator. Only for an interpreter of its own: the backend stays."""
    assert request.device is not None
    with accelerator.emulate(request.device):
        executed = run(request, called)
    return replace(executed, graph=as_emulated(executed.graph, request.device))


@contextmanager
def _loaded(request: Request) -> Iterator[tuple[Target, RegistrationWatch]]:
    """The target, with the places where it registered its hooks; inside, it runs as a program of its own would."""
    watch = RegistrationWatch()
    with as_program(parse_target(request.text)):
        with watch.watching():
            target = load_target(
                request.text,
                init=request.init,
                inputs=request.inputs,
                loss=request.loss,
                seed=request.seed,
                mode=request.mode,
                device=request.device,
            )
        with _autocast(request):
            yield target, watch


@contextmanager
def _autocast(request: Request) -> Iterator[None]:
    if request.autocast is None:
        context: Any = nullcontext()
    else:
        kind = "cpu" if request.device is None else torch.device(request.device).type
        context = torch.autocast(kind, dtype=_AUTOCAST_DTYPES[request.autocast])
    with context:
        yield
