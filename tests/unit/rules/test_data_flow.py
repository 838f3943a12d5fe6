"""The recorded forward as a graph of values."""

import torch
from msgspec.structs import replace
from torch import nn

import fxgrad
from fxgrad.rules import explain_graph
from fxgrad.rules.data_flow import DataFlow


def test_an_operation_that_uses_a_later_one_is_followed_only_onwards():
    """No recorded forward has one, but a damaged trace may."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    graph = fxgrad.trace(model, torch.ones(2, 3)).graph
    first, *rest = graph.forward
    circular = replace(graph, forward=(replace(first, inputs=(rest[-1].name,)), *rest))
    assert DataFlow(circular).sources[first.name] == ()
    assert [told.code for told in explain_graph(circular)] == [told.code for told in explain_graph(graph)]
