"""Every sentence of PyTorch's documentation about backward hooks, predicted, and held against a real backward.

The note "Backward Hooks execution" (docs/source/notes/autograd.rst) and the docstrings of the registering functions,
in our own words. `held` compares all that was predicted with what happened; the tests say what that is.
"""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.autograd.graph import register_multi_grad_hook

sys.path.append(str(next(parent for parent in Path(__file__).parents if parent.name == "tests") / "support"))

from module_hooks import FromFunction, Notebook, site_of, statuses
from recorded_program import held

from fxgrad.graph import HookKind

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing", "ignore:Using")


@pytest.fixture
def notebook():
    made = Notebook()
    yield made
    made.close()


def leaf(*shape):
    return torch.randn(shape or (3,), requires_grad=True)


def on_tensor(notebook, tensor, name):
    return tensor.register_hook(notebook.tensor(notebook.name(name)))


def on_node(notebook, tensor, name):
    return tensor.grad_fn.register_hook(notebook.on_node(notebook.name(name)))


def before_node(notebook, tensor, name):
    return tensor.grad_fn.register_prehook(notebook.before_node(notebook.name(name)))


def after_accumulation(notebook, tensor, name):
    return tensor.register_post_accumulate_grad_hook(notebook.leaf(notebook.name(name)))


# The note: whether a hook fires


# A tensor's hook runs whenever that tensor's gradient is computed, even where its grad_fn is not executed: for example
# where the tensor is an input of autograd.grad.
def test_a_tensor_hook_runs_although_its_grad_fn_is_not_executed(notebook):
    y = leaf() * 2

    def program():
        on_tensor(notebook, y, "tensor")
        on_node(notebook, y, "node")
        return y.exp()

    _, called = held(notebook, program, inputs=[y], api="grad")
    assert called == ["tensor"]


# Hooks on a node run only if that node is executed.
def test_node_hooks_run_only_if_the_node_is_executed(notebook):
    x, other = leaf(), leaf()

    def program():
        used, unneeded = x * 2, other * 3
        on_node(notebook, used, "needed")
        on_node(notebook, unneeded, "not needed")
        before_node(notebook, unneeded, "not needed before")
        return used * unneeded

    graph, called = held(notebook, program, inputs=[x])
    assert called == ["needed"]
    assert site_of(graph, "not needed").fires is False


# backward() executes every node, that of a tensor in inputs= too, so all of the hooks run.
def test_backward_executes_the_node_of_an_input(notebook):
    y = leaf() * 2

    def program():
        on_tensor(notebook, y, "tensor")
        before_node(notebook, y, "prehook")
        on_node(notebook, y, "post-hook")
        return y.exp()

    _, called = held(notebook, program, inputs=[y])
    assert called == ["tensor", "prehook", "post-hook"]


# grad() may leave out the hooks on the node of an input, unless another input depends on what that node returns.
def test_grad_executes_the_node_of_an_input_where_another_input_is_behind_it(notebook):
    x = leaf()
    y = x * 2

    def program():
        on_node(notebook, y, "node")
        return y.exp()

    _, called = held(notebook, program, inputs=[y, x], api="grad")
    assert called == ["node"]


# Post-accumulate hooks run once .grad of the leaf was updated: backward does that, grad does not.
@pytest.mark.parametrize(("api", "expected"), [("backward", ["leaf"]), ("grad", [])])
def test_post_accumulate_hooks_run_only_where_the_gradient_is_accumulated(notebook, api, expected):
    x = leaf()

    def program():
        after_accumulation(notebook, x, "leaf")
        return x.exp()

    _, called = held(notebook, program, inputs=[x], api=api)
    assert called == expected


# The note: in which order


# Hooks on the tensor, the node's prehooks, the node itself, post-hooks of the node.
def test_tensor_hooks_run_before_prehooks_and_those_before_post_hooks(notebook):
    y = leaf() * 2

    def program():
        on_node(notebook, y, "post-hook")
        before_node(notebook, y, "prehook")
        on_tensor(notebook, y, "tensor")
        return y.exp()

    _, called = held(notebook, program)
    assert called == ["tensor", "prehook", "post-hook"]


# .grad of a tensor that retains it is updated before its node is executed. (It is there already when prehooks run.)
def test_retain_grad_comes_after_tensor_hooks_and_before_prehooks(notebook):
    y = leaf() * 2
    seen = {}
    for name in ("tensor", "prehook"):
        notebook.answers[name] = lambda grad_input, grad_output, name=name: seen.update({name: y.grad is not None})

    def program():
        notebook.retain(y)
        before_node(notebook, y, "prehook")
        on_tensor(notebook, y, "tensor")
        return y.exp()

    graph, _ = held(notebook, program)
    assert seen == {"tensor": False, "prehook": True}
    assert [site.hook.kind for site in graph.sites] == [HookKind.TENSOR, HookKind.RETAIN_GRAD, HookKind.NODE_PRE]


