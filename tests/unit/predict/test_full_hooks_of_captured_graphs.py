"""Full hooks on a graph that was there before anybody watched: what their BackwardHook keeps tells all that they get."""

import pytest
import torch
from module_hooks import FromFunction, backward, compared, roots_in, site_of, statuses
from same_graph import ids_in
from torch import nn

import fxgrad

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing", "ignore:Using a non-full")


def captured(notebook, model, *args):
    """The captured graph; all that it predicts has been held against a real backward."""
    output = model(*args)
    return held(notebook, fxgrad.capture(output, model).graph, output)


def held(notebook, graph, output):
    """The graph, after a real backward from the output: nothing in it is wrong, and nothing is left open."""
    graph.lint()
    ids = ids_in(graph, roots_in(output))
    backward(output)
    comparison = compared(graph, notebook.log, ids)
    assert not comparison.wrong, "\n".join(comparison.wrong)
    assert not comparison.unknown, comparison.reasons
    return graph


def grad(*shape):
    return torch.ones(*shape, requires_grad=True)


def test_a_full_hook_and_a_pre_hook_get_one_entry_for_each_argument_and_result(notebook):
    linear = nn.Linear(2, 3)
    notebook.full(linear, "full")
    notebook.full_pre(linear, "pre")
    graph = captured(notebook, nn.Sequential(linear, nn.ReLU()), grad(4, 2) * 1)
    site = site_of(graph, "full")
    assert [(entry.argument, entry.shape, entry.status) for entry in site.grad_input] == [("input", (4, 2), "tensor")]
    assert [(entry.argument, entry.shape) for entry in site.grad_output] == [("result", (4, 3))]
    assert site.reason == "it was found on the node that PyTorch put on the inputs of 0"
    assert site_of(graph, "pre").reason == "it was found on the node that PyTorch put on the outputs of 0"


def test_what_is_no_tensor_gets_none(notebook):
    model = FromFunction(lambda module, a, factor, pair: (a * factor + pair[0], "text", a.detach(), [a]))
    notebook.full(model, "full")
    output = model(grad(2), 3, (grad(2),))
    graph = fxgrad.capture(output, model).graph
    ids = ids_in(graph, roots_in(output))
    backward(output)
    assert not compared(graph, notebook.log, ids).wrong
    site = site_of(graph, "full")
    assert statuses(site.grad_input) == ["tensor", "none", "none"]
    assert statuses(site.grad_output) == ["tensor", "none", "none", "none"]
    assert [entry.reason for entry in site.grad_input[1:]] == [
        "it is not a tensor; if it is a container, a full hook does not see the tensors inside it"
    ] * 2


def test_without_an_input_that_requires_grad_the_hook_sits_on_the_outputs_and_gets_none(notebook):
    linear = nn.Linear(2, 3)
    notebook.full(linear, "full")
    graph = captured(notebook, linear, torch.ones(4, 2))
    site = site_of(graph, "full")
    assert [entry.reason for entry in site.grad_input] == ["no positional argument requires grad"]
    assert site.reason == "it was found on the node that PyTorch put on the outputs of the model"


def test_an_argument_that_gets_no_gradient_gets_zeros(notebook):
    model = FromFunction(lambda module, a, b: a * 2)
    notebook.full(model, "full")
    graph = captured(notebook, model, grad(2), grad(3))
    assert [entry.reason for entry in site_of(graph, "full").grad_input] == [None, "zeros: no gradient arrives here"]


def test_one_result_that_nothing_uses_gets_none(notebook):
    pair = FromFunction(lambda module, a: (a * 2, a * 3))
    notebook.full(pair, "full")
    notebook.full_pre(pair, "pre")
    graph = captured(notebook, FromFunction(lambda module, a: pair(a)[0]), grad(2))
    assert statuses(site_of(graph, "full").grad_output) == ["tensor", "none"]
    assert statuses(site_of(graph, "pre").grad_output) == ["tensor", "none"]


def test_each_call_of_a_module_has_its_own_sites(notebook):
    linear = nn.Linear(3, 3)
    notebook.full(linear, "full")
    graph = captured(notebook, FromFunction(lambda module, a: linear(linear(a).relu())), grad(2, 3))
    assert [site.order for site in graph.sites] == [0, 1]
    assert [call.path for call in graph.unrecorded_calls] == ["<Linear>", "<Linear>"]


