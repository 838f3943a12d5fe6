"""What the answer says, spelled out; that it is what really happens is in test_supposed_programs.py."""

from contextlib import closing

import pytest
import torch
from hooked_programs import PROGRAMS, around, inner, leaf
from module_hooks import FromFunction, Notebook, statuses
from torch import nn

from fxgrad.errors import UsageError
from fxgrad.graph import HookKind
from fxgrad.observe.tracing import observe_forward, observe_tensors
from fxgrad.probe import hypothesis

LEGACY, FULL, PRE = HookKind.MODULE_BACKWARD, HookKind.MODULE_FULL_BACKWARD, HookKind.MODULE_FULL_BACKWARD_PRE


def traced(model, *args, **kwargs):
    return observe_forward(model, args, kwargs).graph


def supposed(name, path, kind):
    notebook = Notebook()
    model, args, kwargs = PROGRAMS[name](notebook)
    graph = traced(model, *args, **kwargs)
    notebook.close()
    return hypothesis(graph, path, kind)


def label(answer, site):
    return answer.graph.nodes[site.node].label


# Sites


def test_a_legacy_hook_gets_the_arguments_of_one_function_and_a_full_one_those_of_forward():
    graph = traced(nn.Linear(3, 2), leaf(4, 3))
    (legacy,), (full,) = hypothesis(graph, "", LEGACY).sites, hypothesis(graph, "", FULL).sites
    assert [gradient.argument for gradient in legacy.grad_input] == ["self", "mat1", "mat2"]
    assert [(gradient.argument, gradient.shape) for gradient in full.grad_input] == [("input", (4, 3))]


def test_the_hook_is_the_last_one_and_belongs_to_the_module():
    answer = supposed("sequential_with_full_hooks", "2", FULL)
    hook = answer.graph.hooks[answer.hook]
    assert (hook.id, hook.owner, hook.kind) == (len(answer.graph.hooks) - 1, "2", FULL)
    assert answer.graph.modules_by_path["2"].hooks[-1] == hook.id


def test_each_call_of_a_module_has_a_site_the_last_call_first():
    assert [site.call for site in supposed("shared_module", "0", FULL).sites] == ["0#3", "0#2", "0#1"]


def test_a_path_with_subscripts_is_understood():
    graph = traced(nn.Sequential(nn.Sequential(nn.Linear(3, 2))), leaf())
    assert hypothesis(graph, "0[0]", FULL).sites[0].call == "0.0#1"


def test_a_global_hook_has_a_site_at_every_call_of_every_module():
    answer = supposed("sequential", "", HookKind.GLOBAL_FULL_BACKWARD)
    assert {site.call for site in answer.sites} == {"#1", "0#1", "1#1", "2#1", "2.0#1", "2.1#1"}
    assert answer.graph.hooks[answer.hook].owner == ""


def test_a_module_that_is_never_called_has_one_site_that_says_so():
    (site,) = supposed("module_never_called", "b", FULL).sites
    assert (site.fires, site.node, site.reason) == (False, None, "the module was never called")


def test_a_module_under_no_grad_is_silent():
    (site,) = supposed("module_under_no_grad", "a", FULL).sites
    assert site.fires is False


def test_what_runs_in_a_reentrant_checkpoint_is_left_open():
    (site,) = supposed("reentrant_checkpoint", "1.m", FULL).sites
    assert (site.fires, site.times) == (None, None)


def test_a_keyword_argument_and_what_a_tuple_holds_are_invisible_to_a_full_hook():
    (site,) = supposed("keyword_and_nested_arguments", "", FULL).sites
    assert [(gradient.argument, gradient.status) for gradient in site.grad_input] == [("args[0]", "tensor")]


def test_without_an_argument_that_requires_grad_a_full_hook_is_called_at_the_outputs():
    answer = hypothesis(traced(nn.Linear(3, 2), torch.randn(4, 3)), "", FULL)
    (site,) = answer.sites
    assert label(answer, site) == "BackwardHookFunctionBackward_0"
    assert statuses(site.grad_input) == ["none"]


