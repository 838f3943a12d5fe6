"""What full module hooks and full pre-hooks get, and when: traced, then held against a real backward."""

import collections
import dataclasses

import pytest
import torch
from module_hooks import FromFunction, assert_as_predicted, backward, compared, site_of, sites_of, statuses
from same_graph import ids_in
from torch import nn

import fxgrad
from fxgrad.graph import HookKind
from fxgrad.predict import BackwardCall, predict

pytestmark = pytest.mark.filterwarnings(
    "ignore:Full backward hook is firing",
    "ignore:For backward hooks to be called",
    "ignore:Using .*non-full backward hook",
)

Pair = collections.namedtuple("Pair", "a b")


@dataclasses.dataclass
class Boxed:
    value: object


def leaf(*shape):
    return torch.randn(shape or (4, 3), requires_grad=True)


def inner():
    """A tensor that requires grad and is no leaf."""
    return leaf() * 1


def hooked(notebook, module):
    notebook.full(module, "full")
    notebook.full_pre(module, "pre")
    return module


def test_a_full_hook_gets_one_entry_per_positional_argument_and_one_per_result(notebook):
    module = hooked(notebook, nn.Linear(3, 2))
    graph = assert_as_predicted(notebook, module, [leaf()])
    site = site_of(graph, "full")
    assert [(g.argument, g.status, g.shape) for g in site.grad_input] == [("input", "tensor", (4, 3))]
    assert [(g.argument, g.status, g.shape) for g in site.grad_output] == [("result", "tensor", (4, 2))]
    assert graph.nodes[site.node].name == "BackwardHookFunctionBackward"


def test_without_an_input_that_requires_grad_it_fires_at_the_outputs_with_none_for_every_argument(notebook):
    module = hooked(notebook, nn.Linear(3, 2))
    graph = assert_as_predicted(notebook, module, [torch.randn(4, 3)])
    site = site_of(graph, "full")
    assert [(g.status, g.reason) for g in site.grad_input] == [("none", "no positional argument requires grad")]
    assert site.node == site_of(graph, "pre").node


def test_tensors_that_require_no_grad_get_zeros_of_their_own_shape_and_dtype(notebook):
    module = hooked(notebook, FromFunction(lambda _, a, nothing, number, half: a.exp()))
    arguments = [leaf(), None, torch.ones(2, dtype=torch.long), torch.ones(5, dtype=torch.half)]
    site = site_of(assert_as_predicted(notebook, module, arguments), "full")
    assert statuses(site.grad_input) == ["tensor", "none", "tensor", "tensor"]
    assert [(g.shape, g.dtype) for g in site.grad_input[2:]] == [((2,), "int64"), ((5,), "float16")]
    assert site.grad_input[2].reason == "zeros: this argument does not require grad"


def test_an_argument_that_is_not_used_gets_zeros(notebook):
    module = hooked(notebook, FromFunction(lambda _, a, unused: a.exp()))
    site = site_of(assert_as_predicted(notebook, module, lambda: [inner(), inner()]), "full")
    assert [(g.status, g.reason) for g in site.grad_input] == [
        ("tensor", None),
        ("tensor", "zeros: no gradient arrives here"),
    ]


def test_tensors_inside_a_container_are_invisible(notebook):
    module = hooked(notebook, nn.LSTMCell(3, 3))
    graph = assert_as_predicted(notebook, module, [leaf(), (leaf(), leaf())], loss=lambda result: result[0].sum())
    site = site_of(graph, "full")
    assert [(g.argument, g.status, g.reason) for g in site.grad_input] == [
        ("input", "tensor", None),
        ("hx", "none", "a full hook does not see the tensors inside it"),
    ]
    assert [(g.argument, g.status) for g in site.grad_output] == [("result 0", "tensor"), ("result 1", "none")]


def test_keyword_arguments_are_invisible(notebook):
    module = hooked(notebook, FromFunction(lambda _, a, b=None: a.exp() + b))
    graph = assert_as_predicted(notebook, module, lambda: [inner()], {"b": leaf()})
    assert len(site_of(graph, "full").grad_input) == 1