def test_global_full_hooks_are_told_by_their_place(notebook):
    from fxgrad.graph import HookKind

    notebook.everywhere("everywhere", HookKind.GLOBAL_FULL_BACKWARD)
    graph = captured(notebook, nn.Sequential(nn.Linear(2, 3), nn.Tanh()), grad(4, 2))
    assert [site.reason.rpartition(" of ")[2] for site in graph.sites] == ["1", "0", "the model"]


def test_a_gradient_that_comes_around_the_outputs_calls_no_hook(notebook):
    kept = []
    model = FromFunction(lambda module, a: (kept.append(a * 2), a * 3)[1])
    notebook.full(model, "full")
    model(grad(2))
    graph = fxgrad.capture(kept[0], model).graph
    kept[0].sum().backward()
    assert notebook.log == []
    site = site_of(graph, "full")
    assert site.fires is False
    assert site.reason == "the gradient reaches the module's inputs, but no root depends on the module's outputs"


def test_what_an_earlier_backward_left_calls_the_hook_where_the_outputs_are_not_reached(notebook):
    """The first backward ends between the two nodes, so the hook still waits."""
    kept = []
    model = FromFunction(lambda module, a: (kept.append(a * 2), kept[0] * 3)[1])
    notebook.full(model, "full")
    output = model(grad(2))
    output.sum().backward(inputs=[kept[0]], retain_graph=True)
    graph = fxgrad.capture(kept[0], model).graph
    site = site_of(graph, "full")
    assert (site.fires, site.times) == (None, None)
    assert site.reason == (
        "an earlier backward reached only the module's outputs, and what it left for the hook may still be there"
    )
    kept[0].sum().backward()
    assert [call.hook for call in notebook.log] == ["full"]


def test_what_an_earlier_backward_left_is_replaced_where_the_outputs_are_reached(notebook):
    kept = []
    model = FromFunction(lambda module, a: (kept.append(a * 2), kept[0] * 3)[1])
    notebook.full(model, "full")
    output = model(grad(2))
    output.sum().backward(inputs=[kept[0]], retain_graph=True)
    graph = fxgrad.capture(output, model).graph
    assert graph.unrecorded_calls[0].has_waiting
    ids = ids_in(graph, roots_in(output))
    backward(output)
    assert not compared(graph, notebook.log, ids).wrong
    assert site_of(graph, "full").times == 1


def test_a_saved_capture_predicts_the_same(notebook, tmp_path):
    linear = nn.Linear(2, 3)
    notebook.full(linear, "full")
    trace = fxgrad.capture(linear(grad(4, 2)), linear)
    trace.to_json(tmp_path / "trace.json")
    loaded = fxgrad.load(tmp_path / "trace.json")
    assert loaded.graph == trace.graph
    assert loaded.predict().graph.sites == trace.graph.sites


def test_hooks_that_were_registered_before_the_recording_are_told_from_what_they_left(notebook):
    first, second = nn.Linear(2, 3), nn.Linear(3, 3)
    notebook.full(first, "first")
    notebook.full(second, "second")
    middle = first(grad(4, 2))
    with fxgrad.record(second) as recording:
        output = second(middle)
    held(notebook, recording.trace(output).graph, output)


@pytest.mark.parametrize("kind", ["legacy", "full", "full_pre"])
def test_a_module_that_was_also_called_before_the_recording_has_a_site_for_each_call(notebook, kind):
    linear = nn.Linear(3, 3)
    getattr(notebook, kind)(linear, "hook")
    middle = linear(grad(4, 3)).tanh()
    with fxgrad.record(linear) as recording:
        output = linear(middle)
    graph = held(notebook, recording.trace(output).graph, output)
    assert [site.call for site in graph.sites] == ["#1", None]


def test_a_loop_of_which_the_last_step_alone_is_traced_has_a_site_for_each_step(notebook):
    cell = nn.RNNCell(2, 3)
    notebook.full(cell, "hook")
    hidden = cell(torch.ones(4, 2), cell(torch.ones(4, 2)))
    graph = fxgrad.trace(cell, (torch.ones(4, 2), hidden)).graph
    backward(cell(torch.ones(4, 2), hidden))
    assert sum(site.times for site in graph.sites) == len(notebook.log) == 3
