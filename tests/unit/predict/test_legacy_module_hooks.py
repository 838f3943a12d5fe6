"""What non-full module hooks get, and when: traced, then held against a real backward."""

import pytest
import torch
from module_hooks import FromFunction, assert_as_predicted, backward, compared, site_of, sites_of, statuses
from same_graph import ids_in
from torch import nn

import fxgrad
from fxgrad.graph import HookKind
from tests.support.needs import needs_saved_tensors

pytestmark = pytest.mark.filterwarnings("ignore:Using .*non-full backward hook")


def leaf(*shape):
    return torch.randn(shape or (4, 3), requires_grad=True)


def inner():
    return leaf() * 1


def label_of(graph, name):
    return graph.nodes[site_of(graph, name).node].label


@needs_saved_tensors
def test_a_legacy_hook_gets_the_arguments_of_one_function(notebook):
    module = nn.Linear(10, 20)
    notebook.legacy(module, "legacy")
    site = site_of(assert_as_predicted(notebook, module, [torch.randn(8, 10)]), "legacy")
    assert [(g.argument, g.status, g.shape) for g in site.grad_input] == [
        ("self", "tensor", (20,)),
        ("mat1", "none", (8, 10)),
        ("mat2", "tensor", (10, 20)),
    ]
    assert [(g.status, g.shape) for g in site.grad_output] == [("tensor", (8, 20))]


def test_it_sits_on_the_grad_fn_of_the_first_tensor_of_a_tuple(notebook):
    module = FromFunction(lambda _, a: (a.exp(), a.sin()))
    notebook.legacy(module, "legacy")
    graph = assert_as_predicted(notebook, module, lambda: [inner()])
    assert label_of(graph, "legacy") == "ExpBackward0_0"
    assert site_of(graph, "legacy").reason == "the grad_fn of the first tensor FromFunction returns, result[0]"


def test_it_sits_on_the_grad_fn_of_the_first_tensor_among_a_dicts_values(notebook):
    module = FromFunction(lambda _, a: {"n": None, "k": 1, "a": a.exp(), "b": a.sin()})
    notebook.legacy(module, "legacy")
    graph = assert_as_predicted(notebook, module, lambda: [inner()], loss=lambda result: result["a"].sum())
    assert label_of(graph, "legacy") == "ExpBackward0_0"


def test_it_sits_on_the_first_tensor_also_of_a_list(notebook):
    module = FromFunction(lambda _, a: [a.exp(), a.sin()])
    notebook.legacy(module, "legacy")
    assert label_of(assert_as_predicted(notebook, module, lambda: [inner()]), "legacy") == "ExpBackward0_0"


def test_it_never_fires_where_only_another_result_is_used(notebook):
    module = FromFunction(lambda _, a: (a.exp(), a.sin()))
    notebook.legacy(module, "legacy")
    graph = assert_as_predicted(notebook, module, lambda: [inner()], loss=lambda result: result[1].sum())
    assert site_of(graph, "legacy").reason == ("it is on ExpBackward0, the grad_fn of result[0]: no root depends on it")


def test_it_never_fires_where_the_first_result_requires_no_grad(notebook):
    module = FromFunction(lambda _, a: (a.argmax(), a.exp()))
    notebook.legacy(module, "legacy")
    graph = assert_as_predicted(notebook, module, lambda: [inner()], loss=lambda result: result[1].sum())
    assert site_of(graph, "legacy").reason == "result[0] does not require grad, so it has no grad_fn"


def test_it_never_fires_where_the_result_is_a_parameter(notebook):
    module = FromFunction(lambda m: m.weight)
    notebook.legacy(module, "legacy")
    graph = assert_as_predicted(notebook, module)
    assert site_of(graph, "legacy").reason == "result is a leaf, which has no grad_fn"


def test_a_module_that_returns_its_input_hooks_the_node_before_it(notebook):
    model = nn.Sequential(nn.Linear(3, 3), nn.Identity())
    notebook.legacy(model[1], "legacy")
    assert label_of(assert_as_predicted(notebook, model, [leaf()]), "legacy") == "AddmmBackward0_0"


def test_an_inplace_result_hooks_the_inplace_operation(notebook):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True))
    notebook.legacy(model[1], "relu")
    notebook.legacy(model[0], "linear")
    graph = assert_as_predicted(notebook, model, [leaf()])
    assert (label_of(graph, "relu"), label_of(graph, "linear")) == ("ReluBackward0_0", "AddmmBackward0_0")


