"""Random models that change what they can reach, by hypothesis, and what becomes of them under a verb."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from changing_modules import CHANGES, Changing, Stop
from hypothesis import strategies as st
from snapshots import Picture, differences, taken, without_identities
from torch import nn
from torch.utils.hooks import RemovableHandle

import fxgrad
from fxgrad.observe.restore import preserve

Plan = tuple[list[str], int | None, list[Any]]
"""The changes of a module, after how many of them it raises, and the plans of its children."""

_steps = st.lists(st.sampled_from(sorted(CHANGES)), max_size=4)
_ends = st.none() | st.none() | st.integers(0, 4)
PLANS: st.SearchStrategy[Plan] = st.recursive(
    st.tuples(_steps, _ends, st.just([])),
    lambda plans: st.tuples(_steps, _ends, st.lists(plans, max_size=2)),
    max_leaves=3,
)


def planned(plan: Plan) -> nn.Module:
    """The model of a plan."""
    steps, end, children = plan
    changes: list[str | BaseException] = [*steps]
    if end is not None:
        changes.insert(end, Stop())
    return Changing(changes, *map(planned, children))


def arguments(*, seed: int, inner: bool) -> torch.Tensor:
    """An input; `inner`: one with a history, that is no leaf."""
    torch.manual_seed(seed)
    x = torch.randn(4, 3, requires_grad=inner)
    return x * 1 if inner else x


def left_behind(plan: Plan, verb: Callable[..., Any], *, inner: bool) -> list[str]:
    """What is different after a verb; it may raise what the model raises."""
    model, x = planned(plan), arguments(seed=0, inner=inner)
    before = taken(model, x)
    with contextlib.suppress(fxgrad.TargetError):
        verb(model, x)
    return differences(before, taken(model, x))


def recorded_otherwise(plan: Plan, *, inner: bool) -> list[str]:
    """What a program leaves behind that it would not, were it not recorded."""
    ids = RemovableHandle.next_id + 1_000
    alone, recorded = (_after(plan, run, ids, inner=inner) for run in (_run, _run_recorded))
    return differences(alone, recorded)


def _after(plan: Plan, run: Callable[..., Any], ids: int, *, inner: bool) -> Picture:
    torch.manual_seed(1)
    RemovableHandle.next_id = ids  # the ids of handles are keys of the tables
    model, x = planned(plan), arguments(seed=0, inner=inner)
    with preserve(model, x):
        run(model, x)
        return without_identities(taken(model, x))


def _run(model: nn.Module, x: torch.Tensor) -> None:
    with contextlib.suppress(Exception):
        model(x)


def _run_recorded(model: nn.Module, x: torch.Tensor) -> None:
    with fxgrad.record(model) as recording:
        try:
            result = model(x)
        except Exception:
            return
    with contextlib.suppress(fxgrad.TargetError):  # nothing requires grad
        recording.trace(result)
