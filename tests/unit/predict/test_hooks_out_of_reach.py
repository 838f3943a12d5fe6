"""Hooks on what the roots do not reach: each has a site that says so."""

import pytest
import torch
from module_hooks import FromFunction, site_of
from recorded_program import held
from torch import nn
from torch.autograd.graph import get_gradient_edge, register_multi_grad_hook
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


def test_a_node_hook_on_an_input_that_forward_changes_in_place_and_does_not_use_has_a_site_that_says_so(notebook):
    x = torch.randn(3, requires_grad=True).exp()
    x.grad_fn.register_hook(notebook.on_node("hook"))
    model = FromFunction(lambda module, x: (x.mul_(2), module.weight * 3)[1])
    with fxgrad.record(model) as recording:
        loss = model(x).sum()
    graph = recording.trace(loss).graph
    assert site_of(graph, "hook").reason == "its node ExpBackward0 is not reached from the roots"
    loss.backward()
    assert notebook.log == []


def test_a_node_hook_on_an_input_that_is_not_used_has_a_site_that_says_so(notebook):
    x = torch.randn(3, requires_grad=True) * 1
    x.grad_fn.register_hook(notebook.on_node("hook"))
    graph = fxgrad.trace(FromFunction(lambda module, x, y: y * 2), (x, torch.randn(3, requires_grad=True))).graph
    assert site_of(graph, "hook").reason == "its node MulBackward0 is not reached from the roots"


def test_a_hook_on_the_graph_behind_what_a_recorded_forward_only_hands_on_is_found(notebook):
    x = torch.randn(3, requires_grad=True) * 1
    y = x * 2
    y.grad_fn.register_prehook(notebook.before_node(notebook.name("prehook")))
    x.register_hook(notebook.tensor(notebook.name("tensor")))
    _, called = held(notebook, lambda: {"a": y})
    assert called == ["prehook", "tensor"]


def test_tensors_elsewhere_that_pytorch_refuses_to_read_are_passed_over(notebook):
    parts = torch.randn(4, requires_grad=True).exp().split(2)
    with torch.no_grad():
        parts[0]._base.mul_(2)  # the parts are views that have no grad_fn any more: reading it raises
    x = torch.randn(3, requires_grad=True) * 1
    x.register_hook(notebook.tensor("tensor"))
    graph = fxgrad.trace(FromFunction(lambda module, x: x * 2), x).graph
    assert site_of(graph, "tensor").fires is True
    with pytest.raises(RuntimeError, match="modified inplace"):
        _ = parts[0].grad_fn


@pytest.mark.parametrize("kind", ["tensor", "all", "any"])
def test_a_hook_on_a_tensor_that_the_recorded_forward_changes_in_place_stays_on_the_node_that_it_had(notebook, kind):
    x = torch.randn(3, requires_grad=True) * 1
    if kind == "tensor":
        x.register_hook(notebook.tensor(notebook.name("hook")))
    else:
        register_multi_grad_hook([x], notebook.several(notebook.name("hook"), kind), mode=kind)
    before = x.grad_fn
    model = FromFunction(lambda module, x: x.add_(1.0))
    graph, called = held(notebook, lambda: model(x), model=model)
    assert called == ["hook"]
    assert graph.nodes[site_of(graph, "hook").node].name == before.name() == "MulBackward0"


class HooksStaleView(nn.Module):
    """Hooks a view, changes the base, and hooks the view again before anything has read its new grad_fn."""

    def forward(self, x, calls):
        base = x * 2
        view = base[:2]
        view.register_hook(lambda grad: calls.append("before"))
        base.mul_(2)
        view.register_hook(lambda grad: calls.append("after"))
        return base.sum() + view.exp().sum()


def test_a_second_hook_on_a_view_whose_base_has_changed_stays_with_the_first():
    calls = []
    x = torch.ones(3, requires_grad=True)
    trace = fxgrad.trace(HooksStaleView(), (x, calls))
    HooksStaleView()(x, calls).backward()
    assert calls == []
    assert [(site.node, site.fires) for site in trace.sites] == [(None, False)] * 2
    assert fxgrad.verify(HooksStaleView(), (x, calls)).differences == ()


def set_its_data(weight):
    with torch.no_grad():
        weight.set_(torch.randn(3))


def convert_its_data(weight):
    weight.data = weight.data.double()


@pytest.mark.parametrize("register", ["register_hook", "register_prehook"])
@pytest.mark.parametrize("replace", [set_its_data, convert_its_data])
def test_a_hook_on_an_accumulator_that_the_leaf_has_no_more_names_the_leaf(notebook, register, replace):
    model = FromFunction(lambda module, x: module.weight * x)
    with fxgrad.record(model) as recording:
        kept = hooked_leaf(notebook, model.weight, register)
        replace(model.weight)
        loss = model(torch.randn(3, dtype=model.weight.dtype)).sum()
    (hook,) = recording.trace(loss).graph.hooks
    assert (hook.owner, hook.left_by) == ("earlier AccumulateGrad of weight", "weight")
    loss.backward()
    assert notebook.log == []
    assert kept.variable.grad is not None


def change_its_shape(weight):
    weight.data = torch.randn(5, 3)


def freeze_it_for_a_while(weight):
    weight.requires_grad_(False)
    weight.requires_grad_(True)


@pytest.mark.parametrize("change", [change_its_shape, freeze_it_for_a_while])
def test_a_hook_on_an_accumulator_that_the_leaf_keeps_fires(notebook, change):
    model = FromFunction(lambda module, x: module.weight * x)
    with fxgrad.record(model) as recording:
        kept = hooked_leaf(notebook, model.weight, "register_hook")
        change(model.weight)
        loss = model(torch.randn(3)).sum()
    site = site_of(recording.trace(loss).graph, "hook")
    loss.backward()
    assert (site.fires, [called.hook for called in notebook.log]) == (True, ["hook"])
    assert kept is get_gradient_edge(model.weight).node


def test_a_hook_on_a_parameter_that_the_model_holds_no_more_has_a_site_that_says_so(notebook):
    model = nn.Linear(3, 3)
    with fxgrad.record(model) as recording:
        old = model.weight
        old.register_post_accumulate_grad_hook(notebook.leaf(notebook.name("hook")))
        model.load_state_dict({"weight": torch.ones(3, 3), "bias": torch.ones(3)}, assign=True)
        loss = model(torch.randn(2, 3)).sum()
    graph = recording.trace(loss).graph
    loss.backward()
    assert (notebook.log, old.grad) == ([], None)
    assert site_of(graph, "hook").fires is False
