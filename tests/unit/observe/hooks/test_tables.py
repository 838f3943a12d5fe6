"""Looking at the hooks on a node leaves nothing there."""

import pytest
import torch
from torch.autograd import Function

import fxgrad
from fxgrad.observe.hooks.tables import NodeTables


class Doubled(Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


@pytest.fixture(params=["C++ node", "Python node", "leaf"])
def node(request):
    """A node, and as long as the test runs the tensor: before torch 2.13 a Python node goes with it."""
    leaf = torch.ones(3, requires_grad=True)
    make = {"C++ node": lambda: leaf * 2, "Python node": lambda: Doubled.apply(leaf), "leaf": lambda: leaf}
    tensor = make[request.param]()
    yield torch.autograd.graph.get_gradient_edge(tensor).node
    del tensor


def hook(*_):
    return None


def tables_of(node):
    with NodeTables() as tables:
        return tables.after(node), tables.before(node)


def test_a_node_without_hooks_has_no_tables_and_gets_none(node):
    assert tables_of(node) == (None, None)
    assert tables_of(node) == (None, None)


def test_hooks_are_shown_in_the_tables_that_the_node_goes_on_to_use(node):
    after, before = node.register_hook(hook), node.register_prehook(hook)
    assert tables_of(node) == ({after.id: hook}, {before.id: hook})
    after.remove()
    assert tables_of(node) == ({}, {before.id: hook})


def test_hooks_that_are_registered_meanwhile_are_registered(node):
    with NodeTables():
        handle = node.register_hook(hook)
    assert tables_of(node)[0] == {handle.id: hook}


def test_pytorch_registers_as_before_afterwards():
    before = Function._register_hook
    with NodeTables():
        pass
    assert Function._register_hook is before
    assert "_register_hook" not in vars(Function)


def test_no_handle_is_made(node):
    before = torch.utils.hooks.RemovableHandle.next_id
    tables_of(node)
    assert torch.utils.hooks.RemovableHandle.next_id == before


@pytest.mark.parametrize("node_hooks", [True, False])
def test_capture_leaves_no_table_on_any_node(node_hooks):
    leaf = torch.ones(3, requires_grad=True)
    doubled = leaf * 2
    doubled.register_hook(hook)
    root = doubled.sum()
    fxgrad.capture(root, node_hooks=node_hooks)
    nodes = [root.grad_fn, doubled.grad_fn, torch.autograd.graph.get_gradient_edge(leaf).node]
    assert [tables_of(node) for node in nodes] == [(None, None)] * 3