def test_two_modules_that_return_one_tensor_share_a_node_and_the_inner_hook_comes_first(notebook):
    inside = nn.Sigmoid()
    outside = nn.Sequential(inside)
    notebook.legacy(outside, "outer")
    notebook.legacy(inside, "inner")
    graph = assert_as_predicted(notebook, outside, lambda: [inner()])
    assert [site.hook.function for site in graph.sites] == ["inner", "outer"]
    assert label_of(graph, "inner") == label_of(graph, "outer")


def test_a_global_hook_on_nested_modules_has_a_site_for_each_call_and_the_inner_comes_first(notebook):
    notebook.everywhere("everywhere", HookKind.GLOBAL_BACKWARD)
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Sigmoid()))
    graph = assert_as_predicted(notebook, model, [leaf()])
    assert [site.call for site in sites_of(graph, "everywhere")] == ["1.0#1", "1#1", "#1", "0#1"]


def test_a_module_called_twice_on_one_tensor_has_two_sites_on_one_node(notebook):
    model = FromFunction(lambda m, a: m.same(m.same(a.exp())))
    model.same = nn.Identity()
    notebook.legacy(model.same, "legacy")
    graph = assert_as_predicted(notebook, model, [leaf()])
    assert [site.call for site in sites_of(graph, "legacy")] == ["same#1", "same#2"]


def test_a_view_that_is_changed_in_place_before_it_is_returned_hooks_the_in_place_node(notebook):
    def forward(_, a):
        view = (a * 2)[:1]
        view.mul_(2)
        return view

    module = FromFunction(forward)
    notebook.legacy(module, "legacy")
    assert_as_predicted(notebook, module, [leaf()])


def test_the_base_of_such_a_view_hooks_copy_slices(notebook):
    def forward(_, a):
        base = a * 2
        base[:1].mul_(2)
        return base

    module = FromFunction(forward)
    notebook.legacy(module, "legacy")
    assert label_of(assert_as_predicted(notebook, module, [leaf()]), "legacy") == "CopySlices_0"


def test_a_view_whose_base_is_changed_in_place_later_leaves_its_hook_on_a_dead_node(notebook):
    def forward(m, a):
        base = a * 2
        view = m.view_of(base)
        base.mul_(3)
        return view.sum() + base.sum()

    model = FromFunction(forward)
    model.view_of = FromFunction(lambda _, base: base[:1])
    notebook.legacy(model.view_of, "legacy")
    graph = assert_as_predicted(notebook, model, [leaf()])
    assert site_of(graph, "legacy").fires is False


def test_a_plain_result_that_is_changed_in_place_later_keeps_its_hook_where_it_was(notebook):
    model = FromFunction(lambda m, a: m.linear(a).mul_(2))
    model.linear = nn.Linear(3, 3)
    notebook.legacy(model.linear, "legacy")
    assert label_of(assert_as_predicted(notebook, model, [leaf()]), "legacy") == "AddmmBackward0_0"


def test_a_forward_hook_that_replaces_the_result_moves_it(notebook):
    module = nn.Linear(3, 2)
    module.register_forward_hook(lambda _, args, result: result.exp())
    notebook.legacy(module, "legacy")
    assert label_of(assert_as_predicted(notebook, module, [leaf()]), "legacy") == "ExpBackward0_0"


def test_beside_a_full_pre_hook_it_lands_on_the_node_on_the_outputs(notebook):
    module = FromFunction(lambda _, a: (a.exp(), a.sin()))
    notebook.legacy(module, "legacy")
    notebook.full_pre(module, "pre")
    graph = assert_as_predicted(notebook, module, lambda: [inner()])
    assert label_of(graph, "legacy").startswith("BackwardHookFunctionBackward")
    assert statuses(site_of(graph, "legacy").grad_input) == ["tensor", "tensor"]


def test_beside_a_global_full_hook_it_lands_on_the_node_on_the_outputs(notebook):
    module = nn.Linear(3, 2)
    notebook.legacy(module, "legacy")
    notebook.everywhere("everywhere", HookKind.GLOBAL_FULL_BACKWARD)
    graph = assert_as_predicted(notebook, module, [leaf()])
    assert label_of(graph, "legacy").startswith("BackwardHookFunctionBackward")


def test_a_full_hook_on_the_module_around_it_moves_it_not(notebook):
    inside = nn.Linear(3, 2)
    outside = nn.Sequential(inside)
    notebook.legacy(inside, "legacy")
    notebook.full(outside, "full")
    assert label_of(assert_as_predicted(notebook, outside, [leaf()]), "legacy") == "AddmmBackward0_0"


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_a_full_hook_on_the_module_inside_moves_it(notebook):
    inside = nn.Linear(3, 2)
    outside = nn.Sequential(inside)
    notebook.legacy(outside, "legacy")
    notebook.full(inside, "full")
    assert label_of(assert_as_predicted(notebook, outside, [leaf()]), "legacy").startswith("BackwardHookFunction")


