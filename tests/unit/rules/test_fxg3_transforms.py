"""FXG305: hooks inside transforms of torch.func, held against what PyTorch calls in forward and in backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, functionalize, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import fxgrad
from fxgrad.errors import TargetError
from fxgrad.graph import Explanation
from fxgrad.render.findings import list_findings, sort_findings
from fxgrad.rules import explain

pytestmark = pytest.mark.filterwarnings("ignore")  # of PyTorch, on non-full hooks, and on full ones without an input

X = torch.linspace(-1, 1, 6).reshape(2, 3)
Run = Callable[[nn.Module, Tensor], Tensor]


def parameters_of(net: nn.Module) -> dict[str, Tensor]:
    return dict(net.named_parameters())


def pull_back(net: nn.Module, x: Tensor) -> Tensor:
    result, pull = vjp(net, x)
    return pull(torch.ones_like(result))[0]  # type: ignore[no-any-return]


SILENT: dict[str, Run] = {
    "vmap": lambda net, x: vmap(net)(x),
    "jvp": lambda net, x: jvp(net, (x,), (torch.ones_like(x),))[1],
    "jacfwd": lambda net, x: jacfwd(net)(x[0]),
    "functionalize": lambda net, x: functionalize(net)(x),
}
"""A call with a full hook runs, and the hook is on nothing."""
WITH_A_BACKWARD_OF_THEIR_OWN: dict[str, Run] = {
    "grad": lambda net, x: grad(lambda x: net(x).sum())(x),
    "vjp": pull_back,
    "jacrev": lambda net, x: jacrev(net)(x[0]),
    "hessian": lambda net, x: hessian(lambda x: net(x).sum())(x[0]),
    "grad for parameters": lambda net, x: grad(lambda p: functional_call(net, p, (x,)).sum())(parameters_of(net))[
        "weight"
    ],
    "grad in vmap": lambda net, x: vmap(grad(lambda row: net(row).sum()))(x),
}
"""They refuse full hooks, and call non-full ones."""


class Around(nn.Module):
    def __init__(self, run: Run) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.net[0], x).sum() * self.net[0].weight.sum()


def make_model(run: Run, register: str) -> tuple[Around, list[str]]:
    model, called = Around(run), []

    def note(*_: Any) -> None:
        called.append("hook")

    getattr(model.net[0], register)(note)
    return model, called


def find(model: nn.Module) -> list[Explanation]:
    findings = explain(fxgrad.trace(model, X).graph)
    return [finding for finding in findings if finding.code in ("FXG104", "FXG305")]


@pytest.mark.parametrize(
    "register", ["register_full_backward_hook", "register_full_backward_pre_hook", "register_backward_hook"]
)
@pytest.mark.parametrize("transform", SILENT)
def test_a_hook_where_nothing_requires_grad_is_named_with_the_transform(transform: str, register: str) -> None:
    model, called = make_model(SILENT[transform], register)
    (finding,) = find(model)
    model(X).backward()
    assert (finding.code, called) == ("FXG305", [])
    assert "requires_grad is False" in finding.because


@pytest.mark.parametrize("transform", WITH_A_BACKWARD_OF_THEIR_OWN)
def test_only_the_transforms_own_backward_calls_a_non_full_hook(transform: str) -> None:
    model, called = make_model(WITH_A_BACKWARD_OF_THEIR_OWN[transform], "register_backward_hook")
    (finding,) = find(model)
    called.clear()
    loss = model(X)
    in_forward = len(called)
    loss.backward()
    assert (finding.code, in_forward > 0, len(called) - in_forward) == ("FXG305", True, 0)
    assert "a backward of their own" in finding.because


@pytest.mark.parametrize("transform", WITH_A_BACKWARD_OF_THEIR_OWN)
def test_a_full_hook_that_they_refuse_is_an_error_that_names_it(transform: str) -> None:
    model, _ = make_model(WITH_A_BACKWARD_OF_THEIR_OWN[transform], "register_full_backward_hook")
    with pytest.raises(RuntimeError, match="setup_context"):
        model(X)
    with pytest.raises(TargetError, match=r"A full hook puts a BackwardHookFunction .*no setup_context.*\(FXG305\)"):
        fxgrad.trace(model, X)


def test_a_full_hook_in_forward_mode_ad_is_an_error_that_names_it() -> None:
    def run(net: nn.Module, x: Tensor) -> Tensor:
        with torch.autograd.forward_ad.dual_level():
            return net(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))  # type: ignore[no-any-return]

    model, _ = make_model(run, "register_full_backward_hook")
    with pytest.raises(NotImplementedError, match="jvp"):
        model(X)
    with pytest.raises(TargetError, match=r"no jvp.*\(FXG305\)"):
        fxgrad.trace(model, X)


def test_of_several_calls_those_inside_are_named() -> None:
    model, called = make_model(lambda net, x: net(x) + vmap(net)(x), "register_full_backward_hook")
    (finding,) = find(model)
    model(X).backward()
    assert called == ["hook"]
    assert finding.headline == (
        "backward does not call `make_model.<locals>.note` for call 2 of 2: the module is called inside a transform of "
        "torch.func (vmap)"
    )


@pytest.mark.parametrize("transform", [*SILENT, *WITH_A_BACKWARD_OF_THEIR_OWN])
def test_hooks_on_parameters_are_called(transform: str) -> None:
    model, called = Around((SILENT | WITH_A_BACKWARD_OF_THEIR_OWN)[transform]), []
    model.net[0].weight.register_hook(lambda _: called.append("hook"))
    (site,) = fxgrad.trace(model, X).sites
    model(X).backward()
    assert (site.fires, site.times, called) == (True, 1, ["hook"])


def test_functional_call_alone_is_no_transform() -> None:
    model, called = make_model(
        lambda net, x: functional_call(net, {name: p * 1 for name, p in net.named_parameters()}, (x,)),
        "register_full_backward_hook",
    )
    assert find(model) == []
    model(X).backward()
    assert called == ["hook"]


def test_a_call_under_no_grad_inside_a_transform_is_silent_for_no_grad() -> None:
    def run(net: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad():
            return vmap(net)(x)  # type: ignore[no-any-return]

    model, _ = make_model(run, "register_full_backward_hook")
    (finding,) = find(model)
    assert finding.code == "FXG104"
    assert finding.because.endswith("gradients are disabled.")


def test_a_tensor_hook_that_is_registered_inside_belongs_to_the_transform() -> None:
    called: list[str] = []

    def run(net: nn.Module, x: Tensor) -> Tensor:
        def hooked(row: Tensor) -> Tensor:
            result = net(row)
            result.register_hook(lambda _: called.append("hook"))
            return result.sum()

        return grad(hooked)(x)  # type: ignore[no-any-return]

    model = Around(run)
    (finding,) = find(model)
    called.clear()
    loss = model(X)
    assert called == ["hook"]
    loss.backward()
    assert called == ["hook"]
    assert (
        finding.because
        == "its tensor is one inside a transform of torch.func: only a backward of that transform may reach it."
    )


def test_a_parameter_that_a_transform_may_use_is_not_called_unused() -> None:
    model = Around(WITH_A_BACKWARD_OF_THEIR_OWN["grad"])
    graph = fxgrad.trace(model, X).graph
    model(X).backward()
    assert model.net[0].bias.grad is None
    assert [finding.code for finding in explain(graph, unasked=True)] == []


class Mapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
        for module in (self.net, self.net[0]):
            module.register_full_backward_hook(note)

    def forward(self, x: Tensor) -> Tensor:
        return vmap(self.net)(x).sum()


def note(*_: object) -> None:
    raise AssertionError("PyTorch called it")


def test_one_function_on_several_modules_is_one_finding() -> None:
    model = Mapped()
    graph = fxgrad.trace(model, X).graph
    (finding,) = sort_findings([*list_findings(graph, explain(graph), target="model.py")])
    model(X).backward()
    assert finding.sentence.endswith("the module is called inside a transform of torch.func (vmap) (`net` and `net.0`)")
