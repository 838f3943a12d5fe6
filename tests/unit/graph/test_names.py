"""What nodes, and the entries of their grad tuples, are called."""

import pytest

from fxgrad.graph import Node, NodeKind
from fxgrad.graph.names import describe_grad_inputs, describe_grad_outputs, join_labels, name_node_function


def node(name, kind=NodeKind.FUNCTION, schema=None, *, number=0, label=None):
    return Node(number, label or f"{name}_{number}", name, kind, schema, None, (), (), ())


ADDMM = node("AddmmBackward0", schema="aten::addmm(Tensor self, Tensor mat1, Tensor mat2) -> Tensor")
SCALE = node("ScaleBackward", NodeKind.CUSTOM_FUNCTION)
HOOK = node("BackwardHookFunctionBackward", NodeKind.BACKWARD_HOOK)
LEAF = node("torch::autograd::AccumulateGrad", NodeKind.ACCUMULATE_GRAD)
PASSED_ON = "tensor that a full hook's BackwardHookFunction passed on"


@pytest.mark.parametrize(
    ("node", "function"),
    [(ADDMM, "aten::addmm"), (SCALE, "Scale.forward"), (LEAF, "AccumulateGrad"), (node("A\nB"), "A\\nB")],
)
def test_a_function_is_called_by_its_schema_its_class_or_its_node(node, function):
    assert name_node_function(node) == function


@pytest.mark.parametrize(
    ("node", "grad_input", "grad_output"),
    [
        (ADDMM, "differentiable argument of aten::addmm", "differentiable result of aten::addmm"),
        (SCALE, "tensor argument of Scale.forward", "value that Scale.forward returned"),
        (HOOK, PASSED_ON, PASSED_ON),
        (LEAF, "next function of AccumulateGrad", "result of AccumulateGrad"),
    ],
)
def test_entries_belong_to_what_the_kind_of_node_has_them_for(node, grad_input, grad_output):
    assert describe_grad_inputs(node) == grad_input
    assert describe_grad_outputs(node) == grad_output


def test_the_name_that_neighbours_share_is_written_once():
    nodes = [node(name, number=number) for number, name in enumerate(["Mul", "Mul", "Add", "Mul"])]
    assert join_labels(nodes) == "Mul_0, _1, Add_2 and Mul_3"
    assert join_labels(nodes, most=2) == "Mul_0, _1 and 2 more"
