"""What is read from the code of a custom Function's backward, each held against what a hook really gets."""

from __future__ import annotations

import functools
from contextlib import closing

import pytest
import torch
from needs import needs_saved_tensors
from read_backwards import ALWAYS, OPEN, Doubles, leaf, statuses
from real_backward import Bench
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional
from undecided_backwards import UNDECIDED, by_raising_operand

import fxgrad

FLAG = True
NOTHING = None


def of_arithmetic(ctx, grad):
    return grad * ctx.scale, None, None


def of_operators(ctx, grad):
    x, _, _ = ctx.saved_tensors
    return torch.mul(grad, x).sum(0).expand(3), None, None


def of_torch_functions(ctx, grad):
    return functional.relu(grad), None, None


def of_aten(ctx, grad):
    return torch.ops.aten.mul.Tensor(grad, 2), None, None


def of_needs(ctx, grad):
    grad_x = grad_y = None
    if ctx.needs_input_grad[0]:
        grad_x = grad * 2
    if ctx.needs_input_grad[2] and not ctx.needs_input_grad[0]:
        grad_y = grad
    return grad_x, grad_y, None


def of_saved_none(ctx, grad):
    _, _, third = ctx.saved_tensors
    return grad.clone(), None if third is None else grad, None


def of_attributes(ctx, grad):
    return (grad if ctx.is_set else None), ctx.nothing, None


def of_kept_tensor(ctx, grad):
    return ctx.held, None, None


def of_a_list(ctx, grad):
    result = [None] * 3
    if ctx.needs_input_grad[0]:
        result[0] = grad + 1
    return tuple(result)


def of_appended(ctx, grad):
    result = []
    for needed, value in zip(ctx.needs_input_grad, (grad, None, None), strict=True):
        result.append(value * 2 if needed and value is not None else None)
    return tuple(result)


def of_a_comprehension(ctx, grad):
    return (*(grad * 2 if place == 0 else None for place in range(1)), None, None)


def of_helper(ctx, grad):
    return helper(grad, factor=ctx.scale), helper(None), None


def helper(value, factor=1.0, *, wanted=True):
    if value is None or not wanted:
        return None
    return value * factor


def of_inner_function(ctx, grad):
    def scaled(value):
        return value * ctx.scale

    same = lambda value: value  # noqa: E731  # both ways to define one
    return scaled(grad), same(None), None


def of_autograd(ctx, grad):
    with torch.enable_grad():
        x = torch.ones(3, requires_grad=True)
        y = x * 2
    (found,) = torch.autograd.grad(y, x, grad)
    return found + 0, None, None


def of_both_ways(ctx, grad):
    if FLAG:
        return grad, None, None
    return grad * 2, None, None


def of_a_loop(ctx, grad):
    total = torch.zeros(3)
    while float(total.sum()) < 5:
        total = total + 1
    return total, None, None


def of_tried(ctx, grad):
    result = None
    try:
        result = grad * 2
    finally:
        ctx.scale = 3
    return result, None, None


def of_dtype(ctx, grad):
    if grad.dtype == torch.float32:
        grad = grad.double()
    return grad.to(torch.float32), None, None


@torch.no_grad()
def of_no_grad(ctx, grad):
    return grad * 2, None, None


@once_differentiable
def of_once(ctx, grad):
    return grad * 2, None, None


def of_a_grid(ctx, grad):
    result = torch.empty_like(grad)
    kernel[(1,)](grad, result)
    return result, None, None


class _Kernel:
    def __getitem__(self, grid):
        return lambda source, target: target.copy_(source)


kernel = _Kernel()


def of_passed_back_attributes(ctx, grad):
    held, ctx.held = ctx.held, None
    if held is None:
        raise RuntimeError("backward was called twice")
    return held.mul_(grad), None, None


class _Terms:
    def __init__(self, grad):
        self.grad = grad

    @classmethod
    def of(cls, grad):
        return cls(grad)

    @functools.cached_property
    def doubled(self):
        return torch.zeros(3)

    def none(self):
        return None


def of_objects(ctx, grad):
    terms = _Terms.of(grad)
    return terms.doubled, terms.none(), None