# For a leaf: its tensor hooks, its AccumulateGrad, post-accumulate hooks, post-hooks of AccumulateGrad.
def test_post_accumulate_hooks_run_before_the_post_hooks_of_accumulate_grad(notebook):
    x = leaf()
    accumulate = torch.autograd.graph.get_gradient_edge(x).node

    def program():
        accumulate.register_hook(notebook.on_node(notebook.name("post-hook")))
        after_accumulation(notebook, x, "accumulated")
        on_tensor(notebook, x, "tensor")
        return x.exp()

    _, called = held(notebook, program)
    assert called == ["tensor", "accumulated", "post-hook"]


# Several hooks of one kind run in the order in which they were registered.
@pytest.mark.parametrize("register", [on_tensor, before_node, on_node])
def test_hooks_of_one_kind_run_in_the_order_of_registration(notebook, register):
    y = leaf() * 2

    def program():
        for name in "cab":
            register(notebook, y, name)
        return y.exp()

    _, called = held(notebook, program)
    assert called == ["c", "a", "b"]


def test_post_accumulate_hooks_run_in_the_order_of_registration(notebook):
    x = leaf()

    def program():
        for name in "cab":
            after_accumulation(notebook, x, name)
        return x.exp()

    _, called = held(notebook, program)
    assert called == ["c", "a", "b"]


# A multi-grad hook is made of hooks on tensors, and is called when the gradient of the last one is computed.
def test_a_multi_grad_hook_is_called_at_its_last_tensor_at_its_place_among_the_hooks_there(notebook):
    x = leaf()

    def program():
        y = x * 2
        on_tensor(notebook, x, "before")
        register_multi_grad_hook([x, y], notebook.several(notebook.name("both"), "all"))
        on_tensor(notebook, x, "after")
        on_tensor(notebook, y, "first")
        return y.exp()

    graph, called = held(notebook, program)
    assert called == ["first", "before", "both", "after"]
    assert graph.nodes[site_of(graph, "both").node].short_name == "AccumulateGrad"


# Full module hooks are hooks on nodes: a dummy Function is put on the inputs and on the outputs of the module.
def test_full_module_hooks_sit_on_dummy_nodes_around_the_module(notebook):
    model = nn.Linear(3, 2)
    notebook.full(model, notebook.name("full"))
    notebook.full_pre(model, notebook.name("pre"))
    graph, called = held(notebook, lambda: model(leaf(4, 3)), model=model)
    assert called == ["pre", "full"]
    names = [graph.nodes[site_of(graph, name).node].name for name in called]
    assert names == ["BackwardHookFunctionBackward"] * 2
    assert site_of(graph, "pre").node < site_of(graph, "full").node


# The note: a tensor that is modified in place


# A hook registered before the modification gets the gradient of the value before it; after it, of the new value.
def test_a_hook_stays_with_the_value_that_the_tensor_had(notebook):
    def program():
        t = leaf().sin()
        on_tensor(notebook, t, "of the sine")
        t.cos_()
        on_tensor(notebook, t, "of the cosine")
        return t

    graph, called = held(notebook, program)
    assert called == ["of the cosine", "of the sine"]
    nodes = [graph.nodes[site_of(graph, name).node].name for name in called]
    assert nodes == ["CosBackward0", "SinBackward0"]


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
    assert [entry.reason for entry in site.grad_output] == [None, "it is no tensor", "no root depends on it"]


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


# register_multi_grad_hook


def several(notebook, mode, tensors):
    return register_multi_grad_hook(tensors, notebook.several(notebook.name(mode), mode), mode=mode)


# "all": called once the gradients of all are computed; a tensor that is not in the graph is ignored, and passed as None.
def test_an_all_hook_ignores_what_is_not_in_the_graph(notebook):
    def program():
        a, b = leaf(), leaf()
        c, d = a * b, a * b
        several(notebook, "all", [a, b, c, d])
        return c.sum()

    graph, called = held(notebook, program)
    assert called == ["all"]
    assert statuses(site_of(graph, "all").grad_output) == ["tensor", "tensor", "tensor", "none"]


# The same of a tensor that none of the inputs= need.
def test_an_all_hook_ignores_what_inputs_do_not_need(notebook):
    a, b = leaf(), leaf()

    def program():
        c = a * b
        several(notebook, "all", [a, b, c])
        return c.sum()

    graph, _ = held(notebook, program, inputs=[a])
    assert statuses(site_of(graph, "all").grad_output) == ["tensor", "none", "tensor"]


# "any": called with the first of the gradients that is computed.
def test_an_any_hook_gets_the_first_gradient_alone(notebook):
    def program():
        a = leaf()
        c = a * 2
        several(notebook, "any", [a, c])
        return c.sum()

    graph, called = held(notebook, program)
    assert called == ["any"]
    assert graph.nodes[site_of(graph, "any").node].name == "MulBackward0"
    assert len(site_of(graph, "any").grad_output) == 1


# handle.remove() removes it.
@pytest.mark.parametrize("mode", ["all", "any"])
def test_a_removed_multi_grad_hook_is_not_called(notebook, mode):
    def program():
        a = leaf()
        several(notebook, mode, [a, a * 2]).remove()
        on_tensor(notebook, a, "kept")
        return a.exp()

    _, called = held(notebook, program)
    assert called == ["kept"]
