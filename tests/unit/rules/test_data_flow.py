"""The recorded forward as a graph of values."""

import torch
from msgspec.structs import replace
from torch import nn

import fxgrad
from fxgrad.rules import explain
from fxgrad.rules.data_flow import DataFlow


class Program(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.run = forward

    def forward(self, x):
        return self.run(x)


def changed_in_place(x):
    hidden = x * 2
    seen = hidden.view(-1)
    before = hidden + 1
    seen.mul_(3)
    return hidden + before


def test_a_change_in_place_of_a_view_is_a_source_of_later_uses_of_its_base_and_of_no_earlier_one():
    graph = fxgrad.trace(Program(changed_in_place), torch.ones(2, requires_grad=True)).graph
    names = {fx_node.target.rpartition(".")[2]: fx_node.name for fx_node in graph.forward}
    before, after = (fx_node.name for fx_node in graph.forward if fx_node.target.endswith("add"))
    flow = DataFlow(graph)
    assert flow.sources[before] == (names["mul"],)
    assert flow.sources[after] == (names["mul"], before, names["mul_"])
    assert flow.users[names["mul"]] == [names["view"], before, after]
    assert [fx_node.name for fx_node in flow.list_changers(names["mul"])] == [names["mul_"]]


def test_an_operation_that_uses_itself_is_no_source_of_itself():
    """No recorded forward has one, but a damaged trace may."""
    graph = fxgrad.trace(nn.Linear(3, 3), torch.ones(2, 3)).graph
    first, *rest = graph.forward
    assert DataFlow(replace(graph, forward=(replace(first, inputs=(first.name,)), *rest))).sources[first.name] == ()


def test_an_operation_that_uses_a_later_one_is_followed_only_onwards():
    """No recorded forward has one, but a damaged trace may."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    graph = fxgrad.trace(model, torch.ones(2, 3)).graph
    first, *rest = graph.forward
    circular = replace(graph, forward=(replace(first, inputs=(rest[-1].name,)), *rest))
    assert DataFlow(circular).sources[first.name] == ()
    assert [told.code for told in explain(circular)] == [told.code for told in explain(graph)]