def test_one_that_was_removed_after_forward_still_fires():
    module, log = nn.Linear(3, 2), []

    def legacy(module, grad_input, grad_output):
        log.append(len(grad_input))

    handle = module.register_backward_hook(legacy)
    with fxgrad.record(module) as recording:
        loss = module(leaf()).sum()
        handle.remove()
    (site,) = recording.trace(loss).sites
    loss.backward()
    assert (site.fires, log) == (True, [3])


def test_the_seeds_stack_of_cells_has_a_site_per_step_and_layer(notebook):
    def forward(m, a):
        states = [(torch.zeros(9, 5), torch.zeros(9, 5)) for _ in m.layers]
        for step in a:
            value = step
            for index, layer in enumerate(m.layers):
                states[index] = layer(value, states[index])
                value = states[index][0]
        return value

    model = FromFunction(forward)
    model.layers = nn.ModuleList(nn.LSTMCell(5, 5) for _ in range(2))
    for index, layer in enumerate(model.layers):
        notebook.legacy(layer, f"layer{index}")
    graph = assert_as_predicted(notebook, model, [torch.randn(3, 9, 5)])
    assert [site.call for site in sites_of(graph, "layer1")] == ["layers.1#3", "layers.1#2", "layers.1#1"]


def test_hooks_of_every_kind_on_one_model_are_called_in_one_order(notebook):
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    notebook.legacy(model[0], "legacy")
    notebook.full(model[1], "full")
    notebook.full_pre(model[1][0], "pre")
    weight = model[1][0].weight
    weight.register_hook(notebook.tensor("weight"))
    weight.register_post_accumulate_grad_hook(notebook.leaf("accumulated"))
    graph = assert_as_predicted(notebook, model, [leaf()])
    names = [site.hook.function for site in graph.sites]
    assert names == ["pre", "weight", "accumulated", "full", "legacy"]


def test_hooks_registered_inside_forward_are_found(notebook):
    def forward(_, a):
        y = a * 2
        y.register_hook(notebook.tensor("tensor"))
        z = y.exp()
        z.grad_fn.register_hook(notebook.on_node("node"))
        return z

    module = FromFunction(forward)
    graph = assert_as_predicted(notebook, module, [leaf()])
    assert [site.hook.function for site in graph.sites] == ["node", "tensor"]


def test_a_hook_registered_between_forward_and_backward_is_found_by_capture():
    module, log = nn.Linear(3, 2), []
    result = module(leaf())

    def post(grad_input, grad_output):
        log.append((len(grad_input), len(grad_output)))

    result.grad_fn.register_hook(post)
    trace = fxgrad.capture(result.sum(), module, node_hooks=True)
    result.sum().backward()
    (site,) = trace.sites
    assert log == [(len(site.grad_input), len(site.grad_output))]


def test_a_legacy_hook_is_found_by_capture(notebook):
    module = nn.Linear(3, 2)
    notebook.legacy(module, "legacy")
    result = module(leaf())
    graph = fxgrad.capture(result, module, node_hooks=True).graph
    backward(result)
    comparison = compared(graph, notebook.log, ids_in(graph, [result]))
    assert not comparison.wrong, comparison.wrong
    assert site_of(graph, "legacy").call is None


@pytest.mark.parametrize("held", ["on the model", "on a module that nobody names", "for all modules", "removed since"])
def test_a_legacy_hook_that_an_unwatched_call_left_on_a_node_is_found_without_being_asked_for(notebook, held):
    module = nn.Linear(3, 2)
    if held == "for all modules":
        notebook.everywhere("legacy", HookKind.GLOBAL_BACKWARD)
    else:
        handle = notebook.legacy(module, "legacy")
    result = module(leaf())
    if held == "removed since":
        handle.remove()
    graph = fxgrad.capture(result, None if held == "on a module that nobody names" else module).graph
    backward(result)
    comparison = compared(graph, notebook.log, ids_in(graph, [result]))
    assert not comparison.wrong, comparison.wrong
    assert not comparison.unknown
    assert len(notebook.log) == 1


def test_a_legacy_hook_that_was_registered_twice_is_found_twice_by_capture():
    called = []

    def noted(module, grad_input, grad_output):
        called.append(len(grad_input))

    module = nn.Linear(3, 2)
    handles = [module.register_backward_hook(noted) for _ in range(2)]
    result = module(leaf())
    graph = fxgrad.capture(result, module).graph
    backward(result)
    assert [(site.hook.id, site.times) for site in graph.sites] == [(0, 1), (1, 1)]
    assert len(called) == len(handles)
