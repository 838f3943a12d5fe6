"""What stands behind an edge that leads nowhere."""

import pytest
import torch
from module_hooks import FromFunction

import fxgrad
from fxgrad.graph import Edge
from fxgrad.observe.autograd.operands import Operands
from fxgrad.observe.autograd.walk import WalkedGraph
from fxgrad.observe.record.tensors import MetaTable
from tests.support.needs import needs_saved_tensors


def null_edge(function):
    (node,) = [node for node in fxgrad.trace(FromFunction(function)).graph.nodes if node.name == "MulBackward0"]
    return next(edge for edge in node.edges if edge.next_node is None)


@needs_saved_tensors
def test_a_tensor_that_the_node_saved_is_named():
    edge = null_edge(lambda self: self.weight * torch.full((3,), 2.0))
    assert (edge.value.fx_node, edge.operand.shape, edge.null_reason) == ("full", (3,), "it does not require grad")


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
    operands = Operands(WalkedGraph([], MetaTable()), MetaTable(), {}, lambda _: None)
    assert operands._complete_from_saved(edge, Node()) == edge


SIZES = ((2, 2), (2, 3), (2, 4))
"""Of the tensors that are passed as a list; the first requires grad."""


def joined(join):
    """The edges of the node that a function made of a list of three tensors, and what a real hook on it gets."""

    class Joined(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(SIZES[0]))

        def forward(self, *others):
            results = join([self.weight, *others])
            return results if isinstance(results, torch.Tensor) else tuple(results)

    model, others = Joined(), tuple(map(torch.ones, SIZES[1:]))
    node = fxgrad.trace(model, others).graph.nodes[0]
    received = []
    results = model(*others)
    first = results if isinstance(results, torch.Tensor) else results[0]
    first.grad_fn.register_hook(lambda grad_input, _: received.extend(grad_input))
    torch.autograd.backward([root.sum() for root in ([results] if first is results else results) if root.requires_grad])
    return node.edges, received


@pytest.mark.parametrize(
    "join",
    [
        lambda tensors: torch.cat(tensors, 1),
        lambda tensors: torch.cat(dim=1, tensors=tuple(tensors)),
    ],
    ids=["by position", "by name"],
)
def test_members_of_a_list_are_what_was_passed(join):
    edges, received = joined(join)
    assert [edge.operand.shape for edge in edges[1:]] == [tuple(grad.shape) for grad in received[1:]] == [*SIZES[1:]]
    assert [edge.value.fx_node for edge in edges[1:]] == ["others_0", "others_1"]
    assert {edge.null_reason for edge in edges[1:]} == {"it does not require grad"}


class Reversing(torch.Tensor):
    """Passes lists on in the opposite order."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.cat:
            args = (args[0][::-1], *args[1:])
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))


def test_a_list_that_a_subclass_passed_on_otherwise_is_not_told():
    edges, received = joined(lambda tensors: torch.cat([tensors[0], tensors[1].as_subclass(Reversing)], 1))
    assert [tuple(grad.shape) for grad in received] == [SIZES[1], SIZES[0]]
    assert [edge.operand for edge in edges] == [None, None]


def test_a_list_that_another_function_made_of_the_arguments_is_not_named():
    edges, _ = joined(torch.hstack)
    assert [edge.operand for edge in edges] == [None, None, None]


def test_lists_of_several_names_are_told_apart():
    edges, _ = joined(lambda tensors: torch._foreach_mul(other=tensors, self=[torch.ones(4, 1, 1), *tensors[1:]]))
    assert {edge.argument: edge.operand and edge.operand.shape for edge in edges} == {
        "self[0]": (4, 1, 1),
        "self[1]": (2, 3),
        "self[2]": (2, 4),
        "other[0]": None,
        "other[1]": (2, 3),
        "other[2]": (2, 4),
    }


def test_a_tensor_that_changes_its_shape_later_is_told_as_it_was():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2, 2))

        def forward(self, x):
            result = torch.cat([self.weight, x], 1)
            x.t_()
            return result

    nodes = fxgrad.trace(Model(), (torch.ones(2, 3),)).graph.nodes
    assert nodes[0].edges[1].operand.shape == (2, 3)
