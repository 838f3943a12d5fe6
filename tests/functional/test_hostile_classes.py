"""Classes of the user's that answer Python's questions wrongly, and what else has ended a trace once."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import fxgrad
from fxgrad.errors import TargetError


class Unclassed:
    """Raises when it is asked for its class; isinstance asks."""

    @property
    def __class__(self) -> Any:
        raise ValueError("no class")

    def __call__(self, *_: Any) -> None:
        pass


class ClaimsToBeATensor:
    __class__ = torch.Tensor


class Nosy:
    """Has every attribute, and is a hook."""

    def __init__(self) -> None:
        self.got: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return True

    def __call__(self, *args: Any) -> None:
        self.got.append(len(args))


def test_a_hook_that_raises_when_it_is_asked_for_its_class_is_told_of() -> None:
    model = nn.Linear(3, 3)
    model.register_full_backward_hook(Unclassed())
    model.weight.register_hook(Unclassed())
    trace = fxgrad.trace(model, torch.ones(2, 3))
    assert [site.hook.function for site in trace.sites] == ["Unclassed", "Unclassed"]
    assert fxgrad.verify(model, torch.ones(2, 3)).ok


@pytest.mark.parametrize("kind", [Unclassed, ClaimsToBeATensor])
def test_an_argument_that_lies_about_its_class_is_no_tensor(kind: type) -> None:
    class Model(nn.Linear):
        def forward(self, x: torch.Tensor, odd: Any) -> torch.Tensor:
            return super().forward(x)

    (call,) = fxgrad.trace(Model(3, 3), (torch.ones(2, 3), kind())).calls
    assert [ref.path for ref in call.inputs] == [("args", 0)]


@pytest.mark.parametrize("kind", [Unclassed, ClaimsToBeATensor])
def test_an_attribute_that_lies_about_its_class_is_left_alone(kind: type) -> None:
    model, odd = nn.Linear(3, 3), kind()
    model.odd = [odd]
    assert fxgrad.trace(model, torch.ones(2, 3)).graph.nodes
    assert model.odd[0] is odd


def test_a_hook_that_has_every_attribute_is_called_and_compared_as_any_other() -> None:
    model, hook = nn.Linear(3, 3), Nosy()
    model.register_full_backward_hook(hook)
    assert fxgrad.verify(model, torch.ones(2, 3, requires_grad=True)).ok
    assert hook.got == [3]


class Refusing(torch.Tensor):
    @classmethod
    def __torch_function__(cls, *args: Any, **kwargs: Any) -> Any:
        raise ValueError("not for you")


def test_a_tensor_class_that_refuses_every_function_is_only_named() -> None:
    class Model(nn.Linear):
        def forward(self, x: torch.Tensor, other: torch.Tensor) -> Any:
            return super().forward(x), other

    refusing = torch.ones(3, requires_grad=True).as_subclass(Refusing)
    trace = fxgrad.trace(Model(3, 3), (torch.ones(2, 3), refusing))
    assert [root.path for root in trace.graph.roots] == [("result", 0), ("result", 1)]


def test_an_output_that_raises_when_it_is_asked_for_a_loss_has_none() -> None:
    class Output(dict):
        def get(self, *_: Any) -> Any:
            raise ValueError("no")

    class Model(nn.Linear):
        def forward(self, x: torch.Tensor) -> Any:
            return Output(logits=super().forward(x))

    assert fxgrad.trace(Model(3, 3), torch.ones(2, 3)).graph.info.root_rule == "the output of forward"


@pytest.mark.parametrize("error", [StopIteration, StopIteration("it is over"), GeneratorExit, RuntimeError])
def test_whatever_forward_raises_is_a_target_error(error: Any) -> None:
    class Model(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise error

    with pytest.raises(TargetError, match=r"^forward raised "):
        fxgrad.trace(Model(3, 3), torch.ones(2, 3))


def test_a_hook_that_raises_stop_iteration_is_a_target_error() -> None:
    def stop(grad: torch.Tensor) -> None:
        raise StopIteration

    model = nn.Linear(3, 3)
    model.weight.register_hook(stop)
    with pytest.raises(TargetError, match=r"^the hook .* on weight raised StopIteration"):
        fxgrad.verify(model, torch.ones(2, 3))


def test_the_name_of_an_exception_class_is_escaped() -> None:
    class Model(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise type("\x1b[31m", (Exception,), {})

    with pytest.raises(TargetError) as caught:
        fxgrad.trace(Model(3, 3), torch.ones(2, 3))
    assert r"forward raised \x1b[31m in the model" in str(caught.value)


OWN_LEVELS = 10 if sys.version_info >= (3, 12) else 0
"""Python 3.12 counts the calls that C makes apart, up to a limit that no program can raise: fxgrad needs some itself."""


def nested(depth: int) -> nn.Module:
    model: nn.Module = nn.Linear(3, 3)
    for _ in range(depth):
        model = nn.Sequential(model)
    return model


def deepest_that_runs() -> int:
    depth = 0
    while runs(nested(depth + 1)):
        depth += 1
    return depth


def test_a_model_that_is_as_deep_as_python_lets_it_run_is_traced() -> None:
    assert fxgrad.trace(nested(deepest_that_runs() - OWN_LEVELS), torch.ones(2, 3)).graph.nodes


def test_a_model_that_is_too_deep_for_python_is_an_error_that_says_so() -> None:
    with pytest.raises(TargetError, match=r"raised RecursionError") as caught:
        fxgrad.trace(nested(2 * deepest_that_runs()), torch.ones(2, 3))
    assert str(caught.value).endswith(
        "if it does not raise without fxgrad, the few frames that fxgrad adds exceed Python's recursion limit"
    )


def runs(model: nn.Module) -> bool:
    try:
        model(torch.ones(2, 3))
    except RecursionError:
        return False
    return True


def test_the_recursion_limit_is_put_back() -> None:
    before = sys.getrecursionlimit()
    fxgrad.trace(nn.Linear(3, 3), torch.ones(2, 3))
    assert sys.getrecursionlimit() == before


def test_verify_compares_nothing_of_a_hook_that_only_backward_places() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return checkpoint(self.inner, x, use_reentrant=True)

    model = Model()
    model.inner.weight.register_hook(lambda grad: None)
    verification = fxgrad.verify(model, torch.ones(2, 3, requires_grad=True))
    assert verification.ok
    assert [unknown.what for unknown in verification.unknown] == ["fires"]


def test_an_exception_that_cannot_be_shown_is_a_target_error() -> None:
    class Unshown(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    class Model(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise Unshown

    with pytest.raises(TargetError, match="its message cannot be shown"):
        fxgrad.trace(Model(3, 3), torch.ones(2, 3))


def test_a_tensor_elsewhere_whose_class_refuses_every_function_is_no_matter_for_a_capture() -> None:
    elsewhere = (torch.ones(3, requires_grad=True) * 1).as_subclass(Refusing)
    model = nn.Linear(3, 3)
    model.weight.register_hook(lambda grad: None)
    assert [site.fires for site in fxgrad.capture(model(torch.ones(2, 3)), model).sites] == [True]
    assert type(elsewhere) is Refusing


def test_an_output_whose_grad_fn_pytorch_refuses_to_tell_is_a_target_error_as_backward_from_it_raises() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)
            self.inner.register_full_backward_hook(lambda module, grad_input, grad_output: None)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result = self.inner(x)
            with torch.no_grad():
                result.mul_(2)
            return result

    model, x = Model(), torch.ones(2, 3, requires_grad=True)
    with pytest.raises(TargetError, match=r"^backward cannot start from result: Output 0 of BackwardHookFunction"):
        fxgrad.trace(model, x)
    with pytest.raises(RuntimeError, match="is a view and its base or another view of its base has been modified"):
        torch.autograd.backward([model(x)], [torch.ones(2, 3)])
