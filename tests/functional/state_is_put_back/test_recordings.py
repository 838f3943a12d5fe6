"""What a recording and a capture leave behind."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from changing_modules import Changing, DispatchMode, FunctionMode, ignored
from snapshots import changed_by
from torch import nn
from torch.utils._python_dispatch import _push_mode

import fxgrad


def test_recording_leaves_what_the_program_itself_leaves() -> None:
    """`record` puts nothing back: the program's changes are the user's."""
    changes = ["batch_norm", "list_appended", "hooks_registered", "values_written", "random_numbers_drawn"]
    pictures = []
    for recorded in (False, True):
        torch.manual_seed(0)
        model, x = Changing(changes), torch.randn(4, 3)
        plain = {name: table.copy() for name, table in tables_of(model).items()}
        if recorded:
            with fxgrad.record(model) as recording:
                loss = model(x).sum()
            recording.trace(loss)
        else:
            model(x).sum()
        values = [tensor.tolist() for tensor in model.state_dict().values() if not tensor.is_sparse]
        hooks = {name: len(table) - len(plain[name]) for name, table in tables_of(model).items()}
        pictures.append((values, hooks, len(model.kept), torch.get_rng_state().tolist()))
    assert pictures[0] == pictures[1]


def tables_of(model: nn.Module) -> dict[str, Any]:
    named = [(path, name, value) for path, module in model.named_modules() for name, value in vars(module).items()]
    return {f"{path}.{name}": value for path, name, value in named if "hooks" in name and hasattr(value, "copy")}


def test_recording_alone_changes_nothing() -> None:
    model, x = Changing(), torch.randn(4, 3)
    model.register_forward_pre_hook(ignored)

    def run() -> None:
        with fxgrad.record(model) as recording:
            loss = (model.linear(x) * 2).sum()
        recording.trace(loss)

    assert changed_by(run, model, x) == []


def test_mode_that_is_entered_inside_a_recording_stays_when_it_is_over() -> None:
    model, mode = nn.Linear(3, 3), FunctionMode()
    with fxgrad.record(model) as recording:
        mode.__enter__()
        loss = model(torch.randn(4, 3)).sum()
    assert torch.overrides._get_current_function_mode() is mode
    mode.__exit__(None, None, None)
    assert torch.overrides._get_current_function_mode() is None
    assert len(recording.trace(loss).calls) == 1


@pytest.mark.parametrize(
    "enter",
    [lambda: DispatchMode().__enter__(), lambda: _push_mode(DispatchMode())],
    ids=["entered", "only pushed"],
)
def test_mode_of_the_user_stays_entered_where_forward_enters_another(enter: Callable[[], object]) -> None:
    class Model(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result = super().forward(x)
            enter()
            return result

    with DispatchMode() as mode:
        fxgrad.trace(Model(3, 3), torch.randn(4, 3))
        assert [torch._C._get_dispatch_stack_at(place) for place in range(torch._C._len_torch_dispatch_stack())] == [
            mode
        ]
    assert torch._C._len_torch_dispatch_stack() == 0


def test_recording_that_raises_changes_nothing() -> None:
    model, x = Changing(), torch.randn(4, 3)

    def run() -> None:
        with pytest.raises(fxgrad.TargetError), fxgrad.record(model) as recording:
            recording.trace(model.linear(x).detach())

    assert changed_by(run, model, x) == []


@pytest.mark.parametrize("node_hooks", [False, True])
def test_capture_changes_nothing(node_hooks: bool) -> None:
    model, x = Changing(), torch.randn(4, 3)
    loss = model(x).sum()
    assert changed_by(lambda: fxgrad.capture(loss, model, node_hooks=node_hooks), model, x, loss) == []
    gc.collect()
    loss.backward()
    assert model.scale.grad.shape == (3,)
