"""What is read from the code of a custom Function's backward, each held against what a hook really gets."""

from __future__ import annotations

import contextlib
import functools
from contextlib import closing

import pytest
import torch
from needs import needs_saved_tensors
from read_backwards import ALWAYS, OPEN, Doubles, leaf, statuses, statuses_of
from real_backward import Bench, assert_as_predicted
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils._contextlib import context_decorator
from undecided_backwards import NOT_FOLLOWED, UNDECIDED, by_raising_operand

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


def of_needs_at_once(ctx, grad):
    needs_x, needs_y, _ = ctx.needs_input_grad
    if not any(ctx.needs_input_grad[1:]) or not (needs_x and needs_y):
        return None, grad, None
    return grad, None, None


def of_repeated_none(ctx, grad):
    return (grad,) + (None,) * 2


def of_parts(ctx, grad):
    first, second, third = torch.chunk(grad, 3)
    most, _ = grad.max(0)
    return torch.cat([first, second, third]) * grad.shape[0] + most, None, None


def of_changed_variables(ctx, grad):
    total: torch.Tensor = grad.new_zeros(3)
    total += grad
    total[0] = 1
    return -total.clone().real / (1 + total.norm()), None, None


of_lambda = lambda ctx, grad: (grad if grad is not None else None, None, None)  # noqa: E731  # a way to define one


def of_any_gradients(ctx, *grads):
    return grads[0], None, None


def of_both_ways(ctx, grad):
    if FLAG:
        return grad, None, None
    return grad * 2, None, None


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


def of_an_unused_function(ctx, grad):
    def scaled(value):
        return None

    return grad * ctx.scale, None, None


def under_no_grad(ctx, grad):
    with torch.no_grad(), torch.set_grad_enabled(False):
        result = grad * 2
    return result, None, None


def of_each_return(ctx, grad):
    for _ in range(1):
        return grad, None, None
    try:
        return grad.clone(), None, None
    except ValueError:
        pass
    return grad * 2, None, None


KNOWN = [
    of_arithmetic, of_operators, of_torch_functions, of_needs, of_attributes, of_kept_tensor, of_needs_at_once,
    of_repeated_none, of_parts, of_changed_variables, of_lambda, of_any_gradients, of_both_ways, of_dtype, of_once,
    of_no_grad, of_a_grid, of_an_unused_function, under_no_grad, of_each_return,
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


@pytest.mark.parametrize("backward", NOT_FOLLOWED)
def test_what_code_gives_that_is_not_followed_is_left_open(backward):
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


class Autocast(Doubles):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, x, y, scale):
        return x + y

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    @once_differentiable
    def backward(ctx, grad):
        return grad * 2, None, None


def test_torchs_own_decorators_return_what_the_backward_inside_returns():
    assert statuses_of(Autocast) == ALWAYS


def test_another_decorator_may_return_something_else():
    def inside(ctx, grad):
        raise KeyError

    suppressing = context_decorator(lambda: contextlib.suppress(KeyError), inside)
    assert statuses_of(type("Made", (OfOne,), {"backward": staticmethod(suppressing)}), leaf()) == ["unknown"]


class OfOne(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x


def test_a_single_gradient_needs_no_tuple():
    assert statuses_of(OfOne, leaf()) == ["tensor"]


def test_saved_tensors_that_a_backward_has_freed_tell_nothing():
    result = OfOne.apply(leaf())
    result.sum().backward()
    assert fxgrad.capture(result).graph.nodes[0].returned is None


def test_a_method_that_a_program_adds_to_tensors_may_return_anything(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "mul", lambda self, other: None)
    assert statuses(lambda ctx, grad: (grad.mul(2), None, None))[0] == "unknown"


def test_a_function_that_a_program_puts_in_place_of_torchs_may_return_anything(monkeypatch):
    monkeypatch.setattr(torch, "mul", lambda value, other: None)
    assert statuses(lambda ctx, grad: (torch.mul(grad, 2), None, None))[0] == "unknown"


def test_names_are_looked_up_anew_for_each_graph(monkeypatch):
    function = type("Made", (Doubles,), {"backward": staticmethod(of_operators)})
    assert statuses_of(function) == ALWAYS
    monkeypatch.setattr(torch, "mul", lambda value, other: value * other)
    assert statuses_of(function) == OPEN


def test_nodes_of_one_function_are_told_apart_by_what_their_contexts_hold():
    function = type("Made", (Doubles,), {"backward": staticmethod(of_attributes)})
    result = function.apply(function.apply(leaf(), leaf(), 2.0), leaf(), 3.0)
    result.grad_fn.is_set = False
    assert_as_predicted(lambda: Bench(result).on_every_node())


@pytest.fixture
def scaled():
    """An operator that is registered from Python, with an argument for each of Doubles'."""
    with torch.library._scoped_library("fxgrad_test", "FRAGMENT"):

        @torch.library.custom_op("fxgrad_test::scaled", mutates_args=())
        def scaled(x: torch.Tensor, other: torch.Tensor, factor: float) -> torch.Tensor:
            return x * factor

        def setup(ctx, inputs, output):
            ctx.factor = inputs[2]

        def backward(ctx, grad):
            needs_x, needs_other, _ = ctx.needs_input_grad
            return (grad * ctx.factor if needs_x else None), (None if needs_other else grad), None

        scaled.register_autograd(backward, setup_context=setup)
        yield scaled


def test_a_registered_operator_has_what_the_code_of_its_backward_says(scaled):
    assert statuses_of(scaled) == ALWAYS


@pytest.fixture
def summed():
    """An operator over a list."""
    with torch.library._scoped_library("fxgrad_test", "FRAGMENT"):

        @torch.library.custom_op("fxgrad_test::summed", mutates_args=())
        def summed(xs: list[torch.Tensor]) -> torch.Tensor:
            return sum(xs)

        summed.register_autograd(lambda ctx, grad: [grad * 1, None])
        yield summed


def test_the_gradients_of_lists_of_a_registered_operator_are_left_open(summed):
    assert statuses_of(summed, [leaf(), leaf()]) == ["unknown", "unknown"]


class ByClass(Doubles):
    @classmethod
    def backward(cls, ctx, grad):
        return grad * 2, None, None


class ByPartial(Doubles):
    backward = staticmethod(functools.partial(lambda first, ctx, grad: (first, grad * 2, None), None))


class LooksUpInItsOwnWay(type(Function)):
    def __getattribute__(cls, name):
        return (lambda ctx, grad: (None, grad, None)) if name == "backward" else super().__getattribute__(name)


class ByMetaclass(Doubles, metaclass=LooksUpInItsOwnWay):
    @staticmethod
    def backward(ctx, grad):
        return grad, None, None


@pytest.mark.parametrize("function", [ByClass, ByPartial, ByMetaclass])
def test_a_backward_that_is_not_called_with_its_context_and_gradients_is_not_read(function):
    assert statuses_of(function) == ["unknown", "unknown"]


def test_gradients_that_come_in_one_list_are_not_read():
    class Boxed(OfOne):
        boxed_grads_call = True

        @staticmethod
        def backward(ctx, grads):
            return grads[0] if isinstance(grads, list) else grads

    assert statuses_of(Boxed, leaf()) == ["unknown"]


def test_a_saved_trace_keeps_what_was_read():
    trace = fxgrad.capture(type("Made", (Doubles,), {"backward": staticmethod(of_needs)}).apply(leaf(), leaf(), 2.0))
    assert trace.graph.nodes[0].returned.whenever == ("tensor", "none")
    assert "of_needs" not in trace.to_json()