def test_with_nothing_but_keyword_arguments_it_fires_with_an_empty_grad_input(notebook):
    module = hooked(notebook, FromFunction(lambda _, a=None: a.exp()))
    graph = assert_as_predicted(notebook, module, [], {"a": leaf()})
    assert site_of(graph, "full").grad_input == ()


def test_results_that_are_no_tensors_get_none(notebook):
    module = hooked(notebook, FromFunction(lambda _, a: (a.exp(), None, 3, a.argmax())))
    graph = assert_as_predicted(notebook, module, lambda: [inner()], loss=lambda result: result[0].sum())
    assert [(g.status, g.reason) for g in site_of(graph, "full").grad_output] == [
        ("tensor", None),
        ("none", "it is not a tensor"),
        ("none", "it is not a tensor"),
        ("none", "it does not require grad"),
    ]


def test_an_unused_result_gets_none(notebook):
    module = hooked(notebook, FromFunction(lambda _, a: (a.exp(), a.sin())))
    graph = assert_as_predicted(notebook, module, lambda: [inner()], loss=lambda result: result[1].sum())
    assert [(g.status, g.reason) for g in site_of(graph, "pre").grad_output] == [
        ("none", "no root depends on it"),
        ("tensor", None),
    ]


def test_a_missing_gradient_stays_none_behind_the_hook_on_the_outputs(notebook):
    module = FromFunction(lambda _, a: (a.exp(), a.sin()))
    notebook.full_pre(module, "pre")
    notebook.legacy(module, "legacy")
    graph = assert_as_predicted(notebook, module, lambda: [inner()], loss=lambda result: result[1].sum())
    site = site_of(graph, "legacy")
    assert site.node == site_of(graph, "pre").node
    assert [(g.status, g.reason) for g in site.grad_input] == [
        ("none", "no gradient arrives for it, and the hook on the module's outputs passes None on"),
        ("tensor", None),
    ]


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (lambda a: [a.exp()], "the result is a list: only a tensor, or the tensors of a tuple, are hooked"),
        (lambda a: {"a": a.exp()}, "the result is a dict: only a tensor, or the tensors of a tuple, are hooked"),
        (lambda a: Boxed(a.exp()), "the result is a Boxed: only a tensor, or the tensors of a tuple, are hooked"),
        (lambda a: ((a.exp(),),), "the tensors in the result that require grad are nested"),
        (lambda a: (a.detach(),), "no tensor in the result requires grad"),
    ],
    ids=["list", "dict", "dataclass", "nested tuple", "detached"],
)
def test_where_no_result_is_hooked_it_never_fires_and_says_why(notebook, result, reason):
    module = hooked(notebook, FromFunction(lambda _, a: result(a)))
    x = leaf()

    def loss(value):
        return x.sum() + sum(t.sum() for _, t in tensors_in(value))

    graph = assert_as_predicted(notebook, module, [x], loss=loss)
    for name in ("full", "pre"):
        site = site_of(graph, name)
        assert (site.fires, site.node) == (False, None)
        assert reason in site.reason


def tensors_in(value):
    from fxgrad.observe.record.tensors import find_tensors as found

    return found(value).tensors


def test_a_namedtuple_is_a_tuple(notebook):
    module = hooked(notebook, FromFunction(lambda _, pair: Pair(pair.a.exp(), pair.b.sin())))
    graph = assert_as_predicted(notebook, module, lambda: [Pair(inner(), inner())])
    assert len(site_of(graph, "full").grad_output) == 2


def test_the_top_level_tensors_of_a_nested_result_are_hooked(notebook):
    module = hooked(notebook, nn.LSTM(4, 3))
    graph = assert_as_predicted(notebook, module, [leaf(5, 1, 4)], loss=lambda result: result[0].sum())
    assert statuses(site_of(graph, "full").grad_output) == ["tensor", "none"]


def test_a_loss_on_a_nested_result_alone_does_not_fire_it(notebook):
    module = hooked(notebook, nn.LSTM(4, 3))
    graph = assert_as_predicted(notebook, module, [leaf(5, 1, 4)], loss=lambda result: result[1][0].sum())
    full, pre = site_of(graph, "full"), site_of(graph, "pre")
    assert full.fires is False
    assert full.reason == (
        "the gradient reaches the module's inputs through result[1][0], which is inside a container: a full hook waits "
        "for the results at the top level, and no root depends on those"
    )
    assert pre.reason == "it is on the node that PyTorch put on the module's outputs, and no root depends on that node"


