"""What the docstrings of the functions say that register hooks on tensors and nodes."""

import pytest
import torch
from module_hooks import site_of, statuses
from recorded_program import held
from registering import after_accumulation, before_node, leaf, on_node, on_tensor

from fxgrad.graph import HookKind

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing", "ignore:Using")


# Tensor.register_hook


# The hook is called every time that a gradient of the tensor is computed: once per backward, with the sum of all uses.
def test_a_tensor_hook_gets_the_whole_gradient_once(notebook):
    x = leaf()

    def program():
        on_tensor(notebook, x, "tensor")
        return x.exp() + x.sin() + x

    graph, called = held(notebook, program)
    assert called == ["tensor"]
    assert site_of(graph, "tensor").times == 1


# It may return a new gradient, which is used instead: as many, as large.
def test_what_a_tensor_hook_returns_goes_on(notebook):
    x = leaf()

    def program():
        y = x * 2
        notebook.answers["tenfold"] = lambda _, grad_output: grad_output[0] * 10
        on_tensor(notebook, y, "tenfold")
        on_tensor(notebook, y, "later")
        return y.sum()

    held(notebook, program)
    assert torch.equal(x.grad, torch.full((3,), 20.0))


# handle.remove() removes the hook.
@pytest.mark.parametrize("register", [on_tensor, before_node, on_node])
def test_a_removed_hook_is_not_called(notebook, register):
    y = leaf() * 2

    def program():
        register(notebook, y, "removed").remove()
        register(notebook, y, "kept")
        return y.exp()

    graph, called = held(notebook, program)
    assert called == ["kept"]
    assert site_of(graph, "removed").reason == "its handle was removed"


# Tensor.register_post_accumulate_grad_hook


# It gets the parameter, not a gradient, after .grad was updated.
def test_a_post_accumulate_hook_gets_no_gradient_but_finds_it_on_the_leaf(notebook):
    x = leaf()
    found = []
    notebook.answers["accumulated"] = lambda *_: found.append(x.grad is not None)

    def program():
        after_accumulation(notebook, x, "accumulated")
        return x.exp()

    graph, _ = held(notebook, program)
    site = site_of(graph, "accumulated")
    assert (site.grad_input, site.grad_output) == ((), ())
    assert found == [True]


# For leaves only: an error on any other tensor.
def test_post_accumulate_hooks_are_refused_where_there_is_a_grad_fn():
    with pytest.raises(RuntimeError, match="non-leaf"):
        (leaf() * 2).register_post_accumulate_grad_hook(lambda parameter: None)


# Tensor.retain_grad


# .grad is populated by backward.
def test_retain_grad_is_predicted_where_it_populates_grad(notebook):
    y = leaf() * 2

    def program():
        notebook.retain(y)
        return y.exp()

    graph, _ = held(notebook, program)
    (site,) = graph.sites
    assert (site.fires, site.grad_output[0].shape) == (True, (3,))
    assert y.grad is not None


# Nothing happens on a leaf: there is no hook to predict.
def test_retain_grad_does_nothing_on_a_leaf(notebook):
    x = leaf()
    x.retain_grad()

    def program():
        on_tensor(notebook, x, "tensor")
        return x.exp()

    graph, _ = held(notebook, program)
    assert [site.hook.kind for site in graph.sites] == [HookKind.TENSOR]


# Node.register_hook, Node.register_prehook


# The hook gets the gradients that the node returns, and those that it received.
def test_a_node_hook_gets_what_the_node_returns_and_what_it_received(notebook):
    x = leaf(2, 3)

    def program():
        y = x.mm(torch.ones(3, 4))
        on_node(notebook, y, "node")
        return y

    graph, _ = held(notebook, program)
    site = site_of(graph, "node")
    assert [(entry.argument, entry.status, entry.shape) for entry in site.grad_input] == [
        ("self", "tensor", (2, 3)),
        ("mat2", "none", site.grad_input[1].shape),
    ]
    assert [entry.shape for entry in site.grad_output] == [(2, 4)]


# The prehook gets what the node receives.
def test_a_node_prehook_gets_what_the_node_receives(notebook):
    def program():
        first, _ = leaf(4, 3).exp().split(2)
        before_node(notebook, first, "prehook")
        return first

    graph, _ = held(notebook, program)
    site = site_of(graph, "prehook")
    assert site.grad_input == ()
    assert statuses(site.grad_output) == ["tensor", "none"]


# What a prehook returns replaces what the node receives; the same of a post-hook and what the node returns.
def test_what_node_hooks_return_goes_on(notebook):
    x = leaf()

    def program():
        y = x.clone()
        notebook.answers["twofold"] = lambda _, grad_outputs: (grad_outputs[0] * 2,)
        notebook.answers["fivefold"] = lambda grad_inputs, _: (grad_inputs[0] * 5,)
        before_node(notebook, y, "twofold")
        on_node(notebook, y, "fivefold")
        on_node(notebook, y, "later")
        return y.sum()

    held(notebook, program)
    assert torch.equal(x.grad, torch.full((3,), 10.0))
