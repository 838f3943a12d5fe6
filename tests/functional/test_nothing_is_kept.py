"""A Trace keeps nothing of the program alive, and a thousand of them take no more memory than one."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from changing_modules import ignored
from torch import nn
from torch.autograd.graph import register_multi_grad_hook

import fxgrad

References = dict[str, "weakref.ref[Any]"]

KEPT = 100
"""Traces that are kept, to see what one takes."""


class Held:
    """What a hook closes over."""


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.held = Held()
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


class Watched(nn.Module):
    """Hands out weak references to everything that lives while its forward runs."""

    def __init__(self, note: Callable[[References], None]) -> None:
        super().__init__()
        self.note = note  # no dict of references: a trace would put its contents back
        self.linear = nn.Linear(3, 3)
        self.constant = torch.ones(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held = Held()
        y = Double.apply(self.linear(x))
        local = torch.zeros(3)
        z = y * self.constant + local
        y.register_hook(lambda grad: ignored(held))
        z.grad_fn.register_hook(lambda grad_input, grad_output: ignored(held))
        # an "all" hook holds the nodes that hold it, a cycle that PyTorch never frees, traced or not
        register_multi_grad_hook((y, z), lambda grad: ignored(held), mode="any")
        things = {"activation": y, "result": z, "custom node": y.grad_fn, "held by a hook": held, "constant": local}
        self.note({name: weakref.ref(thing) for name, thing in things.items()})
        return z


def traced(model: nn.Module, x: torch.Tensor) -> Any:
    return fxgrad.trace(model, x)


def verified(model: nn.Module, x: torch.Tensor) -> Any:
    return fxgrad.verify(model, x)


def recorded(model: nn.Module, x: torch.Tensor) -> Any:
    with fxgrad.record(model) as recording:
        result = model(x)
    return recording, recording.trace(result)


def captured(model: nn.Module, x: torch.Tensor) -> Any:
    return fxgrad.capture(model(x), model, node_hooks=True)


VERBS = [traced, verified, recorded, captured]


def program(references: References) -> tuple[nn.Module, torch.Tensor]:
    """A model and its input, held by nobody else."""
    model, x, held = Watched(references.update), torch.randn(2, 3, requires_grad=True), Held()
    model.linear.register_full_backward_hook(lambda module, grad_input, grad_output: ignored(held))
    things = {"model": model, "weight": model.linear.weight, "input": x, "held by a full hook": held}
    references |= {name: weakref.ref(thing) for name, thing in things.items()}
    return model, x


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_is_kept_alive(verb: Callable[..., Any]) -> None:
    references: References = {}
    kept = verb(*program(references))
    gc.collect()
    assert [name for name, reference in references.items() if reference() is not None] == []
    assert len(references) == 9
    assert kept


@pytest.mark.parametrize("verb", [traced, verified])
def test_activations_are_freed_at_once(verb: Callable[..., Any]) -> None:
    """By counting references, without the garbage collector: they are what takes memory."""
    references: References = {}
    model, x = Watched(references.update), torch.randn(2, 3, requires_grad=True)
    gc.disable()
    try:
        kept = verb(model, x)
        assert [name for name, reference in references.items() if reference() is not None] == []
    finally:
        gc.enable()
    assert kept


@pytest.mark.parametrize("verb", [traced, verified])
def test_nothing_is_kept_alive_when_forward_raises(verb: Callable[..., Any]) -> None:
    references: References = {}
    model, x = Watched(references.update), torch.randn(2, 3)
    model.register_forward_hook(failing)
    try:
        verb(model, x)
    except fxgrad.TargetError:
        pass
    else:
        pytest.fail("it does not raise")
    references["model"] = weakref.ref(model)
    del model, x
    gc.collect()
    assert [name for name, reference in references.items() if reference() is not None] == []


def failing(*arguments: Any) -> None:
    raise ValueError("half way")


def growth(verb: Callable[..., Any], runs: int) -> tuple[float, float, float]:
    """What so many runs leave behind, all together.

    In objects of the garbage collector and in blocks of Python's memory, as multiples of what one trace takes that is
    kept; in memory of the process, as a multiple of an activation.
    """
    model, x = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 3)), torch.randn(4_000, 3)
    model[0].register_full_backward_hook(ignored)
    model[3].weight.register_hook(ignored)
    for _ in range(60):  # they fill caches
        verb(model, x)
    before = taken()
    for _ in range(runs):
        verb(model, x)
    objects, blocks, memory = [now - then for then, now in zip(before, taken(), strict=True)]
    before = taken()
    kept = [fxgrad.trace(model, x) for _ in range(KEPT)]
    one_objects, one_blocks, _ = [(now - then) / len(kept) for then, now in zip(before, taken(), strict=True)]
    return objects / one_objects, blocks / one_blocks, memory / x.nbytes


def taken() -> tuple[int, int, int]:
    """The objects, the blocks and the bytes that this process has now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return len(gc.get_objects()), sys.getallocatedblocks(), pages * resource.getpagesize()


@pytest.mark.parametrize("verb", VERBS)
def test_twenty_runs_leave_less_than_one_trace(verb: Callable[..., Any]) -> None:
    objects, blocks, _ = growth(verb, 20)
    assert objects < 0.07
    assert blocks < 0.6


@pytest.mark.oracle
@pytest.mark.parametrize(("verb", "runs"), [(traced, 1_000), (verified, 300), (recorded, 300), (captured, 400)])
def test_hundreds_of_runs_leave_no_more_than_a_few(verb: Callable[..., Any], runs: int, repository: Path) -> None:
    """In a process of its own: what earlier tests left behind grows by itself, now and then."""
    program = f"from {__name__} import *; print(*growth({verb.__name__}, {runs}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, cwd=repository, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    objects, blocks, memory = map(float, done.stdout.split())
    assert objects < 0.07
    assert blocks < 1.5  # Python keeps some hundreds for itself, however many runs
    assert memory < 80
