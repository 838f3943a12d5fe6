"""Custom Functions whose backward raises by itself, held against the real backward: FXG208."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxgrad
from fxgrad.graph import Explanation
from fxgrad.observe import execution


class Scaled(nn.Module):
    """Scales what a linear makes by a weight and a number, with a Function that has this backward."""

    def __init__(self, backward=None):
        super().__init__()
        self.linear, self.weight = nn.Linear(3, 3), nn.Parameter(torch.ones(3))
        self.scale = type("Scale", (Scale,), {} if backward is None else {"backward": staticmethod(backward)})

    def forward(self, x):
        return self.scale.apply(self.linear(x), self.weight, 2.0).sum()


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, factor):
        ctx.save_for_backward(x, weight)
        ctx.factor = factor
        return x * weight * factor


def one_value(ctx, grad):
    return grad * ctx.factor


def the_gradient(ctx, grad):
    return grad


def a_method(ctx, grad):
    _, weight = ctx.saved_tensors
    scaled = -grad.clone() * weight * ctx.factor
    return scaled


def two_values(ctx, grad):
    x, weight = ctx.saved_tensors
    grad_x = grad_weight = None
    if ctx.needs_input_grad[0]:
        grad_x = grad * weight * ctx.factor
    if ctx.needs_input_grad[1]:
        grad_weight = (grad * x * ctx.factor).sum(0)
    return grad_x, grad_weight


def no_return(ctx, grad):
    grad * ctx.factor


def too_many(ctx, grad):
    return grad, grad.sum(0), None, grad * 2


def not_written(ctx, grad):
    raise NotImplementedError("some day")


def without_gradient(ctx):
    return None, None, None


RAISING = {
    one_value: "returns 1 value for the 3 arguments of forward",
    the_gradient: "returns 1 value for the 3 arguments of forward",
    a_method: "returns 1 value for the 3 arguments of forward",
    two_values: "returns 2 values for the 3 arguments of forward",
    no_return: "returns 1 value for the 3 arguments of forward",
    too_many: "returns 4 values for the 3 arguments of forward",
    not_written: "always raises an error",
    without_gradient: "always raises an error",
}


def all_none_behind(ctx, grad):
    return grad, grad.sum(0), None, None, None


def several(ctx, grad):
    return *grad.split(1)[:1], grad.sum(0), None


def sometimes_one(ctx, grad):
    if grad.sum() > 0:
        return grad, grad.sum(0), None
    return grad


def of_another(ctx, grad):
    return three(grad)


def three(grad):
    return grad, grad.sum(0), None


RUNNING = [all_none_behind, several, sometimes_one, of_another]
X = torch.ones(1, 3)


def found(model) -> list[Explanation]:
    return [each for each in fxgrad.trace(model, (X,)).explain().findings if each.severity != "info"]


@pytest.mark.parametrize("backward", RAISING)
def test_a_backward_that_raises_by_itself_is_found(backward):
    model = Scaled(backward)
    (finding,) = found(model)
    assert (finding.code, finding.severity) == ("FXG208", "error")
    assert finding.headline == f"backward raises at ScaleBackward_0: `Scale.backward` {RAISING[backward]}"
    with pytest.raises((RuntimeError, NotImplementedError, TypeError)) as raised:
        model(X).backward()
    if "returns" in RAISING[backward]:
        assert "returned an incorrect number of gradients" in str(raised.value)
        assert str(raised.value).rpartition("gradients ")[2] in finding.because


@pytest.mark.parametrize("backward", RUNNING)
def test_nothing_is_said_of_a_backward_that_runs(backward):
    model = Scaled(backward)
    assert found(model) == []
    model(X).backward()
    assert model.linear.weight.grad is not None


def test_a_function_without_backward_is_found():
    model = Scaled()
    (finding,) = found(model)
    assert finding.headline == "backward raises at ScaleBackward_0: `Scale` has no backward"
    with pytest.raises(NotImplementedError, match="must implement either the backward"):
        model(X).backward()


@pytest.mark.parametrize("backward", [one_value, not_written, None])
def test_hooks_fire_up_to_the_node_that_raises(backward):
    model = Scaled(backward)
    fired, x = [], torch.ones(1, 3, requires_grad=True)
    model.linear.register_full_backward_hook(lambda *_: fired.append("linear"))
    model.weight.register_hook(lambda grad: fired.append("weight"))
    model.register_full_backward_pre_hook(lambda *_: fired.append("model"))
    trace = fxgrad.trace(model, (x,))
    told = {site.hook.owner: (site.fires, site.reason) for site in trace.sites}
    with pytest.raises((RuntimeError, NotImplementedError)):
        model(x).backward()
    assert fired == ["model"]
    assert {owner: fires for owner, (fires, _) in told.items()} == {"": True, "linear": False, "weight": False}
    assert "ScaleBackward_0 raises, as it" in told["weight"][1]
    assert [finding.code for finding in found(model)] == ["FXG208"]
    assert fxgrad.verify(model, (x,)).ok


def test_verify_tells_that_backward_did_not_raise_as_predicted(monkeypatch):
    monkeypatch.setattr(execution, "_run", lambda *_, **__: None)
    verification = fxgrad.verify(Scaled(one_value), (X,))
    assert not verification.ok
    assert "backward raises at ScaleBackward_0" in str(verification)


class Stepped(nn.Module):
    def __init__(self, step):
        super().__init__()
        self.linear, self.out, self.step = nn.Linear(3, 3), nn.Linear(3, 1), step
        self.linear.weight.register_hook(lambda grad: None)

    def forward(self, x):
        return self.out(self.step(self.linear(x))).sum()


WITHOUT_DERIVATIVE = {
    "heaviside": lambda h: torch.heaviside(h, torch.zeros(1)),
    "floor_divide": lambda h: torch.floor_divide(h, 2),
}


@pytest.mark.parametrize("name", WITHOUT_DERIVATIVE)
def test_a_function_without_derivative_is_found_at_its_line(name):
    model = Stepped(WITHOUT_DERIVATIVE[name])
    (finding,) = found(model)
    assert (finding.code, finding.severity) == ("FXG208", "error")
    assert finding.headline == f"backward raises at NotImplemented_0: `{name}` has no derivative here"
    assert f"torch.{name}(h" in finding.source.code
    with pytest.raises(RuntimeError, match=f"derivative for aten::{name} is not implemented"):
        model(X).backward()
    assert fxgrad.verify(model, (X,)).ok


@pytest.mark.parametrize("name", WITHOUT_DERIVATIVE)
def test_without_its_gradient_such_a_function_is_no_finding(name):
    model = Stepped(lambda h: h * WITHOUT_DERIVATIVE[name](h.detach()))
    assert found(model) == []
    model(X).backward()
    assert model.linear.weight.grad is not None
