"""What a tensor looked like at a call is reported, although an in-place operation gives it another shape afterwards."""

from __future__ import annotations

import pytest
import torch
from module_hooks import FromFunction
from recorded_functions import forward_of, node_named
from torch import nn
from torch.autograd import Function

import fxgrad


def note(module, grad_input, grad_output):
    """A hook that returns nothing."""


class Program(nn.Module):
    """Calls a hooked layer that is frozen, and changes shapes afterwards; the layer ignores its second argument."""

    def __init__(self, change):
        super().__init__()
        self.layer = FromFunction(lambda self, x, mask: torch.nn.functional.linear(x, self.frozen))
        self.layer.frozen = torch.randn(5, 4)
        self.layer.weight.requires_grad_(False)
        self.layer.register_full_backward_hook(note)
        self.change = change

    def forward(self, x, mask):
        result = self.layer(x, mask)
        loss = result.sum()
        with torch.no_grad():
            self.change(x, mask, result)
        return loss


class Squeezes(Function):
    """Changes what it is given where no recorded operation shows it."""

    @staticmethod
    def forward(ctx, x, changed):
        changed.unsqueeze_(0)
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad, None


CHANGES = {
    "an argument gets one more dimension": lambda x, mask, result: x.unsqueeze_(0),
    "an argument is changed by an operator of torch.ops": lambda x, mask, result: torch.ops.aten.unsqueeze_(mask, 0),
    "an argument that requires no grad is resized": lambda x, mask, result: mask.resize_(1),
    "an argument that requires no grad gets other data": lambda x, mask, result: setattr(mask, "data", torch.ones(7)),
    "an argument is changed inside of a Function": lambda x, mask, result: Squeezes.apply(result, mask),
    "a result gets other data": lambda x, mask, result: setattr(result, "data", torch.ones(7)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_full_hook_gets_the_shapes_that_arguments_and_results_had_at_the_call(change):
    model = Program(CHANGES[change])
    verification = fxgrad.verify(model, (torch.randn(3, 4, requires_grad=True), torch.ones(2)))
    assert verification.ok, str(verification)
    (site,) = verification.graph.sites
    assert [entry.shape for entry in (*site.grad_input, *site.grad_output)] == [(3, 4), (2,), (3, 5)]


def test_arguments_and_results_of_a_call_are_described_as_they_were():
    model = Program(CHANGES["an argument that requires no grad is resized"])
    trace = fxgrad.trace(model, (torch.randn(3, 4, requires_grad=True), torch.ones(2)))
    (call,) = [call for call in trace.calls if call.path == "layer"]
    assert [ref.meta.shape for ref in (*call.inputs, *call.outputs)] == [(3, 4), (2,), (3, 5)]


def test_a_variable_is_described_as_it_was_given():
    model = Program(CHANGES["an argument gets one more dimension"])
    trace = fxgrad.trace(model, (torch.randn(3, 4, requires_grad=True), torch.ones(2)))
    assert trace.graph.variables_by_name["x"].meta.shape == (3, 4)


def test_an_operation_is_described_by_the_shape_that_its_result_had():
    def run(w):
        made = torch.zeros(3)
        torch.ops.aten.unsqueeze_.default(made, 0)
        return w * made

    graph = forward_of(run)
    assert node_named(graph, "zeros").meta["tensor_meta"].shape == (3,)


def test_a_part_of_a_result_is_described_by_the_shape_that_it_had():
    def run(self):
        first, second = torch.zeros(4).split(2)
        first.unsqueeze_(0)
        return self.weight.sum() * first + second

    forward = fxgrad.trace(FromFunction(run)).graph.fx_nodes_by_name
    assert forward["getitem"].meta[0].shape == (2,)
