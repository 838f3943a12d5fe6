"""The table of hook kinds says what PyTorch does."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import graph as autograd_graph
from torch.nn.modules import module as module_hooks

from fxgrad.graph import HookKind
from fxgrad.graph.hook_kinds import HookMoment, HookOwner


def register(kind, function, *, module, tensor, node):
    """Call the registering function that the kind's value names; answer with its handle."""
    holder, _, name = kind.value.rpartition(".")
    if kind is HookKind.RETAIN_GRAD:
        return tensor.retain_grad()
    if kind is HookKind.MULTI_GRAD:
        return autograd_graph.register_multi_grad_hook((tensor,), function)
    if kind.is_global:
        return getattr(module_hooks, name)(function)
    return getattr({"Module": module, "Tensor": tensor, "Node": node}[holder], name)(function)


@pytest.fixture
def places():
    """A module, a tensor and the node that a hook of each kind can be on."""
    leaf = torch.ones(2, requires_grad=True)
    tensor = leaf * 2
    return {"module": torch.nn.Linear(2, 2), "leaf": leaf, "tensor": tensor, "node": tensor.grad_fn}


@pytest.mark.parametrize("kind", HookKind)
def test_pytorch_keeps_a_hook_where_the_table_says(kind, places):
    leaf = places.pop("leaf")
    if kind.owner is HookOwner.LEAF:
        places["tensor"] = leaf
    calls = []
    handle = register(kind, calls.append, **places)
    try:
        kept = eval(kind.kept_in, {"torch": torch, "handle": handle, **places})
        assert kept is True if kind is HookKind.RETAIN_GRAD else len(kept) == 1
    finally:
        if handle is not None:
            handle.remove()
            module_hooks._global_is_full_backward_hook = None


def test_the_engine_calls_the_hooks_at_one_node_in_the_order_of_their_moments(places):
    """retain_grad calls nobody; that it comes right after the tensor hooks shows in what it stores."""
    node, tensor, called = places["node"], places["tensor"], []
    kinds = {
        HookKind.NODE: node.register_hook,
        HookKind.NODE_PRE: node.register_prehook,
        HookKind.TENSOR: tensor.register_hook,
    }
    for kind, registering in kinds.items():
        registering(lambda *_, kind=kind: called.append(kind))
    tensor.sum().backward()
    assert called == sorted(kinds, key=lambda kind: kind.moment)


def test_a_post_accumulate_hook_comes_between_the_pre_hooks_and_the_post_hooks_of_a_leafs_node(places):
    leaf, called = places["leaf"], []
    node = places["node"].next_functions[0][0]
    kinds = {
        HookKind.NODE: node.register_hook,
        HookKind.POST_ACCUMULATE_GRAD: leaf.register_post_accumulate_grad_hook,
        HookKind.NODE_PRE: node.register_prehook,
        HookKind.TENSOR: leaf.register_hook,
    }
    for kind, registering in kinds.items():
        registering(lambda *_, kind=kind: called.append(kind))
    places["tensor"].sum().backward()
    assert called == sorted(kinds, key=lambda kind: kind.moment)


def test_every_moment_is_that_of_some_kind():
    assert {kind.moment for kind in HookKind} == set(HookMoment)


@pytest.mark.parametrize("column", ["short_name", "colour"])
def test_no_two_kinds_share_a_name_or_a_colour(column):
    assert len({getattr(kind, column) for kind in HookKind}) == len(HookKind)


@pytest.mark.parametrize(
    ("property_name", "kinds"),
    [
        ("is_legacy", {HookKind.MODULE_BACKWARD, HookKind.GLOBAL_BACKWARD}),
        ("is_full", {HookKind.MODULE_FULL_BACKWARD, HookKind.GLOBAL_FULL_BACKWARD}),
        ("is_full_pre", {HookKind.MODULE_FULL_BACKWARD_PRE, HookKind.GLOBAL_FULL_BACKWARD_PRE}),
        ("is_global", {kind for kind in HookKind if kind.name.startswith("GLOBAL")}),
        ("is_module", {kind for kind in HookKind if kind.name.startswith(("GLOBAL", "MODULE"))}),
        (
            "gets_grad_input",
            {
                HookKind.MODULE_BACKWARD,
                HookKind.GLOBAL_BACKWARD,
                HookKind.MODULE_FULL_BACKWARD,
                HookKind.GLOBAL_FULL_BACKWARD,
                HookKind.NODE,
            },
        ),
        ("on_several_tensors", {HookKind.MULTI_GRAD}),
        ("skips_leaves", {HookKind.RETAIN_GRAD}),
        ("is_called_for_leaf", {HookKind.TENSOR, HookKind.POST_ACCUMULATE_GRAD}),
        ("gets_one_gradient", {HookKind.TENSOR, HookKind.RETAIN_GRAD}),
    ],
)
def test_what_is_asked_of_a_kind_follows_from_its_row(property_name, kinds):
    assert {kind for kind in HookKind if getattr(kind, property_name)} == kinds
