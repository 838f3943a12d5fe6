"""Hooks on what the roots do not reach: each has a site that says so."""

import pytest
import torch
from module_hooks import FromFunction, site_of
from recorded_program import held
from torch import nn
from torch.autograd.graph import get_gradient_edge
from torch.utils.checkpoint import checkpoint

import fxgrad


def hooked_leaf(notebook, tensor, register):
    """The AccumulateGrad of a leaf, with a hook; it lives as long as it is held."""
    node = get_gradient_edge(tensor).node
    hook = notebook.on_node if register == "register_hook" else notebook.before_node
    getattr(node, register)(hook(notebook.name("hook")))
    return node


@pytest.mark.parametrize("register", ["register_hook", "register_prehook"])
def test_a_node_hook_on_a_parameter_that_is_not_used_has_a_site_that_says_so(notebook, register):
    model = FromFunction(lambda module, x: x * 2)
    kept = hooked_leaf(notebook, model.weight, register)
    graph = fxgrad.trace(model, torch.randn(3, requires_grad=True)).graph
    site = site_of(graph, "hook")
    assert (site.fires, site.node) == (False, None)
    assert "not reached from the roots" in site.reason
    assert kept is get_gradient_edge(model.weight).node


def test_the_same_is_left_open_where_a_reentrant_checkpoint_may_use_the_parameter(notebook):
    inner = nn.Linear(3, 3)
    kept = hooked_leaf(notebook, inner.weight, "register_hook")
    graph, called = held(
        notebook,
        lambda: checkpoint(inner, torch.randn(2, 3, requires_grad=True), use_reentrant=True),
        model=inner,
    )
    assert called == ["hook"]
    assert site_of(graph, "hook").fires is None
    assert kept is get_gradient_edge(inner.weight).node


def test_looking_at_a_parameter_that_is_not_used_leaves_it_as_it_was(notebook):
    model = FromFunction(lambda module, x: x * 2)
    model.weight.register_hook(notebook.tensor(notebook.name("hook")))
    fxgrad.trace(model, torch.randn(3, requires_grad=True))
    assert model.weight.grad is None
    (model.weight * 2).sum().backward()
    assert [called.hook for called in notebook.log] == ["hook"]
