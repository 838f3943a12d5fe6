"""fxgrad called from where PyTorch makes no graph of the program: refused in the shape of all errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from changing_modules import ignored
from torch import nn

import fxgrad

Verb = Callable[[nn.Module, torch.Tensor], Any]


def record(model: nn.Module, x: torch.Tensor) -> fxgrad.Trace:
    with fxgrad.record(model) as recording:
        result = model(x)
    return recording.trace(result)


def probe(model: nn.Module, x: torch.Tensor) -> fxgrad.Probe:
    return fxgrad.probe(model, x, module="0", kind="register_full_backward_hook")


def capture(model: nn.Module, x: torch.Tensor) -> fxgrad.Trace:
    return fxgrad.capture(OUTSIDE, model)


OUTSIDE = nn.Linear(3, 3)(torch.ones(2, 3))
VERBS: dict[str, Verb] = {
    "trace": fxgrad.trace,
    "record": record,
    "probe": probe,
    "verify": fxgrad.verify,
    "capture": capture,
}


def under(enter: Callable[[], Any]) -> Callable[[Callable[..., Any], torch.Tensor], None]:
    def run(verb: Callable[..., Any], x: torch.Tensor) -> None:
        with enter():
            verb(x)

    return run


@contextmanager
def open_level() -> Iterator[None]:
    torch._C._functorch._grad_increment_nesting()
    try:
        yield
    finally:
        torch._C._functorch._grad_decrement_nesting()


def in_vmap(verb: Callable[..., Any], x: torch.Tensor) -> None:
    torch.vmap(lambda row: (verb(row), row)[1])(x)


def in_grad(verb: Callable[..., Any], x: torch.Tensor) -> None:
    torch.func.grad(lambda y: (verb(y), y.sum())[1])(x)


def in_jvp(verb: Callable[..., Any], x: torch.Tensor) -> None:
    torch.func.jvp(lambda y: (verb(y), y.sum())[1], (x,), (x,))


def in_jit_trace(verb: Callable[..., Any], x: torch.Tensor) -> None:
    torch.jit.trace(lambda y: (verb(y), y * 2)[1], (x,))


def in_compile(verb: Callable[..., Any], x: torch.Tensor) -> None:
    torch.compile(lambda y: (verb(y), y * 2)[1], backend="eager")(x)


def in_export(verb: Callable[..., Any], x: torch.Tensor) -> None:
    class Model(nn.Module):
        def forward(self, y: torch.Tensor) -> torch.Tensor:
            verb(y)
            return y * 2

    torch.export.export(Model(), (x,), strict=False)


SURROUNDINGS = {
    "torch.inference_mode": under(torch.inference_mode),
    "a transform of torch.func": in_vmap,
    "a transform of torch.func, grad": in_grad,
    "a transform of torch.func, jvp": in_jvp,
    "a transform of torch.func, left open": under(open_level),
    "torch.jit.trace": in_jit_trace,
    "torch.compile or torch.export": in_compile,
    "torch.compile or torch.export, export": in_export,
    "torch._C.DisableTorchFunction": under(torch._C.DisableTorchFunction),
}


@pytest.mark.filterwarnings("ignore")  # of torch.jit.trace and Dynamo
@pytest.mark.parametrize("place", SURROUNDINGS)
@pytest.mark.parametrize("verb", VERBS)
def test_fxgrad_is_refused_inside(verb: str, place: str) -> None:
    model, x = nn.Sequential(nn.Linear(3, 3), nn.Tanh()), torch.ones(2, 3)
    model[0].register_full_backward_hook(ignored)
    with pytest.raises(fxgrad.UsageError) as error:
        SURROUNDINGS[place](lambda given: VERBS[verb](model, given), x)
    assert error.value.given.startswith(f"fxgrad inside {place.partition(',')[0]}")


def test_model_that_was_made_in_inference_mode_has_its_hooks_told() -> None:
    with torch.inference_mode():
        model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)), torch.ones(2, 3)
    model[0].register_full_backward_hook(ignored)
    assert fxgrad.trace(model, x).sites[0].fires is False
    assert fxgrad.verify(model, x).ok
