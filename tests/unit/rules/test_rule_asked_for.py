"""FXG114: hooks that a backward for chosen inputs leaves out, held against such a backward."""

import pytest
import torch
from torch import nn

import fxgrad


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.second(self.first(x))


@pytest.fixture
def called():
    return []


@pytest.fixture
def model(called):
    made = TwoLayers()

    def on_first(module, grad_input, grad_output):
        called.append("on_first")

    def on_weight(grad):
        called.append("on_weight")

    made.first.register_full_backward_hook(on_first)
    made.second.weight.register_hook(on_weight)
    return made


@pytest.fixture
def x():
    return torch.ones(4, 3, requires_grad=True)


def told(trace):
    return [finding for finding in trace.explain().findings if finding.code in ("FXG104", "FXG114")]


def test_a_hook_on_the_way_to_no_input_is_told_with_all_that_is_known(model, x, called):
    (finding,) = told(fxgrad.trace(model, x).predict(inputs="second.weight"))
    assert (finding.code, finding.severity) == ("FXG114", "warning")
    assert finding.headline.endswith("on_first` does not fire in backward(inputs=[second.weight])")
    assert finding.because == (
        "backward does not come to BackwardHookFunctionBackward_1: none of the tensors in inputs= is there or behind "
        "it. In a backward without inputs= it fires. Only nodes on the way to one of the inputs are executed, and of "
        "the inputs' own nodes autograd.grad runs nothing but the hooks on tensors. "
        "(torch/csrc/autograd/engine.cpp, GraphTask::init_to_execute)"
    )
    assert finding.fix == (
        "call backward without inputs=, or list a tensor there whose gradient comes through the hook's node"
    )
    model(x).sum().backward(inputs=[model.second.weight])
    assert called == ["on_weight"]


def test_a_hook_on_the_way_to_an_input_is_no_finding(model, x, called):
    names = [finding.headline for finding in told(fxgrad.trace(model, x).predict(inputs="x", api="grad"))]
    assert len(names) == 1
    assert "on_weight` does not fire in autograd.grad(inputs=[x])" in names[0]
    torch.autograd.grad(model(x).sum(), [x])
    assert called == ["on_first"]


def test_a_plain_backward_leaves_no_hook_out(model, x, called):
    assert told(fxgrad.trace(model, x)) == []
    model(x).sum().backward()
    assert called == ["on_weight", "on_first"]


def test_a_hook_that_never_fires_is_not_left_out_by_inputs(model, x):
    model.unused = nn.Linear(3, 3)
    model.unused.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    codes = [finding.code for finding in told(fxgrad.trace(model, x).predict(inputs="second.weight"))]
    assert codes == ["FXG114", "FXG104"]


def test_what_the_fix_names_makes_the_hook_fire(model, x):
    trace = fxgrad.trace(model, x)
    assert [finding.code for finding in told(trace.predict(inputs=["second.weight", "x"]))] == []
