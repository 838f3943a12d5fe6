"""The recorded graph: what its nodes say, and how odd values are written into it."""

from __future__ import annotations

import dataclasses
import enum
import functools
import itertools
import operator
from typing import ClassVar

import numpy as np
import pytest
import torch
from module_hooks import FromFunction
from recorded_forward import described, lint_problems, meta_problems, recorded_forward_problems, tie_problems
from torch import nn
from torch.autograd import Function, forward_ad

import fxgrad
from fxgrad.observe.provenance import OUTSIDE


def forward_of(function, *args, **kwargs):
    """The recorded graph of a module whose forward is the function, after itself."""
    return fxgrad.trace(FromFunction(lambda self, *a, **k: function(self.weight, *a, **k)), args, kwargs).forward


def node_named(graph, name):
    return next(node for node in graph.nodes if node.name == name)


def problems(function):
    """What is wrong with the recorded forward of a function of three numbers."""
    model = FromFunction(lambda self: function(self.weight))
    return recorded_forward_problems(model, lambda: ((), {}))


class Received(Function):
    """Keeps what it is called with."""

    arguments: ClassVar[list] = []

    @staticmethod
    def forward(ctx, x, *rest):
        ctx.count = len(rest)
        Received.arguments.append(described(rest))
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad, *[None] * ctx.count


class Twice(Function):
    @staticmethod
    def forward(ctx, x, *rest):
        ctx.count = len(rest)
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2, *[None] * ctx.count


# What the nodes say


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
    with pytest.raises(fxgrad.UsageError, match="TwiceBackward_0 was made by an apply that was kept from before"):
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
    assert problems(run) == []


def test_a_function_that_vjp_has_returned_is_called_as_the_runs_own():
    def run(w):
        out, pull = torch.func.vjp(torch.sin, w)
        return pull(out)[0]

    assert problems(run) == []
    assert "CosBackward0_0" in tied(run)


def test_a_function_that_vjp_has_returned_works_after_the_run():
    kept = []

    def run(w):
        out, pull = torch.func.vjp(torch.sin, w)
        kept.append(pull)
        return out

    weight = forward_of(run) and torch.ones(3)
    (grad,) = kept[0](weight)
    assert grad.shape == (3,)


# How values are written


class Mode(enum.Enum):
    FAST = 1


class Level(enum.IntEnum):
    LAST = -1


class Text(str):
    def __repr__(self):
        return "<no Python>"


@dataclasses.dataclass
class Options:
    scale: float = 1.0
    tensor: torch.Tensor | None = None


ARGUMENTS = {
    "an enum": lambda: Mode.FAST,
    "an int of its own class": lambda: Level.LAST,
    "a str of its own class": lambda: Text("a"),
    "a numpy number": lambda: np.float64(2),
    "a numpy array": lambda: np.ones(2),
    "a dataclass": Options,
    "a dataclass with a tensor in it": lambda: Options(2.0, torch.ones(1)),
    "a dict whose keys are no strings": lambda: {1: torch.ones(1), Mode.FAST: [2]},
    "a lambda": lambda: lambda: 1,
    "a partial": lambda: functools.partial(torch.add, 1),
    "a class": lambda: nn.ReLU,
    "a module": lambda: nn.BatchNorm1d(3),
    "a set": lambda: {1, 2},
    "a range": lambda: range(3),
    "a generator": torch.Generator,
    "a slice with a tensor": lambda: slice(torch.tensor(1), None),
    "a size": lambda: torch.Size([2, 3]),
    "bytes": lambda: b"\x00'",
    "text with everything": lambda: "quote'\"\n\x00{}%",
    "Ellipsis": lambda: ...,
    "a dtype, a device, a layout": lambda: (torch.float64, torch.device("cpu"), torch.strided, torch.channels_last),
    "not a number": lambda: [float("nan"), float("-inf"), complex(0, float("nan"))],
    "a negative zero": lambda: (-0.0, complex(-0.0, -1.0)),
}


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_an_argument_of_any_kind_is_the_same_in_the_rerun(argument):
    value = ARGUMENTS[argument]()
    Received.arguments.clear()
    assert problems(lambda w: Received.apply(w, value)) == []
    traced, rerun, _, real = Received.arguments
    assert traced == rerun == real


def test_a_list_that_holds_itself_is_an_argument_like_others():
    ring = []
    ring.append(ring)
    assert problems(lambda w: Twice.apply(w, ring)) == []


def test_what_cannot_be_printed_compared_or_copied_is_held_as_it_is():
    class Bad:
        __hash__ = None

        def __repr__(self):
            raise RuntimeError

        def __eq__(self, other):
            raise RuntimeError

        def __deepcopy__(self, memo):
            raise RuntimeError

    bad = Bad()
    model = FromFunction(lambda self: Twice.apply(self.weight, bad, [bad]))
    trace = fxgrad.trace(model)
    assert lint_problems(trace.forward) + meta_problems(trace.forward) == []
    assert torch.equal(trace.forward_module(model)(), model.weight * 2)