def test_nothing_is_registered_and_the_given_graph_stays_as_it_is():
    model = nn.Sequential(nn.Linear(3, 2))
    graph = traced(model, leaf())
    before = str(graph)
    hypothesis(graph, "0", FULL)
    assert str(graph) == before
    assert not model[0]._backward_hooks


# What it changes


def test_a_full_hook_moves_the_legacy_hook_of_a_parent_that_returns_the_same_tensor():
    answer = supposed("sequential_with_full_hooks", "2.0", FULL)
    assert answer.moved == ()
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model.register_backward_hook(lambda *_: None)
    answer = hypothesis(traced(model, leaf()), "1", FULL)
    ((before, after),) = answer.moved
    assert len(before.grad_input) == 3
    assert label(answer, after) == "BackwardHookFunctionBackward_0"
    assert statuses(after.grad_input) == ["tensor"]


def test_a_legacy_hook_moves_nothing():
    assert supposed("legacy_hooks_beside_hooks_on_nodes", "m", LEGACY).moved == ()


def test_hooks_on_the_result_move_and_those_that_forward_put_on_it_stay():
    moved = supposed("hooks_on_tensors_and_nodes", "m", FULL).moved
    names = {before.hook.function for before, _ in moved}
    assert names == {"result, outside", "node of the result", "argument, inside"}


def a_hook_on_result_and_root(notebook):
    """Called for each of its tensors, as PyTorch does not count the root; with a full hook around, the root is another."""

    def forward(model, x):
        hidden = model.inner(x)
        result = hidden * 2
        notebook.on_several([hidden, result], "several", "all")
        return result

    model = FromFunction(forward)
    model.inner = nn.Linear(3, 3)
    return model


def test_a_multi_grad_hook_that_would_be_called_once_less_is_moved_at_each_call():
    with closing(Notebook()) as notebook:
        answer = hypothesis(traced(a_hook_on_result_and_root(notebook), leaf(4, 3)), "", FULL)
        assert [(before.times, after.times) for before, after in answer.moved] == [(1, 1), (1, 0)]
        assert [statuses(before.grad_output) for before, _ in answer.moved] == [["none", "tensor"], ["tensor", "none"]]
        assert statuses(answer.moved[0][1].grad_output) == ["tensor", "tensor"]
        model = a_hook_on_result_and_root(notebook)
        model.register_full_backward_hook(lambda *_: None)
        notebook.clear()
        model(leaf(4, 3)).sum().backward()
        assert [called.hook for called in notebook.log] == ["several"]


def test_a_site_that_only_comes_later_is_not_moved():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].register_full_backward_hook(lambda *_: None)
    assert hypothesis(traced(model, leaf()), "1", FULL).moved == ()


def test_a_hook_on_an_unused_argument_is_called_then_with_zeros():
    answer = supposed("unused_leaf", "", FULL)
    changes = {before.hook.function: (before.fires, after.fires) for before, after in answer.moved}
    assert changes == {"unused": (False, True), "unused, after": (False, True)}
    assert answer.caveats == ("the hook makes the gradient of args[1] a tensor of zeros, where it is None without it",)


# What is refused


def test_kinds_do_not_mix_on_one_module():
    answer = supposed("removed_legacy_hook", "", FULL)
    assert answer.sites == ()
    assert answer.refused == (
        "Module.register_full_backward_hook raises RuntimeError: the model has had a non-full backward hook, and PyTorch "
        "never mixes the two"
    )


def test_a_legacy_hook_beside_a_full_pre_hook_is_allowed():
    model = nn.Linear(3, 2)
    model.register_full_backward_pre_hook(lambda *_: None)
    answer = hypothesis(traced(model, leaf()), "", LEGACY)
    assert (answer.refused, label(answer, answer.sites[0])) == (None, "BackwardHookFunctionBackward_0")


def test_global_kinds_do_not_mix_either():
    assert "for all modules" in supposed("global_legacy_hook", "", HookKind.GLOBAL_FULL_BACKWARD).refused


