"""What stands behind an edge that leads nowhere."""

import pytest
import torch
from module_hooks import FromFunction

import fxgrad
from fxgrad.graph import Edge
from fxgrad.observe.metas import MetaTable
from fxgrad.observe.operands import Operands

hooks_can_be_seen = pytest.mark.skipif(
    not hasattr(torch._C._autograd.SavedTensor, "unpack_hook"), reason="torch 2.9 does not tell of unpack hooks"
)


def null_edge(function):
    (node,) = [node for node in fxgrad.trace(FromFunction(function)).graph.nodes if node.name == "MulBackward0"]
    return next(edge for edge in node.edges if edge.next_node is None)


@hooks_can_be_seen
def test_a_tensor_that_the_node_saved_is_named():
    edge = null_edge(lambda self: self.weight * torch.full((3,), 2.0))
    assert (edge.value.fx_node, edge.operand.shape, edge.null_reason) == ("full", (3,), "it requires no grad")


def test_nothing_is_unpacked_where_the_user_has_an_unpack_hook():
    unpacked = []

    def run(self):
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpacked.append):
            return self.weight * torch.full((3,), 2.0)

    assert null_edge(run).value is None
    assert unpacked == []


def test_nothing_is_unpacked_where_torch_does_not_tell_whether_there_is_a_hook():
    class Node:
        _raw_saved_other = object()

        @property
        def _saved_other(self):
            raise AssertionError

    edge = Edge("other", None, None, 0)
    assert Operands(MetaTable())._with_operand(edge, Node()) == edge
