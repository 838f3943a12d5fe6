"""Which other hooks one more hook moves, and which gradients it makes zeros."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import torch
from hooked_programs import PROGRAMS, around, inner, leaf
from module_hooks import FromFunction, Notebook, statuses
from msgspec.structs import replace
from probed_hooks import LOCAL
from torch import nn

from fxgrad.graph import BackwardGraph, HookKind, HookSite
from fxgrad.observe.probing import observe_with_hook
from fxgrad.predict import predict
from fxgrad.predict.moved import find_moved_sites, find_zero_gradients, match_nodes

LEGACY, FULL, PRE = LOCAL


def both(model: nn.Module, *args: Any, module: str = "", kind: HookKind = FULL) -> tuple[BackwardGraph, BackwardGraph]:
    run = observe_with_hook(model, args, {}, module=module, kind=kind)
    assert run.after is not None
    return run.before, run.after


def moved(
    model: nn.Module, *args: Any, module: str = "", kind: HookKind = FULL
) -> tuple[tuple[HookSite, HookSite], ...]:
    run = observe_with_hook(model, args, {}, module=module, kind=kind)
    assert run.after is not None
    return find_moved_sites(predict(run.before), predict(run.after), run.hook)


def moved_in(name: str, path: str, kind: HookKind) -> tuple[tuple[HookSite, HookSite], ...]:
    with closing(Notebook()) as notebook:
        model, args, _ = PROGRAMS[name](notebook)
        return moved(model, *args, module=path, kind=kind)


# Nodes


def test_each_node_without_the_hook_has_its_own_with_it():
    before, after = both(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), leaf(), module="1")
    matched = match_nodes(before, after)
    assert sorted(matched) == [node.id for node in before.nodes]
    assert [after.nodes[matched[node.id]].label for node in before.nodes] == [node.label for node in before.nodes]
    assert {after.nodes[rank].name for rank in {*range(len(after.nodes))} - {*matched.values()}} == {
        "BackwardHookFunctionBackward"
    }


def test_the_nodes_of_full_hooks_that_are_there_have_theirs():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].register_full_backward_hook(lambda *_: None)
    before, after = both(model, leaf(), module="1")
    names = [after.nodes[match].label for node, match in sorted(match_nodes(before, after).items())]
    assert names.count("BackwardHookFunctionBackward_0") == 0
    assert [name for name in names if name.startswith("BackwardHook")] == [
        "BackwardHookFunctionBackward_2",
        "BackwardHookFunctionBackward_3",
    ]


def self_attention() -> nn.Module:
    """With a full hook it computes query, key and value one by one, as they are no longer one tensor."""
    return around(nn.MultiheadAttention(4, 2, batch_first=True), lambda self, x: self.m(x, x, x, need_weights=False)[0])


def test_where_forward_does_something_else_with_the_hook_leaves_alone_are_matched():
    before, after = both(self_attention(), leaf(2, 3, 4), module="m")
    matched = match_nodes(before, after)
    assert 0 < len(matched) < len(before.nodes)
    assert {node.variable for node in before.nodes if node.variable} == {
        after.nodes[matched[node.id]].variable for node in before.nodes if node.variable
    }


# Hooks


def test_a_full_hook_moves_the_legacy_hook_of_a_parent_that_returns_the_same_tensor():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model.register_backward_hook(lambda *_: None)
    ((before, after),) = moved(model, leaf(), module="1")
    assert len(before.grad_input) == 3
    assert after.reason == "the grad_fn of what Sequential returns"
    assert statuses(after.grad_input) == ["tensor"]


def test_a_legacy_hook_moves_nothing():
    assert moved_in("legacy_hooks_beside_hooks_on_nodes", "m", LEGACY) == ()


def test_a_site_whose_entry_has_another_shape_with_the_hook_is_moved():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].register_backward_hook(lambda *_: None)
    run = observe_with_hook(model, (leaf(),), {}, module="1", kind=LEGACY)
    assert run.after is not None
    before, after = predict(run.before), predict(run.after)
    (site,) = before.sites
    ((first, *others),) = (site.grad_input or (),)
    resized = replace(site, grad_input=(replace(first, shape=(7,)), *others))
    assert find_moved_sites(before, after, run.hook) == ()
    assert len(find_moved_sites(replace(before, sites=(resized,)), after, run.hook)) == 1


def test_a_hook_on_another_module_moves_no_full_hook():
    assert moved_in("sequential_with_full_hooks", "2.0", FULL) == ()


def test_a_site_that_only_comes_later_is_not_moved():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].register_full_backward_hook(lambda *_: None)
    assert moved(model, leaf(), module="1") == ()


def test_hooks_on_the_result_move_and_those_that_forward_put_on_it_stay():
    pairs = moved_in("hooks_on_tensors_and_nodes", "m", FULL)
    assert {before.hook.function for before, _ in pairs} == {
        "result, outside",
        "node of the result",
        "argument, inside",
    }
    assert all(before.hook.function == after.hook.function for before, after in pairs)


def test_a_hook_on_a_parameter_stays_where_forward_does_something_else_with_the_hook():
    model = self_attention()
    model.m.in_proj_weight.register_hook(lambda grad: None)
    assert moved(model, leaf(2, 3, 4), module="m") == ()


def test_one_function_that_forward_registers_twice_is_told_apart_by_its_order():
    def shared(grad: torch.Tensor) -> None:
        pass

    def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        for factor in (2, 3):
            x = x * factor
            x.register_hook(shared)
        return x * model.weight

    assert moved(FromFunction(forward), inner(3)) == ()


def test_one_function_on_two_leaves_without_names_is_told_apart_by_its_node():
    def shared(grad: torch.Tensor) -> None:
        pass

    one, other = leaf(3), leaf(3)
    one.register_hook(shared)
    other.register_hook(shared)
    model = around(FromFunction(lambda self, x, y: y * 2), lambda self, x: self.m(x, one) + x * other)
    assert moved(model, leaf(3), module="m") == ()


def test_a_hook_on_an_unused_argument_is_called_then_with_zeros():
    pairs = moved_in("unused_leaf", "", FULL)
    changes = {before.hook.function: (before.fires, after.fires) for before, after in pairs}
    assert changes == {"unused": (False, True), "unused, after": (False, True)}


def test_a_hook_behind_an_unused_argument_that_only_the_graph_with_the_hook_has_is_moved():
    history = leaf(3) * 2
    history.register_hook(lambda grad: None)
    model = FromFunction(lambda self, x, y: x * self.weight)
    ((before, after),) = moved(model, leaf(3), history * 1)
    assert (before.fires, before.node, after.fires) == (False, None, True)


def test_a_kind_that_the_hook_changes_is_moved():
    wrapper = torch.compile(nn.Linear(3, 2), backend="eager")
    wrapper._orig_mod.register_backward_hook(lambda *_: None)  # type: ignore[attr-defined]
    ((before, after),) = moved(wrapper, leaf())  # type: ignore[arg-type]
    assert [site.hook.kind for site in (before, after)] == [LEGACY, FULL]


def a_hook_on_result_and_root(notebook: Notebook) -> nn.Module:
    """Called for each of its tensors, as PyTorch does not count the root; with a full hook around, the root is another."""

    def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        hidden = model.inner(x)
        result = hidden * 2
        notebook.on_several([hidden, result], "several", "all")
        return result

    model = FromFunction(forward)
    model.inner = nn.Linear(3, 3)
    return model


def test_a_multi_grad_hook_that_would_be_called_once_less_is_moved_at_each_call():
    with closing(Notebook()) as notebook:
        pairs = moved(a_hook_on_result_and_root(notebook), leaf(4, 3))
        assert [(before.times, after.times) for before, after in pairs] == [(1, 1), (1, 0)]
        assert [statuses(before.grad_output) for before, _ in pairs] == [["none", "tensor"], ["tensor", "none"]]
        assert statuses(pairs[0][1].grad_output) == ["tensor", "tensor"]
        model = a_hook_on_result_and_root(notebook)
        model.register_full_backward_hook(lambda *_: None)
        notebook.clear()
        model(leaf(4, 3)).sum().backward()
        assert [called.hook for called in notebook.log] == ["several"]


# Zeros


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.inner = FromFunction(lambda inner, x, y: x * inner.weight)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.inner(x, y * self.weight)


def test_what_is_given_and_not_used_gets_zeros():
    x, y = leaf(3), leaf(3)
    model = Unused()
    assert find_zero_gradients(*both(model, x, y, module="inner")) == ("weight", "y")
    model.inner.register_full_backward_hook(lambda *_: None)
    model(x, y).sum().backward()
    assert (y.grad, model.weight.grad) != (None, None)
    assert not y.grad.any()
    assert not model.weight.grad.any()


def test_a_leaf_without_a_name_does_not_stand_for_another():
    first, second = leaf(3), leaf(3)
    model = around(FromFunction(lambda self, x, y: x * first), lambda self, x: self.m(x, second))
    assert find_zero_gradients(*both(model, leaf(3), module="m")) == ()


def test_a_legacy_hook_makes_no_zeros():
    assert find_zero_gradients(*both(Unused(), leaf(3), leaf(3), module="inner", kind=LEGACY)) == ()