def test_an_argument_that_forward_changes_in_place_is_refused_with_the_line():
    def forward(self, x):
        return x.mul_(self.weight)

    answer = hypothesis(traced(FromFunction(forward), inner(3)), "", FULL)
    assert answer.refused.startswith(
        "forward raises RuntimeError: argument 0 of the model is changed in place by mul_ at "
    )
    assert "`return x.mul_(self.weight)`" in answer.refused


def test_a_result_that_the_next_module_changes_in_place_is_refused():
    assert supposed("relu_in_place", "0", FULL).refused.startswith(
        "forward raises RuntimeError: the result of 0 is changed in place by relu"
    )
    assert supposed("relu_in_place", "2", FULL).refused is None


def test_full_pre_hooks_are_refused_alike_and_legacy_ones_are_not():
    assert supposed("sum_in_place", "a", PRE).refused
    assert supposed("sum_in_place", "a", LEGACY).refused is None


def test_a_result_that_is_changed_without_grad_is_refused_only_if_it_is_used_again():
    assert supposed("in_place_without_grad", "a", FULL).refused
    answer = supposed("in_place_without_grad_after_the_last_use", "a", FULL)
    assert answer.refused is None
    assert "if it is used after that, forward raises RuntimeError" in answer.caveats[0]


def test_a_change_through_data_is_allowed():
    answer = supposed("data_in_place", "a", FULL)
    assert (answer.refused, answer.caveats) == (None, ())


def test_a_change_of_what_returned_its_argument_is_refused_on_a_condition():
    answer = hypothesis(traced(nn.Sequential(nn.Tanh(), nn.Identity(), nn.ReLU(inplace=True)), leaf()), "1", FULL)
    assert "the result of 1 is changed in place by relu" in answer.refused
    assert answer.caveats == (
        "the result of 1 is also to be had as it was before the hook replaced it: forward does not raise if that is "
        "what is changed",
    )


def test_a_struct_sequence_is_refused_by_full_hooks():
    assert supposed("struct_sequence", "m", FULL).refused.endswith("a full hook makes the result anew as max(*results)")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("none_result", "the result has no first element to look into (TypeError in forward)"),
        ("dict_without_tensors", "the result is a dict without a tensor among its values (StopIteration in forward)"),
    ],
)
def test_a_result_that_a_legacy_hook_finds_no_tensor_in_is_refused(name, why):
    assert supposed(name, "m", LEGACY).refused.endswith(why)


def test_a_sparse_argument_is_refused():
    model = FromFunction(lambda self, x, y: torch.sparse.mm(x, y) * self.weight)
    answer = hypothesis(traced(model, torch.eye(3).to_sparse(), leaf(3, 3)), "", FULL)
    assert answer.refused.startswith("a full hook makes a view of argument 0 of the model")
    assert answer.refused.endswith("forward raises, since a tensor of layout sparse_coo cannot be viewed")


def test_a_refused_hook_is_in_the_graph_with_the_reason_and_the_graph_is_the_one_without_it():
    answer = supposed("removed_full_hook", "", LEGACY)
    answer.graph.lint()
    assert answer.graph.sites[-1].reason == answer.refused
    assert not any("BackwardHookFunction" in node.label for node in answer.graph.nodes)


# What is not certain


def test_one_tensor_twice_in_the_result_leaves_open_which_of_them_is_used():
    answer = supposed("one_tensor_twice_out", "m", FULL)
    assert [(site.fires, statuses(site.grad_output)) for site in answer.sites] == [(True, ["unknown", "unknown"])]


def test_as_a_result_of_the_model_it_is_known_which_one_it_is():
    (site,) = supposed("one_tensor_twice_out_of_the_model", "", FULL).sites
    assert statuses(site.grad_output) == ["tensor", "tensor"]


def test_a_result_that_is_also_inside_a_container_leaves_open_whether_the_hook_is_called():
    (site,) = supposed("one_tensor_inside_the_result", "m", FULL).sites
    assert (site.fires, site.times, statuses(site.grad_output)) == (None, None, ["unknown", "none"])