KNOWN = [
    of_arithmetic, of_operators, of_torch_functions, of_aten, of_needs, of_attributes, of_kept_tensor,
    of_a_list, of_appended, of_a_comprehension, of_helper, of_inner_function, of_autograd, of_both_ways, of_a_loop, of_tried, of_dtype, of_once, of_no_grad, of_a_grid,
    of_passed_back_attributes, of_objects,
]  # fmt: skip


@pytest.mark.parametrize("backward", KNOWN, ids=lambda function: getattr(function, "__name__", "once"))
def test_what_the_code_decides_is_known(backward):
    assert statuses(backward) == ALWAYS


@needs_saved_tensors
def test_a_saved_none_is_known():
    assert statuses(of_saved_none) == ALWAYS


@pytest.mark.parametrize("backward", UNDECIDED)
def test_what_the_code_leaves_to_something_else_is_left_open(backward):
    assert statuses(backward)[0] == "unknown"


def test_an_operand_that_raises_ends_its_own_way_alone():
    assert statuses(by_raising_operand) == ALWAYS


def test_an_argument_that_needs_no_gradient_gets_what_the_code_says_of_a_shape_of_its_own():
    def gives(ctx, grad):
        return grad, torch.ones(7), None

    assert statuses(gives, leaf(), torch.ones(3), 2.0) == ["tensor", "tensor"]


def test_a_gradient_that_may_not_arrive_may_be_none_when_it_is_handed_on():
    class Two(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.set_materialize_grads(False)
            return x * 1, x * 2

        @staticmethod
        def backward(ctx, first, second):
            return second

    first, second = Two.apply(leaf())
    for roots, expected in ((first, "unknown"), ([first, second], "tensor")):
        with closing(Bench(roots).on_every_node()) as bench:
            predicted = bench.predicted(None, "backward")
            assert predicted.sites[0].grad_input[0].status == expected
            assert predicted.sites[0].grad_output[1].status == ("none" if roots is first else "tensor")


def test_what_backward_changes_in_its_context_counts_for_the_next_one():
    def changes(ctx, grad):
        result, ctx.held = ctx.held, None
        return result, None, None

    assert statuses(changes) == OPEN


def test_a_registered_operator_has_what_the_code_of_its_backward_says():
    with torch.library._scoped_library("fxgrad_test", "FRAGMENT"):

        @torch.library.custom_op("fxgrad_test::scaled", mutates_args=())
        def scaled(x: torch.Tensor, other: torch.Tensor, factor: float) -> torch.Tensor:
            return x * factor

        def setup(ctx, inputs, output):
            ctx.factor = inputs[2]

        def backward(ctx, grad):
            return grad * ctx.factor, None, None

        scaled.register_autograd(backward, setup_context=setup)
        with closing(Bench(scaled(leaf(), leaf(), 2.0)).on_every_node()) as bench:
            predicted = bench.predicted(None, "backward")
            bench.run()
            assert not bench.compared(predicted).wrong
        assert [entry.status for entry in predicted.sites[0].grad_input] == ALWAYS


class ByClass(Doubles):
    @classmethod
    def backward(cls, ctx, grad):
        return grad * 2, None, None


class ByPartial(Doubles):
    backward = staticmethod(functools.partial(lambda first, ctx, grad: (first, grad * 2, None), None))


@pytest.mark.parametrize("function", [ByClass, ByPartial])
def test_a_backward_that_gets_other_arguments_first_is_not_read(function):
    with closing(Bench(function.apply(leaf(), leaf(), 2.0)).on_every_node()) as bench:
        predicted = bench.predicted(None, "backward")
        bench.run()
        assert not bench.compared(predicted).wrong
    assert predicted.nodes[0].returned is None


def test_a_saved_trace_keeps_what_was_read():
    trace = fxgrad.capture(type("Made", (Doubles,), {"backward": staticmethod(of_needs)}).apply(leaf(), leaf(), 2.0))
    assert trace.graph.nodes[0].returned.whenever == ("tensor", "none")
    assert "of_needs" not in trace.to_json()
