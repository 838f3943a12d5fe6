"""FXG109: what a hook that returns something changes; held against what it changes in a real backward."""

import re

import pytest
import torch
from torch import nn

import fxgrad
from fxgrad.rules import explain_graph

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's, of non-full hooks and of inputs without grad


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(3, 3) for _ in range(3))
        self.register = None

    def forward(self, x):
        hidden = self.second(self.first(x))
        if self.register is not None:
            self.register(hidden)
        return self.third(hidden).tanh()


def doubled(grads):
    return tuple(None if grad is None else grad * 2 for grad in grads)


def non_full(model):
    model.second.register_backward_hook(lambda module, grad_input, grad_output: doubled(grad_input))


def full(model):
    model.second.register_full_backward_hook(lambda module, grad_input, grad_output: doubled(grad_input))


def full_on_the_first(model):
    model.first.register_full_backward_hook(lambda module, grad_input, grad_output: doubled(grad_input))


def full_pre(model):
    model.second.register_full_backward_pre_hook(lambda module, grad_output: doubled(grad_output))


def on_a_parameter(model):
    model.second.weight.register_hook(lambda grad: grad * 2)


def on_a_tensor(model):
    model.register = lambda hidden: hidden.register_hook(lambda grad: grad * 2)


def on_a_node(model):
    model.register = lambda hidden: hidden.grad_fn.register_hook(lambda grad_input, grad_output: doubled(grad_input))


def before_a_node(model):
    model.register = lambda hidden: hidden.grad_fn.register_prehook(doubled)


def made(register, *, hooked=True):
    torch.manual_seed(0)
    model = Stack()
    if hooked:
        register(model)
    return model


def gradients(register, *, hooked):
    model, x = made(register, hooked=hooked), torch.ones(2, 3, requires_grad=True)
    model(x).sum().backward()
    return {"x": x.grad} | {name: parameter.grad for name, parameter in model.named_parameters()}


def finding(register):
    graph = fxgrad.trace(made(register), torch.ones(2, 3, requires_grad=True)).graph
    (told,) = [told for told in explain_graph(graph) if told.code == "FXG109"]
    return told


@pytest.mark.parametrize(
    "register",
    [non_full, full, full_on_the_first, full_pre, on_a_parameter, on_a_tensor, on_a_node, before_a_node],
)
def test_the_leaves_named_are_exactly_those_whose_gradients_change(register):
    before, after = gradients(register, hooked=False), gradients(register, hooked=True)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    (sentence,) = re.findall(r"That changes \.grad of (.*?), and of no other leaf\.", finding(register).because)
    assert set(re.findall(r"`([^`]+)`", sentence)) == changed != set()


def test_a_hook_that_may_return_is_told_with_what_it_replaces_and_what_it_must_return():
    told = finding(full)
    assert told.severity == "info"
    assert told.headline.endswith(" may return something else than None")
    assert told.because == (
        "What it returns takes the place of grad_input at BackwardHookFunctionBackward_1. That changes .grad of "
        "`first.bias`, `x` and `first.weight`, and of no other leaf. What fxgrad says of this graph assumes that it "
        "returns None."
    )
    assert told.fix == "return None, or a tuple of 1 entry in place of grad_input: ((2, 3),)"


@pytest.mark.parametrize(
    ("register", "replaced"),
    [
        (non_full, "grad_input"),
        (full, "grad_input"),
        (on_a_node, "grad_input"),
        (full_pre, "grad_output"),
        (before_a_node, "grad_output"),
        (on_a_tensor, "the gradient"),
    ],
)
def test_what_is_replaced_is_what_the_kind_of_hook_replaces(register, replaced):
    assert f"takes the place of {replaced} at " in finding(register).because


def test_a_full_hook_without_an_input_that_requires_grad_can_change_nothing():
    model = made(full_on_the_first)
    graph = fxgrad.trace(model, torch.ones(2, 3)).graph
    (told,) = [told for told in explain_graph(graph) if told.code == "FXG109"]
    assert "No leaf gets its gradient from that: no .grad changes." in told.because
    assert told.fix == (
        "return None, or a tuple of 1 entry in place of grad_input: (None,) (never a tensor where an entry is None)"
    )
    model.first._backward_hooks.clear()
    model.first.register_full_backward_hook(lambda module, grad_input, grad_output: (torch.ones(2, 3),))
    with pytest.raises(RuntimeError, match="no input requires gradient should always return None"):
        model(torch.ones(2, 3)).sum().backward()


def test_leaves_behind_a_reentrant_checkpoint_are_not_counted():
    from torch.utils.checkpoint import checkpoint

    model = made(full_pre)
    model.second.register_forward_pre_hook(lambda module, args: (checkpoint(model.third, *args, use_reentrant=True),))
    graph = fxgrad.trace(model, torch.ones(2, 3, requires_grad=True)).graph
    (told,) = [told for told in explain_graph(graph) if told.code == "FXG109"]
    assert "what a backward uses that a node behind it starts." in told.because
