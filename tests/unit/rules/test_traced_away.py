"""FXG301 for hooks on what a GraphModule holds and never calls, held against backward."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import fx, nn

import fxgrad
from fxgrad.rules import explain


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return torch.relu(self.linear(x)) + 1


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.head = Block(), nn.Linear(3, 1)

    def forward(self, x):
        return self.head(self.block(x))


class Around(nn.Module):
    def __init__(self, traced):
        super().__init__()
        self.traced = traced

    def forward(self, x):
        return self.traced(x)


def symbolic():
    return fx.symbolic_trace(Model())


def exported():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export itself
        return torch.export.export(Model(), (torch.ones(2, 3),)).module()


def hooked(model, path):
    fired = []
    model.get_submodule(path).register_full_backward_hook(lambda *given: fired.append(path))
    return fired


def findings(model):
    graph = fxgrad.trace(model, torch.ones(2, 3, requires_grad=True)).graph
    return [found for found in explain(graph, unasked=True) if found.code in ("FXG104", "FXG301")]


CASES = [
    (symbolic, "block", True),
    (symbolic, "block.linear", False),
    (symbolic, "head", False),
    (symbolic, "", False),
    (exported, "block", True),
    (exported, "block.linear", True),
    (exported, "head", True),
    (exported, "", False),
]


@pytest.mark.parametrize(("trace", "path", "is_lost"), CASES)
def test_a_hook_is_told_as_lost_where_backward_does_not_call_it(trace, path, is_lost):
    model = trace()
    fired = hooked(model, path)
    told = [found.code for found in findings(model)]
    model(torch.ones(2, 3, requires_grad=True)).sum().backward()
    assert (told, fired) == ((["FXG301"], []) if is_lost else ([], [path]))


def test_the_nodes_that_the_module_became_are_named():
    model = symbolic()
    hooked(model, "block")
    (found,) = findings(model)
    assert found.headline.endswith("never fires: the graph of the model does not call the module")
    assert "Its operations are in there by themselves: `relu` and `add`." in found.because


def test_many_nodes_are_counted():
    model = exported()
    hooked(model, "block")
    assert ": `linear`, `relu` and `add`." in findings(model)[0].because
    longer = fx.symbolic_trace(nn.Sequential(nn.Sequential(*[Block() for _ in range(3)]), nn.Linear(3, 3)))
    hooked(longer, "0")
    assert ": `relu`, `add`, `relu_1` and 3 more nodes." in findings(longer)[0].because


def test_the_graph_module_may_be_inside_a_larger_model():
    model = Around(symbolic())
    hooked(model, "traced.block")
    (found,) = findings(model)
    assert "the graph of `traced` does not call the module" in found.headline


def test_a_module_that_was_not_called_for_another_reason_is_no_matter_of_tracing():
    model = Around(symbolic())
    model.unused = Block()
    hooked(model, "unused")
    assert [found.code for found in findings(model)] == ["FXG104"]
