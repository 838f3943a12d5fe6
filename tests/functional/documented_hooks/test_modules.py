"""What the docstrings of the functions say that register hooks on modules."""

import pytest
import torch
from module_hooks import FromFunction, site_of, statuses
from recorded_program import held
from registering import leaf, on_tensor
from torch import nn

from fxgrad.graph import HookKind

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing", "ignore:Using")


# Module.register_backward_hook, register_module_backward_hook


# Deprecated for full hooks, and what it gets is that of a node: not of the module's arguments.
def test_a_non_full_hook_gets_the_arguments_of_one_node(notebook):
    model = nn.Linear(3, 2)
    notebook.legacy(model, notebook.name("legacy"))
    graph, _ = held(notebook, lambda: model(leaf(4, 3)), model=model)
    site = site_of(graph, "legacy")
    assert [(entry.argument, entry.shape) for entry in site.grad_input] == [
        ("self", (2,)),
        ("mat1", (4, 3)),
        ("mat2", (3, 2)),
    ]


# A global one is called for every module.
def test_a_global_non_full_hook_is_called_for_every_module(notebook):
    notebook.everywhere(notebook.name("global"), HookKind.GLOBAL_BACKWARD)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    graph, called = held(notebook, lambda: model(leaf(4, 3)), model=model)
    assert called == ["global"] * 3
    assert [site.call for site in graph.sites] == ["1#1", "#1", "0#1"]


# Module.register_full_backward_hook


def both(notebook):
    model = nn.Linear(3, 2)
    notebook.full(model, notebook.name("full"))
    notebook.full_pre(model, notebook.name("pre"))
    return model


# Ordinarily it fires when the gradients of the inputs are computed.
def test_a_full_hook_fires_at_the_inputs(notebook):
    model = both(notebook)
    x = leaf(4, 3)
    on_tensor(notebook, x, "input")
    _, called = held(notebook, lambda: model(x), model=model)
    assert called == ["pre", "full", "input"]


# Where no input requires grad, when those of the outputs are.
def test_a_full_hook_fires_at_the_outputs_where_no_input_requires_grad(notebook):
    model = both(notebook)
    graph, called = held(notebook, lambda: model(torch.ones(4, 3)), model=model)
    assert called == ["pre", "full"]
    assert site_of(graph, "full").node == site_of(graph, "pre").node


# Where no output requires grad, not at all.
def test_a_full_hook_does_not_fire_where_no_output_requires_grad(notebook):
    inner = FromFunction(lambda module, x: x.detach())
    notebook.full(inner, notebook.name("full"))
    notebook.full_pre(inner, notebook.name("pre"))
    x = leaf()
    graph, called = held(notebook, lambda: inner(x) * x, model=inner)
    assert called == []
    assert [site.fires for site in graph.sites] == [False, False]


# grad_input is of positional arguments only: keyword arguments are ignored. Where something is no Tensor, it is None.
def test_keywords_are_ignored_and_what_is_no_tensor_is_none(notebook):
    model = FromFunction(lambda module, x, number, y: (x * number * y, 7))
    notebook.full(model, notebook.name("full"))
    graph, _ = held(notebook, lambda: model(leaf(), 5, y=leaf()), model=model)
    site = site_of(graph, "full")
    assert statuses(site.grad_input) == ["tensor", "none"]
    assert statuses(site.grad_output) == ["tensor", "none"]


# A new gradient may be returned, which is used instead of grad_input.
def test_what_a_full_hook_returns_goes_on(notebook):
    model = FromFunction(lambda module, x: x * 2)
    notebook.answers["fivefold"] = lambda grad_input, _: (grad_input[0] * 5,)
    notebook.full(model, notebook.name("fivefold"))
    x = leaf()

    def program():
        on_tensor(notebook, x, "input")
        return model(x)

    held(notebook, program, model=model)
    assert torch.equal(x.grad, torch.full((3,), 10.0))


