"""The records of nodes: what is read of every kind of node."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from walked_graphs import Scaled, leaf, records

from fxgrad.graph import Edge, Node, NodeKind
from fxgrad.observe.autograd.node_records import NodeNotes, make_node_records, name_copy_slices_edges
from fxgrad.observe.autograd.walk import walk


def edges(node: Node) -> list[tuple[str | None, int | None, int]]:
    return [(edge.argument, edge.next_node, edge.input_nr) for edge in node.edges]


class Twice(torch.autograd.Function):
    """Its context is given the names of what every node has."""

    @staticmethod
    def forward(ctx, x):
        ctx.name = ctx._sequence_nr = "the user's"
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


# Kinds


def test_a_generated_node_has_the_schema_and_argument_names_of_its_function():
    node, leaf_node = records(torch.mm(leaf(2, 3), torch.ones(3, 4)))
    assert (node.label, node.name, node.kind) == ("MmBackward0_0", "MmBackward0", NodeKind.FUNCTION)
    assert node.schema == "aten::mm(Tensor self, Tensor mat2) -> Tensor"
    assert edges(node) == [("self", leaf_node.id, 0), ("mat2", None, 0)]
    assert node.edges[1].null_reason == "it did not require grad when it was made or used, or is not a tensor"
    assert [meta.shape for meta in node.grad_outputs] == [(2, 4)]


def test_nodes_of_one_name_with_other_numbers_of_edges_have_their_own_argument_names():
    x = leaf()
    pair = torch.cat([x, x])
    both = torch.cat([pair, x, x])
    assert [edge.argument for edge in records(both)[0].edges] == ["tensors[0]", "tensors[1]", "tensors[2]"]
    assert [edge.argument for edge in records(both)[1].edges] == ["tensors[0]", "tensors[1]"]


def test_the_one_class_of_foreach_nodes_does_not_mix_up_their_names():
    x = leaf()
    (product,), (root,) = torch._foreach_mul([x], [x]), torch._foreach_sqrt([x])
    assert type(product.grad_fn) is type(root.grad_fn)
    assert [node.name for node in records(product + root)[:3]] == [
        "AddBackward0",
        "ForeachMulBackward0List",
        "ForeachSqrtBackward0",
    ]


def test_an_edge_tells_which_gradient_of_the_next_node_it_adds_to():
    _, upper_triangle = torch.linalg.qr(leaf(2, 2))
    node = records(upper_triangle * 2)[0]
    assert edges(node) == [("self", 1, 1), ("other", None, 0)]


def test_accumulate_grad_names_its_leaf_and_takes_no_sequence_number():
    x = leaf()
    walked = walk([(x * 2).grad_fn])
    node = make_node_records(walked, NodeNotes({1: "the leaf"}))[1]
    assert (node.name, node.kind) == ("torch::autograd::AccumulateGrad", NodeKind.ACCUMULATE_GRAD)
    assert (node.label, node.variable, node.sequence_nr, node.edges) == ("AccumulateGrad_0", "the leaf", None, ())


def test_a_custom_function_has_the_names_of_its_forward():
    node, leaf_node = records(Scaled.apply(leaf(), 3))
    assert (node.label, node.kind, node.schema) == ("ScaledBackward_0", NodeKind.CUSTOM_FUNCTION, None)
    assert edges(node) == [("x", leaf_node.id, 0)]
    assert node.needs_input_grad == (True, False)


def test_an_argument_of_a_custom_function_that_requires_no_grad_has_an_edge_that_leads_nowhere():
    node = records(Scaled.apply(leaf(), torch.ones(3)))[0]
    assert node.edges[1] == Edge("factor", None, None, 0, "it did not require grad when it was made or used")


def test_attributes_of_the_users_context_do_not_hide_what_the_node_is():
    output = Twice.apply(leaf())
    before = output.grad_fn
    assert before.name == "the user's"
    node = records(output)[0]
    assert node.name == "TwiceBackward"
    assert node.sequence_nr == type(before)._sequence_nr(before)


def test_a_full_module_hook_shows_as_a_backward_hook_node_on_each_side():
    module = torch.nn.Tanh()
    module.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    assert [node.kind for node in records(module(leaf() * 1))] == [
        NodeKind.BACKWARD_HOOK,
        NodeKind.FUNCTION,
        NodeKind.BACKWARD_HOOK,
        NodeKind.FUNCTION,
        NodeKind.ACCUMULATE_GRAD,
    ]


def test_an_in_place_operation_on_a_view_shows_as_copy_slices_on_its_base():
    base = leaf(4) * 1
    base[:2].mul_(2)
    node = records(base)[0]
    assert (node.name, node.kind) == ("torch::autograd::CopySlices", NodeKind.COPY_SLICES)
    assert edges(node)[0] == ("base", 1, 0)


def test_a_reentrant_checkpoint_is_one_node():
    node = records(checkpoint(torch.tanh, leaf() * 1, use_reentrant=True))[0]
    assert (node.name, node.kind) == ("CheckpointFunctionBackward", NodeKind.CHECKPOINT)


def test_a_non_reentrant_checkpoint_leaves_the_nodes_of_what_it_runs():
    assert [node.name for node in records(checkpoint(torch.tanh, leaf() * 1, use_reentrant=False))[:2]] == [
        "TanhBackward0",
        "MulBackward0",
    ]


def test_a_node_that_raises_when_it_is_run_is_an_error():
    output = torch._C._functions.DelayedError("stop", 1)(leaf() * 2)
    node, number = records(output)[0], output.grad_fn._sequence_nr()
    assert (node.name, node.kind) == ("torch::autograd::Error", NodeKind.ERROR)
    assert node.sequence_nr == (None if number == 2**64 - 1 else number)  # torch 2.10 gives it one


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
def test_a_differentiable_graph_of_torchscript_is_one_scripted_node():
    scripted = torch.jit.script(scripted_function)
    for _ in range(4):  # the first runs of a scripted function are profiled, and make eager nodes
        output = scripted(leaf() * 1, leaf())
    node = records(output)[0]
    assert (node.kind, node.schema) == (NodeKind.SCRIPTED, None)
    assert [edge.argument for edge in node.edges] == [None] * len(node.edges)


def scripted_function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x * y) + torch.sigmoid(x)


# In-place operations on views


def in_place_on_a_view(operation):
    base = torch.rand(4, requires_grad=True).clone()
    operation(base[:2])
    return base.grad_fn


def test_the_first_edge_of_copy_slices_goes_to_the_base():
    node = in_place_on_a_view(lambda view: view.exp_())
    assert name_copy_slices_edges(node, len(node.next_functions)) == (("base", None),)


def test_the_other_edges_of_copy_slices_are_those_of_the_operation_where_that_can_be_seen():
    node = in_place_on_a_view(lambda view: view.addcmul_(torch.rand(2, requires_grad=True), torch.rand(2)))
    names = [argument for argument, _ in name_copy_slices_edges(node, len(node.next_functions))]
    assert names == (["base", "tensor1", "tensor2"] if hasattr(node, "_wrapped_node") else ["base", None, None])


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor, scale):
        ctx.mark_dirty(x)
        return x.mul_(factor * scale)

    @staticmethod
    def backward(ctx, grad):
        return grad, None, None


def test_copy_slices_may_hold_a_python_function():
    node = in_place_on_a_view(lambda view: Scale.apply(view, 2, torch.rand(2, requires_grad=True)))
    names = [argument for argument, _ in name_copy_slices_edges(node, len(node.next_functions))]
    assert names == (["base", "scale"] if hasattr(node, "_wrapped_node") else ["base", None])
