"""``fxgrad.verify(..., compiled=True)`` runs what torch.compile made, and tells which hooks that passes by."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_full_backward_hook

import fxgrad
from fxgrad.errors import TargetError, UsageError
from fxgrad.verification import compare_compiled
from tests.support.commands import printed_by

pytestmark = pytest.mark.filterwarnings("ignore")  # Dynamo breaks graphs at hooks


@pytest.fixture(autouse=True)
def dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.layer(x)).relu()


class HooksInForward(Outer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x)
        if x.requires_grad:
            x.register_hook(lambda grad: None)
        return x.relu()


def tensor() -> torch.Tensor:
    return torch.arange(6.0).reshape(2, 3).requires_grad_()


def compiled(model: nn.Module, backend: str = "eager") -> Any:
    return torch.compile(model, backend=backend)


def count(fired: list[str]) -> Callable[..., None]:
    return lambda *given: fired.append("hook")


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_hook_that_was_registered_after_the_first_call_is_a_difference(backend: str) -> None:
    model, fired = Outer(), list[str]()
    program = compiled(model, backend)
    program(tensor())
    model.layer.register_full_backward_hook(count(fired))
    verification = fxgrad.verify(program, tensor(), compiled=True)
    (difference,) = verification.differences
    assert (difference.what, difference.predicted) == ("fires", "once")
    assert difference.got.startswith("never in the compiled program")
    assert (verification.ok, fired) == (False, [])


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_hook_that_was_registered_before_the_first_call_is_called_as_predicted(backend: str) -> None:
    model, fired = Outer(), list[str]()
    program = compiled(model, backend)
    model.layer.register_full_backward_hook(count(fired))
    verification = fxgrad.verify(program, tensor(), compiled=True)
    assert (verification.ok, verification.unknown, fired) == (True, (), ["hook"])


def test_a_global_hook_is_counted_at_all_modules_together() -> None:
    program = compiled(Outer())
    program(tensor())
    handle = register_module_full_backward_hook(lambda *given: None)
    try:
        (difference,) = fxgrad.verify(program, tensor(), compiled=True).differences
    finally:
        handle.remove()
    assert (difference.what, difference.predicted) == ("times", "4 times")
    assert difference.got == "2 times in the compiled program: see FXG303"


def test_hooks_on_parameters_and_their_nodes_are_called_as_predicted() -> None:
    model, fired = Outer(), list[str]()
    weight = model.layer.weight
    node = weight.expand_as(weight).grad_fn.next_functions[0][0]  # type: ignore[union-attr]
    node.register_hook(count(fired))
    node.register_prehook(count(fired))
    weight.register_hook(count(fired))
    weight.register_post_accumulate_grad_hook(count(fired))
    torch.autograd.graph.register_multi_grad_hook(list(model.layer.parameters()), count(fired))
    program = compiled(model)
    program(tensor())
    verification = fxgrad.verify(program, tensor(), compiled=True)
    assert (verification.ok, verification.unknown) == (True, ())
    assert len(verification.graph.sites) == len(fired) == 5


def test_a_hook_that_forward_registers_is_not_compared() -> None:
    model = HooksInForward()
    (unknown,) = fxgrad.verify(compiled(model, "eager"), tensor(), compiled=True).unknown
    assert unknown.reason == (
        "it is registered while forward runs, and in a compiled run only hooks from before are counted"
    )


@pytest.mark.parametrize(("times", "what", "got"), [(0, "fires", "never"), (2, "times", "2 times")])
def test_another_number_of_calls_than_the_predicted_one_is_a_difference(times: int, what: str, got: str) -> None:
    model = Outer()
    model.layer.register_full_backward_hook(lambda *given: None)
    graph = fxgrad.trace(model, tensor()).graph
    (difference,) = compare_compiled(graph, {graph.hooks[0].id: times}).differences
    assert (difference.what, difference.predicted) == (what, "once")
    assert difference.got == f"{got} in the compiled program: see FXG303"


def test_the_state_of_the_program_is_as_before() -> None:
    model, fired = Outer(), list[str]()
    program = compiled(model)
    program(tensor())
    handle = model.layer.register_full_backward_hook(count(fired))
    mean, hooks = model.norm.running_mean.clone(), dict(model.layer._backward_hooks)  # type: ignore[union-attr]
    fxgrad.verify(program, tensor(), compiled=True)
    assert torch.equal(model.norm.running_mean, mean)  # type: ignore[arg-type]
    assert [parameter.grad for parameter in model.parameters()] == [None] * 4
    assert list(hooks) == [handle.id]
    assert dict(model.layer._backward_hooks) == hooks
    program(tensor()).sum().backward()
    assert fired == []


def test_a_run_without_the_compiler_says_so() -> None:
    program = compiled(Outer())
    assert "ran without torch.compile (1 compiled module)" in str(fxgrad.verify(program, tensor()))
    assert "torch.compile" not in str(fxgrad.verify(Outer(), tensor()))


def test_a_compiled_run_says_so() -> None:
    assert "ran as the program does, with torch.compile" in str(
        fxgrad.verify(compiled(Outer()), tensor(), compiled=True)
    )


def test_an_error_of_a_hook_names_the_hook() -> None:
    def fail(module: nn.Module, grad_input: Any, grad_output: Any) -> None:
        raise ValueError("wrong size")

    model = Outer()
    model.layer.register_full_backward_hook(fail)
    with pytest.raises(TargetError, match=r"the hook .*fail.* raised ValueError: wrong size"):
        fxgrad.verify(compiled(model), tensor(), compiled=True)


def test_an_error_of_the_compiled_forward_is_a_target_error() -> None:
    with pytest.raises(TargetError, match=r"while running the compiled forward|forward raised"):
        fxgrad.verify(compiled(Outer()), torch.ones(2, 4), compiled=True)


@pytest.mark.parametrize("call", [{"inputs": ["x"]}, {"api": "grad"}, {"after": "freed"}, {"roots": ["result"]}])
def test_another_call_of_backward_is_refused(call: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="a compiled run with inputs, api, roots or after"):
        fxgrad.verify(compiled(Outer()), tensor(), compiled=True, **call)


def test_the_command_exits_with_1_and_names_the_line_of_the_registration(repository: Path) -> None:
    printed = printed_by("fxgrad verify tests/strangers/compile_late_hook.py --compiled", repository)
    assert "got never in the compiled program, registered at compile_late_hook.py:28: see FXG303" in printed
    assert "[exit status 1]" in printed


def test_the_command_is_content_with_a_hook_registered_in_time(repository: Path) -> None:
    printed = printed_by("fxgrad verify tests/strangers/compile_late_hook.py:build_mended --compiled", repository)
    assert "1 hook site, how often each hook is called compared: 0 wrong, 0 unknown" in printed


def test_a_model_of_which_nothing_is_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch._dynamo.eval_frame")  # as where torch.compile was never called
    with pytest.raises(UsageError, match="a compiled run of a model of which nothing is compiled"):
        fxgrad.verify(Outer(), tensor(), compiled=True)


def test_an_emulated_device_is_refused(repository: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("CUDA exists here")
    printed = printed_by(
        "fxgrad verify tests/strangers/compile_late_hook.py --compiled --device cuda", repository, with_error=True
    )
    assert "a compiled run on cuda, which does not exist here" in printed