def test_a_gradient_that_comes_to_the_inputs_only_by_a_side_path_does_not_fire_it(notebook):
    kept = []
    module = hooked(notebook, FromFunction(lambda m, a: (kept.append(a.sin()), m.weight * 2)[1]))
    graph = assert_as_predicted(notebook, module, [leaf()], loss=lambda result: result.sum() * 2 + kept.pop().sum())
    assert site_of(graph, "pre").fires is True


def test_a_result_that_does_not_depend_on_the_inputs_fires_the_pre_hook_alone(notebook):
    module = hooked(notebook, FromFunction(lambda m, a: m.weight * 2))
    graph = assert_as_predicted(notebook, module, [leaf()])
    assert site_of(graph, "pre").fires is True
    assert site_of(graph, "full").reason == (
        "it is on the node that PyTorch put on the module's inputs, and no root depends on that node"
    )


@pytest.mark.parametrize("argument", [inner, leaf], ids=["inner", "leaf"])
def test_a_module_that_returns_its_input_is_hooked_like_any_other(notebook, argument):
    module = hooked(notebook, FromFunction(lambda _, a: a))
    assert_as_predicted(notebook, module, lambda: [argument()])


def test_a_bare_parameter_as_result_fires_with_an_empty_grad_input(notebook):
    module = hooked(notebook, FromFunction(lambda m: m.weight))
    graph = assert_as_predicted(notebook, module)
    assert site_of(graph, "full").grad_input == ()


def test_nested_modules_that_return_one_tensor_fire_pre_from_outside_and_full_from_inside(notebook):
    inside = nn.Linear(3, 2)
    outside = nn.Sequential(inside)
    for name, module in (("inner", inside), ("outer", outside)):
        notebook.full(module, f"{name}_full")
        notebook.full_pre(module, f"{name}_pre")
    graph = assert_as_predicted(notebook, outside, [leaf()])
    assert [site.hook.function for site in graph.sites] == ["outer_pre", "inner_pre", "inner_full", "outer_full"]


def test_each_call_of_a_module_has_a_site_of_its_own(notebook):
    shared = hooked(notebook, nn.Linear(3, 3))
    model = FromFunction(lambda m, a: m.shared(m.shared(a)))
    model.shared = shared
    graph = assert_as_predicted(notebook, model, [leaf()])
    assert [site.call for site in sites_of(graph, "full")] == ["shared#2", "shared#1"]


def test_global_hooks_come_first_and_prepend_reorders_local_ones(notebook):
    module = nn.Linear(3, 2)
    notebook.full(module, "first")
    notebook.full(module, "before", prepend=True)
    notebook.everywhere("everywhere", HookKind.GLOBAL_FULL_BACKWARD)
    notebook.everywhere("everywhere_pre", HookKind.GLOBAL_FULL_BACKWARD_PRE)
    notebook.full_pre(module, "pre")
    notebook.full_pre(module, "pre_before", prepend=True)
    graph = assert_as_predicted(notebook, module, [leaf()])
    names = [site.hook.function for site in graph.sites]
    assert names == ["everywhere_pre", "pre_before", "pre", "everywhere", "before", "first"]


def test_entries_are_counted_after_forward_pre_hooks_and_forward_hooks(notebook):
    module = hooked(notebook, FromFunction(lambda _, a, b: a * b))
    module.register_forward_pre_hook(lambda _, args: (args[0], args[0] * 2))
    module.register_forward_hook(lambda _, args, result: (result, result.exp(), 3))
    graph = assert_as_predicted(notebook, module, lambda: [inner()])
    site = site_of(graph, "full")
    assert (len(site.grad_input), len(site.grad_output)) == (2, 3)


def test_a_module_called_without_grad_has_sites_that_say_so(notebook):
    module = hooked(notebook, nn.Linear(3, 3))

    def forward(m, a):
        with torch.no_grad():
            m.quiet(a)
        return a.exp()

    model = FromFunction(forward)
    model.quiet = module
    graph = assert_as_predicted(notebook, model, [leaf()])
    assert site_of(graph, "pre").reason == "gradients are disabled"


