"""Functions whose backward starts another backward: what that may come to is left open, and nothing else is."""

import pytest
import torch
from module_hooks import FromFunction, assert_as_predicted, site_of, sites_of
from nested_programs import verified
from torch import nn
from torch.utils.checkpoint import checkpoint
from zoo_nested import NESTED_WAYS, Around, ByHelper, backward_in_a_helper, kept_graph

import fxgrad

pytestmark = pytest.mark.filterwarnings("ignore:Using .*non-full backward hook")
SEEDS = range(12)


def leaf(*shape):
    return torch.randn(shape or (3, 4), requires_grad=True)


def entries(site):
    return [(entry.status, entry.shape, entry.reason) for entry in site.grad_output]


class OnlyInBackward(torch.autograd.Function):
    """Calls a module when backward comes to it, and not before."""

    @staticmethod
    def forward(ctx, x, module):
        ctx.x, ctx.module = x, module
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        x = ctx.x.detach().requires_grad_()
        with torch.enable_grad():
            torch.autograd.backward(ctx.module(x), grad)
        return x.grad, None


@pytest.mark.parametrize("way", NESTED_WAYS)
def test_no_hook_is_predicted_wrongly_where_backward_starts_another(way):
    for seed in SEEDS:
        found = verified(way, seed)
        assert found is None or found.ok, f"seed {seed}: {found}"


def test_hooks_that_come_before_the_nested_backward_are_known(notebook):
    model = Around(backward_in_a_helper)
    notebook.legacy(model.after, "after")
    site = site_of(assert_as_predicted(notebook, model, [leaf()]), "after")
    assert (site.fires, site.times, site.order) == (True, 1, 0)
    assert "unknown" not in {entry.status for entry in (*site.grad_input, *site.grad_output)}


def test_a_leaf_outside_may_get_a_part_of_its_gradient_from_the_nested_backward(notebook):
    model = FromFunction(lambda m, a: ByHelper.apply(a * m.weight[0], lambda y: y * m.weight[1]))
    model.weight.register_hook(notebook.tensor("weight"))
    site = site_of(assert_as_predicted(notebook, model, [leaf()]), "weight")
    why = "ByHelperBackward_0 may run a nested backward, which calls the hooks on leaves once more if it uses them"
    assert (site.fires, site.times) == (True, None)
    assert entries(site)[0][:2] == ("unknown", (3,))
    assert site.reason.endswith(why)
    assert len(notebook.log) == 2


def test_a_leaf_that_only_the_nested_backward_uses_may_have_its_hook_called(notebook):
    model = Around(kept_graph)
    model.inside.weight.register_hook(notebook.tensor("weight"))
    site = site_of(assert_as_predicted(notebook, model, [leaf()]), "weight")
    assert (site.node, site.fires) == (None, None)
    assert site.reason == (
        "a custom Function may start a nested backward, which calls the hooks of every leaf that it uses"
    )
    assert len(notebook.log) == 1


def test_a_module_inside_the_function_may_have_its_hooks_called(notebook):
    model = Around(backward_in_a_helper)
    notebook.full(model.inside, "inside")
    site = site_of(assert_as_predicted(notebook, model, [leaf()]), "inside")
    assert (site.call, site.node, site.fires) == ("inside#1", None, None)
    assert "the backward of that Function may run it again" in site.reason
    assert [called.hook for called in notebook.log] == ["inside"]


def test_a_module_that_only_backward_calls_may_have_its_hooks_called(notebook):
    model = FromFunction(lambda m, a: OnlyInBackward.apply(a, m.inner))
    model.inner = nn.Linear(4, 4)
    notebook.full(model.inner, "inner")
    site = site_of(assert_as_predicted(notebook, model, [leaf()]), "inner")
    assert (site.node, site.fires) == (None, None)
    assert site.reason.endswith("only the backward of OnlyInBackwardBackward_0 decides whether to call it")
    assert len(notebook.log) == 1


def test_a_multi_grad_hook_on_a_leaf_counts_the_calls_of_the_nested_backward(notebook):
    def forward(model, x):
        hidden = x * 2
        result = checkpoint(lambda y: y * model.weight[0], hidden, use_reentrant=True)
        notebook.on_several([model.weight, hidden], "several", "all")
        return result

    site = site_of(assert_as_predicted(notebook, FromFunction(forward), [leaf()]), "several")
    assert (site.node, site.fires, site.times) == (None, None, None)
    assert [(status, shape) for status, shape, _ in entries(site)] == [("unknown", None), ("unknown", (3, 4))]


