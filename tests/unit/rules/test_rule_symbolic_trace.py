"""FXG301 where symbolic_trace fails: held against symbolic_trace itself."""

import re

import pytest
import torch
from torch import nn

import fxgrad
from fxgrad.rules import explain_graph

pytestmark = pytest.mark.filterwarnings("ignore")  # of PyTorch, on numbers made of tensors that require grad


class Program(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run, self.linear, self.bias = run, nn.Linear(3, 3), nn.Parameter(torch.ones(3))
        self.register_buffer("count", torch.ones(()))

    def forward(self, x, *, flag=None):
        return self.run(self, self.linear(x))


def in_a_condition(module, x):
    return x * 2 if x.sum() > 0 else x


def of_a_parameter(module, x):
    return x * 2 if module.bias.sum() > 0 else x


def as_a_float(module, x):
    return x * float(x.sum())


def as_an_index(module, x):
    return x[:, : max(1, int(x.argmax()) % 3)]


def in_a_loop(module, x):
    while x.abs().sum() > 1:
        x = x / 2
    return x


def in_an_assertion(module, x):
    assert x.isfinite().all()
    return x


def of_what_is_detached(module, x):
    return x * 2 if (x.detach() > 0).any() else x


FAILING = (in_a_condition, of_a_parameter, as_a_float, as_an_index, in_a_loop, in_an_assertion, of_what_is_detached)


def of_a_buffer(module, x):
    return x * 2 if module.count > 0 else x


def of_a_constant(module, x):
    return x * 2 if torch.ones(()) > 0 else x


def by_item_alone(module, x):
    return x * x.sum().item()


def without_a_question(module, x):
    return torch.where(x > 0, x, -x)


TRACED = (of_a_buffer, of_a_constant, by_item_alone, without_a_question)


def told(model, *args):
    trace = fxgrad.trace(model, args or (torch.ones(2, 3),))
    found = [finding for finding in explain_graph(trace.graph) if finding.code == "FXG301"]
    return [finding for finding in found if "would raise" in finding.headline]


def fails(model):
    try:
        torch.fx.symbolic_trace(model)
    except (torch.fx.proxy.TraceError, TypeError):
        return True
    return False


@pytest.mark.parametrize("run", [*FAILING, *TRACED])
def test_what_is_said_is_what_symbolic_trace_does(run):
    model = Program(run)
    assert fails(model) == bool(told(model)) == (run in FAILING)


def test_a_question_inside_a_module_that_is_called_as_a_whole_does_not_matter():
    class Loss(nn.CrossEntropyLoss):
        __module__ = "torch.nn.modules.loss"  # what makes it a leaf for torch.fx

        def forward(self, x):
            return x.sum() if x.sum() > 0 else x.mean()

    model = nn.Sequential(nn.Linear(3, 3), Loss())
    assert (fails(model), told(model)) == (False, [])
    inside = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Program(in_a_condition)))
    assert (fails(inside), len(told(inside))) == (True, 1)


def test_a_question_of_the_loss_function_is_none_of_forward():
    trace = fxgrad.trace(nn.Linear(3, 3), torch.ones(2, 3), loss=lambda y: y.sum() if y.sum() > 0 else y.mean())
    assert [found for found in explain_graph(trace.graph) if found.code == "FXG301"] == []


def test_the_line_is_told_and_how_many_more_there_are():
    (finding,) = told(Program(lambda module, x: in_a_condition(module, as_a_float(module, x))))
    assert (finding.severity, finding.headline) == (
        "info",
        "torch.fx.symbolic_trace would raise: forward asks for the value of a tensor",
    )
    assert re.sub(r"[\w/]+/test_rule_symbolic_trace.py:\d+", "HERE", finding.because) == (
        "At HERE, `return x * float(x.sum())`, forward calls `float` on a tensor that depends on its arguments or "
        "parameters. symbolic_trace has a Proxy there, which has no value, and raises where it comes to that. So it "
        "does at 1 more place. (torch/fx/proxy.py, Proxy.__bool__ and TracerBase.to_bool)"
    )
    assert finding.source is not None
    assert finding.source.code == "return x * float(x.sum())"
    assert finding.fix.startswith("compute it with torch operations (torch.where); or use fxgrad's trace.forward")


def test_the_recorded_forward_that_is_advised_is_there_for_such_a_model():
    model, x = Program(in_a_condition), torch.ones(2, 3)
    recorded = fxgrad.trace(model, x).forward_module(model)
    assert torch.equal(recorded(x), model(x))