# forward gets a view of each Tensor, and the caller gets one of each that is returned.
def test_forward_and_the_caller_get_views(notebook):
    seen = []
    model = FromFunction(lambda module, x: seen.append(x) or x * 2)
    notebook.full(model, notebook.name("full"))
    x = leaf()
    result = []
    held(notebook, lambda: result.append(model(x)) or result[0], model=model)
    assert seen[0] is not x
    assert seen[0]._base is x
    assert result[0]._is_view()


# Changing inputs or outputs in place is an error.
@pytest.mark.parametrize("function", [lambda module, x: x.mul_(2), lambda module, x: x.exp()])
def test_changing_inputs_or_outputs_in_place_is_an_error(function):
    model = FromFunction(function)
    model.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    with pytest.raises(RuntimeError, match="is a view and is being modified inplace"):
        model(leaf() * 1).mul_(2)


# prepend=True puts a hook before those of this module that are there; global ones come before all of them.
def test_prepended_full_hooks_run_before_the_others_and_global_ones_before_all(notebook):
    model = FromFunction(lambda module, x: x * 2)
    notebook.full(model, notebook.name("first"))
    notebook.full(model, notebook.name("prepended"), prepend=True)
    notebook.everywhere(notebook.name("global"), HookKind.GLOBAL_FULL_BACKWARD)
    _, called = held(notebook, lambda: model(leaf()), model=model)
    assert called == ["global", "prepended", "first"]


# Module.register_full_backward_pre_hook


# The same for pre-hooks.
def test_prepended_pre_hooks_run_before_the_others_and_global_ones_before_all(notebook):
    model = FromFunction(lambda module, x: x * 2)
    notebook.full_pre(model, notebook.name("first"))
    notebook.full_pre(model, notebook.name("prepended"), prepend=True)
    notebook.everywhere(notebook.name("global"), HookKind.GLOBAL_FULL_BACKWARD_PRE)
    _, called = held(notebook, lambda: model(leaf()), model=model)
    assert called == ["global", "prepended", "first"]


# It is called whenever the gradients of the module are computed, before them; entries for what is no Tensor are None.
def test_a_pre_hook_gets_one_entry_per_result_before_the_module(notebook):
    model = FromFunction(lambda module, x: (x * 2, "text", x.sin()))

    def program():
        first, _, _ = model(leaf())
        return first

    notebook.full_pre(model, notebook.name("pre"))
    graph, _ = held(notebook, program, model=model)
    site = site_of(graph, "pre")
    assert statuses(site.grad_output) == ["tensor", "none", "none"]
    assert [entry.reason for entry in site.grad_output] == [None, "it is not a tensor", "no root depends on it"]


# What it returns replaces grad_output.
def test_what_a_pre_hook_returns_goes_on(notebook):
    model = FromFunction(lambda module, x: x * 2)
    notebook.answers["fivefold"] = lambda _, grad_output: (grad_output[0] * 5,)
    notebook.full_pre(model, notebook.name("fivefold"))
    x = leaf()

    def program():
        on_tensor(notebook, x, "input")
        return model(x)

    held(notebook, program, model=model)
    assert torch.equal(x.grad, torch.full((3,), 10.0))


# register_module_full_backward_hook, register_module_full_backward_pre_hook


# They behave as the hooks of one module do, for all of them.
def test_global_full_hooks_are_called_for_every_module(notebook):
    notebook.everywhere(notebook.name("full"), HookKind.GLOBAL_FULL_BACKWARD)
    notebook.everywhere(notebook.name("pre"), HookKind.GLOBAL_FULL_BACKWARD_PRE)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    graph, called = held(notebook, lambda: model(leaf(4, 3)), model=model)
    assert called == ["pre", "pre", "full", "pre", "full", "full"]
    assert [site.call for site in graph.sites] == ["#1", "1#1", "1#1", "0#1", "0#1", "#1"]
