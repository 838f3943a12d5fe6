"""What is found near a graph that was there before: what its nodes hold, and what running functions hold."""

from __future__ import annotations

import functools
import gc
import subprocess
import sys
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxgrad
from fxgrad.observe.hooks import nearby
from tests.support.needs import needs_saved_tensors


class Holder:
    """An object of the user's, whose code must not run."""

    __slots__ = ("__dict__",)

    def __init__(self, tensor: torch.Tensor) -> None:
        object.__getattribute__(self, "__dict__")["states"] = [tensor]

    def method(self) -> None: ...

    def __getattribute__(self, name: str) -> Any:
        raise TypeError("not to be asked")


def module_with(tensor: torch.Tensor) -> nn.Module:
    module = nn.Identity()
    module.states = [tensor]
    return module


KEPT: dict[str, Callable[[torch.Tensor], Any]] = {
    "variable": lambda tensor: tensor,
    "containers": lambda tensor: {"a": ([OrderedDict(b=deque([{tensor}]))],)},
    "object": Holder,
    "method": lambda tensor: functools.partial(object.__getattribute__(Holder(tensor), "method")),
    "closure": lambda tensor: [lambda: tensor],
    "module": module_with,
}


def make_hooked() -> tuple[torch.Tensor, torch.Tensor]:
    """A root, and a tensor with a hook that its graph does not hold."""
    hooked = torch.ones(3, requires_grad=True) * 2
    hooked.register_hook(lambda grad: None)
    return hooked.sum(), hooked


@pytest.mark.parametrize("keep", KEPT.values(), ids=KEPT)
def test_a_hook_on_a_tensor_is_found_by_a_variable_that_leads_to_it(keep: Callable[[torch.Tensor], Any]) -> None:
    root, hooked = make_hooked()
    kept = keep(hooked)
    del hooked
    assert len(fxgrad.capture(root).sites) == 1
    del kept
    gc.collect()
    assert fxgrad.capture(root).sites == ()


@needs_saved_tensors
def test_a_hook_on_a_tensor_is_found_by_a_node_that_saved_it() -> None:
    root = make_hooked()[1].sin()
    assert len(fxgrad.capture(root).sites) == 1


@needs_saved_tensors
def test_saved_tensors_are_left_alone_where_unpacking_runs_a_hook() -> None:
    unpacked: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: unpacked.append(1) or tensor):
        root = make_hooked()[1].sin()
    fxgrad.capture(root)
    assert unpacked == []


class Keeping(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, hidden: list[torch.Tensor]) -> torch.Tensor:
        ctx.hidden = hidden
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad * 2, None


def test_a_hook_on_a_tensor_is_found_by_the_context_of_a_custom_function() -> None:
    root, hooked = make_hooked()
    root = Keeping.apply(root, [hooked])
    del hooked
    assert [site.hook.kind for site in fxgrad.capture(root).sites] == [fxgrad.graph.HookKind.TENSOR]


def test_no_more_than_a_number_of_objects_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    root, hooked = make_hooked()
    kept = [[[hooked]], list(range(100_000))]
    del hooked
    monkeypatch.setattr(nearby, "_MOST_OBJECTS", 0)
    assert fxgrad.capture(root).sites == ()
    monkeypatch.undo()
    assert len(fxgrad.capture(root).sites) == len(kept) - 1


DEBUGGED = """
import torch, fxgrad
def work():
    value = torch.ones(3, requires_grad=True) * 2
    value.register_hook(lambda grad: None)
    root = value.sum()
    breakpoint()
work()
"""
PROMPT = """\
p len(fxgrad.capture(root).sites)
value = value * 5
kept = fxgrad.capture(value)
p value.tolist()
c
"""


def test_what_is_assigned_at_the_prompt_of_pdb_stays(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(DEBUGGED, encoding="utf-8")
    done = subprocess.run([sys.executable, program], input=PROMPT, capture_output=True, text=True, check=True)
    shown = done.stdout.replace("(Pdb) ", "").splitlines()
    assert [line for line in shown if line[:1] in ("1", "[")] == ["1", "[10.0, 10.0, 10.0]"]


def test_reading_the_variables_of_a_function_keeps_none_of_them_alive():
    def use() -> tuple[bool, dict[str, object]]:
        held = torch.ones(3, requires_grad=True)
        gone = torch.ones(3, requires_grad=True)
        gone.register_hook(print)
        reference = weakref.ref(gone)
        fxgrad.capture((held * 2).sum())
        del gone
        gc.collect()
        return reference() is not None, locals()

    alive, variables = use()
    assert not alive
    assert sorted(variables) == ["held", "reference"]


def test_a_dict_of_local_variables_that_the_program_holds_stays():
    def use() -> dict[str, object]:
        held = torch.ones(3, requires_grad=True)
        variables = locals()
        fxgrad.capture((held * 2).sum())
        return variables

    assert "held" in use()


def test_variables_stay_where_a_trace_function_of_their_own_captures():
    def use() -> tuple[object, ...]:
        held = torch.ones(3, requires_grad=True)
        other = held * 2
        return held, other

    def trace(frame, event, _):
        if event == "line" and "other" in frame.f_locals:
            fxgrad.capture(frame.f_locals["other"].sum())
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        held, other = use()
    finally:
        sys.settrace(before)
    assert other.grad_fn is not None
    assert held.requires_grad