def test_a_multi_grad_hook_on_other_tensors_is_known(notebook):
    def forward(model, x):
        hidden = x * 2
        result = checkpoint(lambda y: y * model.weight[0], hidden, use_reentrant=True)
        notebook.on_several([result, hidden], "several", "any")
        return result * 2

    site = site_of(assert_as_predicted(notebook, FromFunction(forward), [leaf()]), "several")
    assert (site.fires, site.times) == (True, 1)


def test_a_nested_backward_may_come_first_to_what_is_not_detached(notebook):
    """It calls the hook of the tensor that the checkpoint was not given before this backward does."""

    def forward(model, x):
        shift = model.weight[:1] + 1
        shift.register_hook(notebook.tensor("shift"))
        result = checkpoint(lambda y: y + shift, x * 2, use_reentrant=True)
        return result + shift

    site = site_of(assert_as_predicted(notebook, FromFunction(forward), [leaf()]), "shift")
    assert (site.fires, site.times) == (None, None)
    assert site.reason == (
        "CheckpointFunctionBackward_0 uses tensors of this graph that are not detached: a nested backward may "
        "reach their nodes first and free what they need"
    )
    assert len(notebook.log) == 2


def test_what_only_the_nested_backward_comes_to_is_left_open(notebook):
    def forward(model, x):
        shift = model.weight[:1] + 1
        shift.register_hook(notebook.tensor("shift"))
        return checkpoint(lambda y: y + shift, x * 2, use_reentrant=True)

    site = site_of(assert_as_predicted(notebook, FromFunction(forward), [leaf()]), "shift")
    assert (site.node, site.fires) == (None, None)
    assert len(notebook.log) == 1


def test_where_a_nested_backward_may_enter_is_recorded():
    def forward(model, x):
        shift = model.weight[:1] + 1
        return checkpoint(lambda y: y + shift, x * 2, use_reentrant=True) + shift

    graph = fxgrad.trace(FromFunction(forward), leaf()).graph
    nested = {node.label: node.nested_backward for node in graph.nodes if node.nested_backward is not None}
    (entry,) = [node.id for node in graph.nodes if node.name == "AddBackward0" and node.id]
    assert nested == {"CheckpointFunctionBackward_0": ((entry, 0),)}


def test_under_inputs_a_nested_backward_may_call_what_this_one_does_not_come_to():
    model = Around(backward_in_a_helper)
    model.inside.weight.register_hook(lambda grad: None)
    model.before.bias.register_hook(lambda grad: None)
    trace = fxgrad.trace(model, leaf())
    fired = {site.hook.owner: site.fires for site in trace.predict(inputs=["before.weight"]).graph.sites}
    assert fired == {"inside.weight": None, "before.bias": None}


# Modules that are called again, of which forward's calls do not tell


def test_a_module_that_backward_calls_for_the_first_time_has_one_more_site(notebook):
    model = FromFunction(lambda m, a: OnlyInBackward.apply(m.inner(a), m.inner))
    model.inner = nn.Linear(4, 4)
    notebook.full(model.inner, "inner")
    first, other = sites_of(assert_as_predicted(notebook, model, [leaf()]), "inner")
    assert (other.call, other.fires, first.call, first.fires) == ("inner#1", True, None, None)
    assert first.reason == "only the backward of OnlyInBackwardBackward_0 decides whether to call it"
    assert len(notebook.log) == 2


def test_where_no_call_was_recorded_a_checkpoint_may_call_modules_again(notebook):
    model = FromFunction(lambda m, a: checkpoint(m.inner, m.inner(a), use_reentrant=True))
    model.inner = nn.Linear(4, 4)
    notebook.full(model.inner, "inner")
    result = model(leaf())
    sites = sites_of(fxgrad.capture(result, model).graph, "inner")
    assert [site.fires for site in sites] == [None, True]
    assert (
        sites[0].reason
        == "CheckpointFunctionBackward_0 may run modules again, whose hooks are then attached and called"
    )
    result.sum().backward()
    assert len(notebook.log) == 2


def test_a_non_full_hook_on_what_a_checkpoint_hands_through_is_on_the_graph_around(notebook):
    """Its module returns the argument, which has a grad_fn although gradients are disabled."""
    model = FromFunction(lambda m, a: checkpoint(lambda y: m.inner(y) * 2, a * 3, use_reentrant=True))
    model.inner = nn.Identity()
    notebook.legacy(model.inner, "inner")
    graph = assert_as_predicted(notebook, model, [leaf()])
    first, second = sites_of(graph, "inner")
    assert (first.node, first.fires) == (None, None)
    assert (graph.nodes[second.node].name, second.fires, second.times) == ("MulBackward0", True, 1)
    assert fxgrad.verify(model, leaf()).ok
