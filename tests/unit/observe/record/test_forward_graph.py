"""The recorded graph: what its nodes say, and which of them made what."""

from __future__ import annotations

import itertools
import operator

import pytest
import torch
from module_hooks import FromFunction
from msgspec.structs import replace
from recorded_forward import meta_problems, tie_problems
from recorded_functions import Received, Twice, forward_of, node_named, problems
from torch import nn
from torch.autograd import Function, forward_ad

import fxgrad
from fxgrad.observe.autograd.provenance import OUTSIDE


def test_a_call_says_in_which_modules_it_ran():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Tanh())
    graph = fxgrad.trace(model, (torch.ones(2),)).forward
    assert node_named(graph, "linear").meta["nn_module_stack"] == {
        "": ("", nn.Sequential),
        "0": ("0", nn.Sequential),
        "0.0": ("0.0", nn.Linear),
    }


def test_a_call_has_the_line_it_was_made_at():
    graph = forward_of(lambda w: w.sin())
    assert "in <lambda>\n    graph = forward_of(lambda w: w.sin())\n" in node_named(graph, "sin").meta["stack_trace"]


def test_the_sequence_window_of_a_call_holds_the_nodes_that_it_made():
    trace = fxgrad.trace(nn.Linear(2, 3), (torch.ones(1, 2),))
    start, end = node_named(trace.forward, "linear").meta["sequence_window"]
    numbers = [node.sequence_nr for node in trace.graph.nodes if node.fx_node == "linear"]
    assert sorted(numbers) == list(range(start, end))


def test_the_tensor_meta_of_several_results_is_a_tuple():
    meta = node_named(forward_of(lambda w: w.sort().values), "sort").meta["tensor_meta"]
    assert [each.dtype for each in meta] == [torch.float32, torch.int64]


def test_the_tensor_meta_of_a_result_that_out_has_resized_is_that_from_before():
    graph = forward_of(lambda w: w * torch.add(torch.ones(3), 1, out=torch.empty(0)))
    assert node_named(graph, "empty").meta["tensor_meta"].shape == (0,)


def test_a_part_of_an_argument_is_described_by_all_tensors_in_it():
    graph = forward_of(lambda w, batch: w * batch["pair"][1], {"pair": (torch.ones(2), torch.ones(3))})
    first, second = [node for node in graph.nodes if node.target is operator.getitem]
    assert [tuple(meta.shape) for meta in first.meta["tensor_meta"]] == [(2,), (3,)]
    assert second.meta["tensor_meta"].shape == (3,)


def test_a_placeholder_is_named_after_the_parameter_of_forward():
    model = nn.MultiheadAttention(4, 1)
    graph = fxgrad.trace(model, (torch.ones(1, 4),) * 3, {"need_weights": False}).forward
    assert [node.name for node in graph.nodes if node.op == "placeholder"] == ["query", "key", "value", "need_weights"]


def test_calls_in_the_loss_are_no_part_of_forward():
    graph = fxgrad.trace(nn.Linear(2, 1), (torch.ones(2),), loss=lambda y: y.exp().sum()).forward
    assert [node.name for node in graph.nodes if node.op == "call_method"] == []


def test_the_grad_mode_is_set_where_it_differs_and_set_back():
    def run(w):
        with torch.no_grad():
            frozen = w.exp()
        return w * frozen

    calls = [node for node in forward_of(run).nodes if node.op.startswith("call")]
    shown = [(node.name, node.args[0] if node.target is torch._C._set_grad_enabled else None) for node in calls]
    assert shown == [("_set_grad_enabled", False), ("exp", None), ("_set_grad_enabled_1", True), ("mul", None)]


# Which fx node made what


def tied(function):
    """The autograd nodes of the run, each with the fx node that made it."""
    trace = fxgrad.trace(FromFunction(lambda self: function(self.weight)))
    return {node.label: node.fx_node for node in trace.graph.nodes if node.fx_node is not None}


KEPT_APPLY_IS_PYTHON = isinstance(vars(Function)["apply"], classmethod)
"""Until torch 2.13; from then on it is C alone."""


@pytest.mark.skipif(not KEPT_APPLY_IS_PYTHON, reason="this torch's apply calls nothing that can be seen")
def test_a_function_whose_apply_was_kept_from_before_is_tied_to_its_node():
    apply = Twice.apply
    assert tied(apply) == {"TwiceBackward_0": "apply"}


@pytest.mark.skipif(KEPT_APPLY_IS_PYTHON, reason="this torch's apply can be seen")
def test_where_a_kept_apply_cannot_be_seen_its_node_says_so_and_the_forward_is_not_run_again():
    apply = Twice.apply
    model = FromFunction(lambda self: apply(self.weight))
    trace = fxgrad.trace(model)
    assert (trace.graph.nodes[0].fx_node, trace.graph.nodes[0].fx_reason) == (None, OUTSIDE)
    with pytest.raises(
        fxgrad.UsageError, match="TwiceBackward_0 was made by an apply that was stored before the trace"
    ):
        trace.forward_module(model)


def test_a_function_inside_of_another_one_is_part_of_it():
    class Outer(Function):
        @staticmethod
        def forward(ctx, x):
            return Twice.apply(x) + 1

        @staticmethod
        def backward(ctx, grad):
            return grad

    def applied(weight):
        return Outer.apply(weight)

    assert tied(applied) == {"OuterBackward_0": "apply"}


def test_the_node_of_as_subclass_is_tied_although_no_mode_sees_it():
    class Wrapped(torch.Tensor):
        pass

    assert tied(lambda w: w.as_subclass(Wrapped)) == {"AliasBackward0_0": "as_subclass"}


def test_as_subclass_is_a_method_of_its_own_class_again_afterwards():
    fxgrad.trace(nn.Linear(1, 1), (torch.ones(1),))
    assert "as_subclass" not in vars(torch.Tensor)
    assert "apply" not in vars(torch.autograd.function._SingleLevelFunction)


def test_the_nodes_of_a_tangent_are_tied_to_the_call_that_computed_it():
    def run(w):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(w, torch.ones(3))
            return forward_ad.unpack_dual(dual.sin()).tangent

    assert tied(run)["CosBackward0_0"] == "sin"


def test_the_nodes_of_a_function_that_vjp_has_returned_are_tied_to_its_call():
    def run(w):
        out, pull = torch.func.vjp(torch.sin, w)
        return pull(out)[0]

    assert "CosBackward0_0" in tied(run)


# The checks can fail


def test_a_meta_that_is_missing_is_found():
    graph = forward_of(torch.sin)
    del node_named(graph, "sin").meta["sequence_window"]
    assert meta_problems(graph) == ["meta: sin: sequence_window is None"]


def test_a_node_that_is_tied_to_another_fx_node_is_found():
    trace = fxgrad.trace(FromFunction(lambda self: self.weight.sin().exp()))
    first, *rest = trace.graph.nodes
    other = fxgrad.result.Trace(
        replace(trace.graph, nodes=(replace(first, fx_node="sin"), *rest)), forward=trace._forward
    )
    assert tie_problems(other) == ["tie: ExpBackward0_0 was not made in the window of sin"]


def test_another_result_is_found():
    numbers = itertools.count(1)
    found = problems(lambda w: Received.apply(w, next(numbers)) * next(numbers))
    assert [text[:14] for text in found] == ["result: [1][0]"]