def test_a_module_that_is_never_called_has_a_site_that_says_so(notebook):
    model = nn.MultiheadAttention(4, 2)
    notebook.full(model.out_proj, "full")
    x = leaf(5, 1, 4)
    graph = assert_as_predicted(notebook, model, [x, x, x], loss=lambda result: result[0].sum())
    assert site_of(graph, "full").reason == "the module was never called, though backward reaches its parameters"


def test_a_module_whose_result_nothing_uses_has_a_site_that_says_so(notebook):
    model = FromFunction(lambda m, a: (m.aside(a), a.exp())[1])
    model.aside = hooked(notebook, nn.Linear(3, 3))
    graph = assert_as_predicted(notebook, model, [leaf()])
    assert site_of(graph, "pre").fires is False


def test_a_hook_that_was_removed_after_forward_still_fires():
    module, log = nn.Linear(3, 2), []

    def full(module, grad_input, grad_output):
        log.append(len(grad_input))

    handle = module.register_full_backward_hook(full)
    with fxgrad.record(module) as recording:
        loss = module(leaf()).sum()
        handle.remove()
    (site,) = recording.trace(loss).sites
    loss.backward()
    assert (site.fires, site.hook.active, log) == (True, False, [1])


def test_a_hook_that_was_registered_after_forward_does_not_fire():
    module, log = nn.Linear(3, 2), []
    with fxgrad.record(module) as recording:
        loss = module(leaf()).sum()
        module.register_full_backward_hook(lambda module, grad_input, grad_output: log.append(1))
    (site,) = recording.trace(loss).sites
    loss.backward()
    assert (site.fires, log) == (False, [])
    assert (
        site.reason
        == "the module's call did not capture it: a call captures the hooks that are registered when it starts"
    )


@pytest.mark.parametrize("api", ["backward", "grad"])
@pytest.mark.parametrize("name", ["weight", "args[0]"])
def test_what_fires_under_inputs_is_predicted(notebook, api, name):
    module = hooked(notebook, nn.Linear(3, 2))
    x = leaf()
    with fxgrad.record(module) as recording:
        loss = module(x).sum()
    graph = recording.trace(loss).graph
    chosen = x if name != "weight" else module.weight
    shape = tuple(chosen.shape)
    (place,) = [
        (node.id, 0)
        for node in graph.nodes
        if node.short_name == "AccumulateGrad" and node.grad_outputs[0].shape == shape
    ]
    predicted = predict(graph, BackwardCall((place,), api))
    if api == "grad":
        torch.autograd.grad(loss, [chosen])
    else:
        loss.backward(inputs=[chosen])
    assert not compared(predicted, notebook.log, ids_in(predicted, [loss])).wrong
    assert site_of(predicted, "full").fires is (name != "weight")


def test_double_backward_fires_again_where_the_result_is_in_that_graph(notebook):
    module = hooked(notebook, FromFunction(lambda _, a: a.pow(3)))
    x = leaf()
    with fxgrad.record(module) as recording:
        result = module(x) ** 2
        (grad,) = torch.autograd.grad(result.sum(), x, create_graph=True)
        loss = grad.sum()
    graph = recording.trace(loss).graph
    notebook.log.clear()
    backward(loss)
    assert not compared(graph, notebook.log, ids_in(graph, [loss])).wrong
    assert site_of(graph, "full").fires is True


def test_double_backward_does_not_fire_where_the_result_is_not_in_that_graph(notebook):
    module = hooked(notebook, FromFunction(lambda _, a: a.pow(3)))
    x = leaf()
    with fxgrad.record(module) as recording:
        (grad,) = torch.autograd.grad(module(x).sum(), x, create_graph=True)
        loss = grad.sum()
    graph = recording.trace(loss).graph
    notebook.log.clear()
    backward(loss)
    comparison = compared(graph, notebook.log, ids_in(graph, [loss]))
    assert not comparison.wrong, comparison.wrong
    assert site_of(graph, "full").fires is False