OPERATORS = {
    "a negative base": lambda w: (-2) ** w.detach().round() + w,
    "a number on the left": lambda w: (1 - w) * (2 / (3 + w * w)) + 2**w - 7 // w.detach(),
    "a complex number": lambda w: (w * complex(-0.0, -1.5)).imag,
    "numpy on the left": lambda w: np.float32(2) * w,
    "an index with everything": lambda w: w.expand(2, 3)[torch.tensor([0]), None, ..., ::2],
    "an index of Python's": lambda w: w[[0, 1]] + w[np.array([1, 2])] + w[True][0, :2],
    "a memory format": lambda w: w.view(1, 3, 1, 1).contiguous(memory_format=torch.channels_last),
    "an in-place operator": lambda w: (w * 1).__iadd__(2).__ipow__(2),
    "setting an item": lambda w: (y := w * 1, y.__setitem__(slice(1), -5.0), y)[2],
    "setting data": lambda w: (y := torch.zeros(3), setattr(y, "data", torch.ones(3)), y * w)[2],
    "an operator of torch.ops": lambda w: torch.ops.aten.mul.Tensor(w, 2.0),
    "iteration": lambda w: sum(w.unbind()),
}


@pytest.mark.parametrize("case", OPERATORS)
def test_an_operation_of_any_kind_is_the_same_in_the_rerun(case):
    assert problems(OPERATORS[case]) == []


class Holder:
    def __init__(self, value):
        self.value = value


OUTPUTS = {
    "an object with a tensor": lambda w: (w * 2, Holder(w.detach() * 3)),
    "options and numbers": lambda w: (w * 2, Mode.FAST, Level.LAST, np.float64(2), torch.float32, print, {1}),
    "keys that are no strings": lambda w: {None: w * 2, 1.5: w, (1, 2): [w]},
    "one tensor twice": lambda w: [w, [w], w * 1],
    "a PackedSequence": lambda w: nn.utils.rnn.pack_sequence([w * 2]),
    "a module": lambda w: (w * 1, nn.Tanh()),
    "a size": lambda w: (w * 1, w.shape),
}


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_of_any_kind_is_the_same_in_the_rerun(output):
    assert problems(OUTPUTS[output]) == []


# Modes


def test_a_grad_mode_that_is_changed_by_cpp_code_does_not_stay():
    def run(w):
        inner = functools.partial(torch.utils.checkpoint.checkpoint, torch.sin, use_reentrant=False)
        return torch.utils.checkpoint.checkpoint(inner, w * 1, use_reentrant=False)

    assert problems(run) == []
    assert torch.is_grad_enabled()


def test_a_graph_sets_grad_mode_where_it_differs_and_back():
    def run(w):
        with torch.no_grad():
            frozen = w.exp()
        return w * frozen

    calls = [node for node in forward_of(run).nodes if node.op.startswith("call")]
    shown = [(node.name, node.args[0] if node.target is torch._C._set_grad_enabled else None) for node in calls]
    assert shown == [("_set_grad_enabled", False), ("exp", None), ("_set_grad_enabled_1", True), ("mul", None)]


def test_a_default_dtype_is_set_and_set_back():
    def run(w):
        torch.set_default_dtype(torch.float64)
        wide = torch.ones(3)
        torch.set_default_dtype(torch.float32)
        return w * wide

    model = FromFunction(lambda self: run(self.weight))
    again = fxgrad.trace(model).forward_module(model)
    assert again().dtype == torch.float64
    assert torch.get_default_dtype() == torch.float32


def test_a_seed_is_set_before_the_next_call_that_is_recorded():
    def run(w):
        torch.manual_seed(3)
        return w * torch.rand(w.shape[0])

    assert problems(run) == []


def test_a_state_of_the_generator_that_is_set_last_is_set_last():
    def run(w):
        with torch.random.fork_rng(devices=[]):
            return w * torch.rand(3)

    assert problems(run) == []


def test_casts_that_autocast_had_cached_are_cached_in_the_rerun():
    def run(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            x = x @ self.weight
            with torch.autocast("cpu", enabled=False):
                x = x.float()
            return x @ self.weight

    class Casts(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

        forward = run

    assert recorded_forward_problems(Casts(), lambda: ((torch.ones(2, 2),), {})) == []


def test_casts_are_cached_anew_where_autocast_was_left():
    class Casts(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

        def forward(self, x):
            for _ in range(2):
                with torch.autocast("cpu", torch.bfloat16):
                    x = x @ self.weight
                x = x.float() * 2
            return x

    assert recorded_forward_problems(Casts(), lambda: ((torch.ones(2, 2),), {})) == []


# The checks can fail


def test_a_meta_that_is_missing_is_found():
    graph = forward_of(torch.sin)
    del node_named(graph, "sin").meta["sequence_window"]
    assert meta_problems(graph) == ["meta: sin: sequence_window is None"]


def test_a_node_that_is_tied_to_another_fx_node_is_found():
    trace = fxgrad.trace(FromFunction(lambda self: self.weight.sin().exp()))
    first, *rest = trace.graph.nodes
    other = fxgrad.result.Trace(
        dataclasses.replace(trace.graph, nodes=(first._replace(fx_node="sin"), *rest)), forward=trace._forward
    )
    assert tie_problems(other) == ["tie: ExpBackward0_0 was not made in the window of sin"]


def test_another_result_is_found():
    numbers = itertools.count(1)
    found = problems(lambda w: Received.apply(w, next(numbers)) * next(numbers))
    assert [text[:14] for text in found] == ["result: [1][0]"]
