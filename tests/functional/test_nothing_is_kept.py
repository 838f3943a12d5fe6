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


def growth(verb: Callable[..., Any], times: int) -> tuple[int, int]:
    """How many objects of the garbage collector, and blocks of memory, there are more after so many runs."""
    model, x = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 3)), torch.randn(4, 3)
    model[0].register_full_backward_hook(ignored)
    model[3].weight.register_hook(ignored)
    counts = []
    for runs in (10, times):
        for _ in range(runs):
            verb(model, x)
        gc.collect()
        counts.append((len(gc.get_objects()), sys.getallocatedblocks()))
    (objects, blocks), (more_objects, more_blocks) = counts
    return more_objects - objects, more_blocks - blocks


@pytest.mark.parametrize("verb", VERBS)
def test_memory_stays_the_same(verb: Callable[..., Any]) -> None:
    objects, blocks = growth(verb, 20)
    assert objects < 10
    assert blocks < 400  # one trace is thousands


@pytest.mark.oracle
@pytest.mark.parametrize(("verb", "runs"), [(traced, 1_000), (verified, 300), (recorded, 300), (captured, 400)])
def test_memory_stays_the_same_over_many_runs(verb: Callable[..., Any], runs: int, repository: Path) -> None:
    """In a process of its own: what earlier tests left behind grows by itself, now and then."""
    program = f"from {__name__} import *; print(*growth_over_many_runs({verb.__name__}, {runs}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, cwd=repository, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    objects, blocks, memory = map(int, done.stdout.split())
    assert objects < 10
    assert blocks < 1_000  # two or three a run would be more; Python keeps some hundreds for itself, however many runs
    assert memory < 4_000_000


def growth_over_many_runs(verb: Callable[..., Any], runs: int) -> tuple[int, int, int]:
    growth(verb, 50)
    before = resident_memory()
    return *growth(verb, runs), resident_memory() - before


def resident_memory() -> int:
    """In bytes, of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