def test_an_argument_that_is_also_a_keyword_leaves_open_whether_the_hook_is_called():
    module = FromFunction(lambda self, x, y: y * self.weight)
    answer = hypothesis(traced(around(module, lambda self, x: self.m(x, y=x)), inner(3)), "m", FULL)
    assert [site.fires for site in answer.sites] == [None]


def test_what_returns_its_argument_is_said_to_do_so():
    assert supposed("identity", "1", FULL).caveats == (
        "1 returned a tensor that was there before: what used it after the call is taken to have used it as the call's "
        "result, and what uses it otherwise does not pass the hook",
    )


def test_an_attribute_that_keeps_the_result_is_named():
    caveats = supposed("results_kept_in_attributes", "m", FULL).caveats
    assert caveats == ("m.kept keeps a result of m: what reads it there does not pass the hook",)


def test_hooks_behind_what_was_not_recorded_may_be_called():
    answer = supposed("unused_argument_with_history", "a", FULL)
    open_ones = {site.hook.function for site in answer.graph.sites if site.fires is None}
    assert open_ones == {"legacy", "pre"}


# What it answers nothing about


def test_a_hook_that_is_not_registered_on_modules_is_refused_as_usage():
    with pytest.raises(UsageError) as raised:
        hypothesis(traced(nn.Linear(3, 2), leaf()), "", HookKind.TENSOR)
    assert str(raised.value) == (
        "what Tensor.register_hook would get\n"
        "  allowed: a hook that is registered on modules: Module.register_backward_hook, "
        "Module.register_full_backward_hook, Module.register_full_backward_pre_hook, register_module_backward_hook, "
        "register_module_full_backward_hook, register_module_full_backward_pre_hook\n"
        "  try: register it, and trace again: it is on the tensor or node that you register it on"
    )


def test_an_unknown_module_is_refused_with_the_nearest_paths():
    with pytest.raises(UsageError, match=r"no module 'layer\.0'"):
        hypothesis(traced(nn.Sequential(nn.Linear(3, 2)), leaf()), "layer.0", FULL)


def test_a_captured_graph_has_no_calls_to_suppose_a_hook_at():
    model = nn.Linear(3, 2)
    graph = observe_tensors(model(leaf()), model, node_hooks=False).graph
    with pytest.raises(UsageError, match="whose module calls are not known"):
        hypothesis(graph, "", FULL)


# Modules that a transform or TorchScript runs


@pytest.mark.parametrize("kind", [FULL, PRE])
def test_a_full_hook_on_a_module_that_a_transform_runs_makes_forward_raise(kind):
    def differentiated(model, x):
        return torch.func.grad(lambda y: model.inner(y).sum())(x) * model.weight

    def build():
        model = FromFunction(differentiated)
        model.inner = nn.Linear(3, 3)
        return model

    answer = hypothesis(traced(build(), leaf()), "inner", kind)
    assert answer.refused is not None
    assert answer.refused.startswith("forward raises RuntimeError at ")
    assert answer.refused.endswith(
        ": a transform of torch.func runs it, and does not go through the BackwardHookFunction of a full hook, which has no "
        "setup_context"
    )
    model = build()
    getattr(model.inner, kind.value.rpartition(".")[2])(lambda *_: None)
    with pytest.raises(RuntimeError, match="must override the setup_context"):
        model(leaf())


@pytest.mark.parametrize("kind", [LEGACY, FULL, PRE])
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning", "ignore:`torch.jit.script:FutureWarning")
def test_a_module_of_torchscript_takes_no_hook(kind):
    model = nn.Sequential(torch.jit.script(nn.Linear(3, 3)))
    answer = hypothesis(traced(model, leaf()), "0", kind)
    assert answer.refused == f"{kind.value} raises RuntimeError: 0 is a module of TorchScript"
    with pytest.raises(RuntimeError, match="not supported on ScriptModules"):
        getattr(model[0], kind.value.rpartition(".")[2])(lambda *_: None)
