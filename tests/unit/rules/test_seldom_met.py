"""What rules say of programs that are seldom met: one of a kind where there are mostly several, many where there are few."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from lost_programs import Program as Lost
from lost_programs import data, detached, found, unused
from msgspec.structs import replace
from ruled_programs import show
from torch import nn

import fxgrad
from fxgrad.graph import Gradient, HookKind, HookSite
from fxgrad.graph.records import Hook
from fxgrad.rules import explain
from fxgrad.rules.fxg1_hook_returns import describe_return
from fxgrad.rules.fxg2_gradients import describe_lost_gradient, find_lost_gradients


def told(graph, code):
    return [explanation for explanation in explain(graph) if explanation.code == code]


class ByKeyword(nn.Module):
    """Calls a module with keyword arguments."""

    def __init__(self, *names):
        super().__init__()
        self.sums = Sums()
        self.sums.register_full_backward_hook(show)
        self.names = names

    def forward(self, x):
        return self.sums(torch.ones(3), **dict.fromkeys(self.names, x))


class Sums(nn.Module):
    def forward(self, x, left=0, right=0):
        return x + left + right


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize(
    ("names", "fix"),
    [
        (["left"], "left requires grad: pass it as a positional argument, or use Tensor.register_hook on it"),
        (
            ["left", "right"],
            "left and right require grad: pass them as positional arguments, or use Tensor.register_hook on them",
        ),
    ],
)
def test_arguments_that_require_grad_and_come_by_keyword_are_to_come_by_position(names, fix):
    x = torch.ones(3, requires_grad=True)
    (finding,) = told(fxgrad.trace(ByKeyword(*names), x).graph, "FXG105")
    assert finding.fix == fix
    assert fxgrad.verify(ByKeyword(*names), x).ok


def test_a_hook_on_what_torch_compile_returned_is_to_sit_on_the_module_inside(program):
    program.node("ExpBackward0_0", (4, 3), arguments=[("self", "AccumulateGrad_0")])
    program.leaf("AccumulateGrad_0", "x", 4, 3, kind="input")
    program.module("m", "OptimizedModule")
    program.modules[0] = replace(program.modules[0], wraps="m._orig_mod")
    program.site(program.hook(HookKind.MODULE_BACKWARD, "m"), fires=False, reason="it was never called")
    (finding,) = told(program.graph(), "FXG104")
    assert finding.fix == "register it on `m._orig_mod`, the module inside, before the first call"


def test_more_reasons_than_fit_are_counted(program):
    program.node("ExpBackward0_0", (4, 3), arguments=[("self", "AccumulateGrad_0")])
    program.leaf("AccumulateGrad_0", "x", 4, 3, kind="input")
    program.module("m", "M")
    hook = program.hook(HookKind.MODULE_BACKWARD, "m")
    for number in range(1, 8):
        call = program.call("m", "M", outputs=[program.ref(("result",), 4, 3)])
        program.site(hook, call, fires=False, reason=f"of reason {number}")
    (finding,) = told(program.graph(), "FXG104")
    assert finding.because.count("of reason ") == 3
    assert finding.because.endswith(" And 4 more reasons.")


def test_a_single_call_that_carries_a_removed_hook_carries_it(linear):
    linear.hooks[0] = replace(linear.hooks[0], active=False)
    linear.sites[:] = [replace(site, hook=linear.hooks[0]) for site in linear.sites]
    (finding,) = told(linear.graph(), "FXG110")
    assert "Call 1 still carries it, on AddmmBackward0_0." in finding.because


def test_several_calls_are_told_at_the_one_that_backward_reaches_first(lstm_cells):
    (finding,) = told(lstm_cells.graph(), "FXG111")
    assert finding.site == min(lstm_cells.sites, key=lambda site: site.order)


def test_a_single_question_for_a_value_has_no_more_places():
    model = nn.Sequential(nn.Linear(3, 3), Asks())
    findings = told(fxgrad.trace(model, torch.ones(2, 3)).graph, "FXG301")
    (finding,) = [finding for finding in findings if "would raise" in finding.headline]
    assert "more place" not in finding.because


def test_the_argument_that_comes_back_is_named_by_its_place():
    class Second(nn.Module):
        def forward(self, x, y, *rest):
            return rest[0]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.second = nn.Linear(3, 3), Second()
            self.second.register_backward_hook(show)

        def forward(self, x):
            return self.second(1, x, self.before(x))

    (finding,) = told(fxgrad.trace(Net(), torch.ones(2, 3)).graph, "FXG103")
    assert "Second.forward returned its argument `rest[0]` unchanged: " in finding.because


@pytest.mark.parametrize(("count", "more"), [(1, ""), (4, ""), (6, "; 2 more.")])
def test_parameters_further_down_than_fit_are_counted(count, more):
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            for number in range(count):
                self.register_parameter(f"weight{number}", nn.Parameter(torch.ones(3, 3)))

        def forward(self, x):
            return torch.cat([x, *[weight.t() for weight in self.parameters()]])

    model = Chain()
    model.register_backward_hook(show)
    (finding,) = told(fxgrad.trace(model, torch.ones(2, 3)).graph, "FXG101")
    verb = "is the gradient of" if count == 1 else "are the gradients of"
    assert f"Further down {verb} `weight0`" in finding.because
    assert (" more." in finding.because) == bool(more)
    assert more in finding.because


def test_a_single_result_in_a_container_is_to_be_returned_beside_it(program):
    program.node("ExpBackward0_0", (4, 3), arguments=[("self", "AccumulateGrad_0")])
    program.leaf("AccumulateGrad_0", "x", 4, 3, kind="input")
    program.module("m", "M")
    outputs = [program.ref(("result", 0), 4, 3), program.ref(("result", 1, 0), 4, 3, node="ExpBackward0_0")]
    call = program.call("m", "M", outputs=outputs)
    program.site(program.hook(HookKind.MODULE_FULL_BACKWARD_PRE, "m"), call, "ExpBackward0_0")
    (finding,) = told(program.graph(), "FXG107")
    assert "result[1][0] is inside a container." in finding.because
    assert finding.fix == "return it in one flat tuple, or use Tensor.register_hook on it"


class Asks(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


# FXG109


class WithNumber(nn.Module):
    """Calls a module with a tensor and a number."""

    def __init__(self):
        super().__init__()
        self.before, self.scaled = nn.Linear(3, 3), Scaled()

    def forward(self, x):
        return self.scaled(self.before(x), 2.0)


class Scaled(nn.Module):
    def forward(self, x, factor):
        return x * factor


@pytest.mark.parametrize("hooked", [False, True])
def test_a_full_hook_with_an_entry_for_a_number_changes_the_leaves_behind_the_tensor(hooked):
    model = WithNumber()
    if hooked:
        model.scaled.register_full_backward_hook(lambda module, grad_input, grad_output: (grad_input[0] * 2, None))
        (finding,) = told(fxgrad.trace(model, torch.ones(2, 3)).graph, "FXG109")
        assert "That changes .grad of `before.bias` and `before.weight`, and of no other leaf." in finding.because
    model(torch.ones(2, 3)).sum().backward()
    assert model.before.bias.grad.tolist() == [8.0 if hooked else 4.0] * 3


def test_a_tensor_hook_that_may_get_none_is_told_both():
    hook = Hook(0, HookKind.TENSOR, "x", "show")
    entry = Gradient(0, "self", "unknown", (2, 3), "float32", None, "its backward decides")
    site = HookSite(hook, None, 0, 0, (), (entry,), None, None, None, "")
    assert describe_return(site) == "None, or, if it gets a tensor, one of shape (2, 3)"


# FXG201, FXG202 and FXG204


def test_of_a_captured_graph_no_more_is_said_than_that_no_root_depends_on_a_parameter():
    model = Lost(unused)
    graph = fxgrad.capture(model(torch.ones(2, 3)), model).graph
    lost = find_lost_gradients(graph)
    assert [each.parameter.name for each in lost] == ["b.weight", "b.bias"]
    assert {describe_lost_gradient(graph, each) for each in lost} == {"no root depends on it"}


def test_more_places_than_fit_are_counted():
    def forward(model, x):
        return model.a(x) + model.c(x) + sum(model.b(x).detach() for _ in range(9))

    (finding,) = found(forward, "FXG201")
    shown = finding.because.count("At tests/")
    assert f" And at {9 - shown} more places. " in finding.because
    assert 0 < shown < 8


def test_an_output_without_a_gradient_is_to_be_used():
    def forward(model, x):
        return model.a(x) + model.c(x), model.b(x)

    (finding,) = found(forward, "FXG201", loss=lambda result: result[0].sum())
    assert finding.fix.startswith("use that output in what you call backward on")


def test_a_name_of_an_argument_does_not_stand_for_a_parameter():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.other = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

        def forward(self, weight):
            return self.other + weight.detach()

    (lost,) = find_lost_gradients(fxgrad.trace(Named(), torch.ones(3)).graph)
    assert (lost.parameter.name, lost.why.name) == ("weight", "UNUSED")


@pytest.mark.parametrize("forward", [data, detached])
def test_a_computed_tensor_of_a_captured_graph_is_not_said_to_be_older_than_forward(forward):
    model = Lost(forward)
    x = torch.ones(2, 3, requires_grad=True) * 2
    model.held = x
    assert told(fxgrad.capture(model(x), model).graph, "FXG202") == []
    assert [
        finding.headline for finding in explain(fxgrad.capture(model(x), model).graph) if "held" in finding.headline
    ] == []


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


class ReturnsNamedTuple(nn.Module):
    def forward(self, x):
        return Pair(x * 2, x * 3)


def test_a_full_hook_is_advised_where_a_named_tuple_is_returned_and_it_fires_there():
    model, x = nn.Sequential(ReturnsNamedTuple()), torch.ones(2, requires_grad=True)
    handle = model[0].register_backward_hook(show)
    (finding,) = told(fxgrad.trace(model, x).graph, "FXG101")
    assert "grad_output (result[0], result[1])" in finding.fix
    handle.remove()
    model[0]._is_full_backward_hook = None
    lengths = []
    model[0].register_full_backward_hook(lambda module, grad_input, grad_output: lengths.append(len(grad_output)))
    torch.autograd.backward(tuple(tensor.sum() for tensor in model(x)))
    assert lengths == [2]
