"""What is read from the code of Functions and hooks: whether it starts a backward, and whether it may return a value."""

import functools
import types

import pytest
import torch
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.modules._functions import BackwardHookFunction
from zoo_nested import ByHelper, BySaved, GivenWeights, KeptGraph, Reversible

import fxgrad
from fxgrad.graph import NodeKind
from fxgrad.observe.autograd.nested_backward import NestedBackward, find_nested_backward
from fxgrad.observe.autograd.python_code import may_return_a_value

kernels = types.SimpleNamespace(backward=lambda grad: grad)


def function_with(backward):
    return type("Made", (Function,), {"backward": staticmethod(backward)})


def helper(y, grad):
    torch.autograd.backward(y, grad)


def calls_a_method(ctx, grad):
    ctx.y.backward(grad)


def calls_with_keywords(ctx, grad):
    ctx.y.backward(gradient=grad)


def calls_the_function(ctx, grad):
    torch.autograd.backward(ctx.y, grad)


def imports_it_inside(ctx, grad):
    from torch.autograd import grad as differentiate

    return differentiate(ctx.y, ctx.x, grad)


def imports_torch_inside(ctx, grad):
    import torch.autograd

    return torch.autograd.grad(ctx.y, ctx.x, grad)


def calls_a_helper(ctx, grad):
    helper(ctx.y, grad)


def calls_it_in_an_inner_function(ctx, grad):
    def run():
        torch.autograd.backward(ctx.y, grad)

    run()


def calls_a_partial(ctx, grad, run=None):
    prepared(grad)


prepared = functools.partial(helper, None)


def calls_what_it_closes_over(run):
    def backward(ctx, grad):
        run(ctx.y, grad)

    return backward


def records_again(ctx, grad):
    with torch.enable_grad():
        return ctx.module.differentiate(grad)


@once_differentiable
def wrapped(ctx, grad):
    torch.autograd.backward(ctx.y, grad)


STARTS = [
    calls_a_method,
    calls_with_keywords,
    calls_the_function,
    imports_it_inside,
    imports_torch_inside,
    calls_a_helper,
    calls_it_in_an_inner_function,
    calls_a_partial,
    calls_what_it_closes_over(helper),
    records_again,
    wrapped,
]


@pytest.mark.parametrize("backward", STARTS)
def test_code_that_starts_a_backward_is_recognised(backward):
    assert find_nested_backward(function_with(backward)) == NestedBackward(detaches=False)


def plain(ctx, grad):
    return grad * 2


def reads_an_attribute(ctx, grad):
    return grad + ctx.weight.grad


def calls_a_kernel(ctx, grad):
    return kernels.backward(grad)


def calls_no_grad(ctx, grad):
    with torch.no_grad():
        return grad * 2


def calls_torch(ctx, grad):
    return torch.nn.functional.softmax(grad, -1)


DOES_NOT = [plain, reads_an_attribute, calls_a_kernel, calls_no_grad, calls_torch, calls_what_it_closes_over(max)]


@pytest.mark.parametrize("backward", DOES_NOT)
def test_code_that_starts_none_is_recognised(backward):
    assert find_nested_backward(function_with(backward)) is None


@pytest.mark.parametrize("function", [Reversible, KeptGraph, GivenWeights, ByHelper])
def test_a_function_that_detaches_what_it_was_given_comes_to_leaves_alone(function):
    found = find_nested_backward(function)
    assert found is not None
    assert found.detaches == (function is not KeptGraph)


def test_a_function_that_differentiates_by_what_it_saved_detaches_nothing():
    assert find_nested_backward(BySaved) == NestedBackward(detaches=False)


def test_a_function_inherits_its_backward():
    assert find_nested_backward(type("Inherits", (BySaved,), {})) == NestedBackward(detaches=False)


def test_a_full_hook_starts_no_backward():
    assert find_nested_backward(BackwardHookFunction) is None


def test_no_property_is_asked():
    class Rude:
        @property
        def backward(self):
            raise AssertionError("asked")

    rude = Rude()
    assert find_nested_backward(function_with(lambda ctx, grad: rude.backward)) is None


class Runs:
    """A callable object in place of a function."""

    def __call__(self, ctx, grad):
        torch.autograd.backward(ctx.y, grad)


def test_a_callable_object_is_read_by_its_class():
    assert find_nested_backward(function_with(Runs())) == NestedBackward(detaches=False)


def test_vjp_is_another_name_for_backward():
    made = type("Made", (Function,), {"vjp": staticmethod(calls_the_function)})
    assert find_nested_backward(made) == NestedBackward(detaches=False)


def test_two_functions_of_one_code_are_told_apart_by_what_they_close_over():
    starts, starts_none = (function_with(calls_what_it_closes_over(run)) for run in (helper, max))
    assert (find_nested_backward(starts), find_nested_backward(starts_none)) == (NestedBackward(detaches=False), None)


def test_two_helpers_of_one_code_are_both_searched():
    starts_none, starts = (calls_what_it_closes_over(run) for run in (max, helper))

    def backward(ctx, grad):
        starts_none(ctx, grad)
        starts(ctx, grad)

    assert find_nested_backward(function_with(backward)) == NestedBackward(detaches=False)


class Unhashable(type(Function)):
    def __hash__(cls):
        raise AssertionError("asked")

    def __eq__(cls, other):
        raise AssertionError("asked")


class OfRudeClass(Function, metaclass=Unhashable):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, grad):
        return grad


def test_a_function_whose_class_cannot_be_hashed_is_traced():
    class Model(nn.Module):
        def forward(self, x):
            return OfRudeClass.apply(x)

    trace = fxgrad.trace(Model(), torch.ones(2, requires_grad=True))
    assert [node.kind for node in trace.graph.nodes] == [NodeKind.CUSTOM_FUNCTION, NodeKind.ACCUMULATE_GRAD]


class Hook:
    def __call__(self, grad):
        return grad

    def prints(self, grad):
        print(grad)


def yields(grad):
    yield grad


async def waits(grad):
    pass


def returns_either(grad):
    return grad if grad.dim() else None


def raises(grad):
    raise ValueError


@pytest.mark.parametrize("hook", [Hook(), yields, waits, returns_either, functools.partial(returns_either)])
def test_code_that_may_return_a_value_is_recognised(hook):
    assert may_return_a_value(hook) is True


@pytest.mark.parametrize("hook", [Hook().prints, raises, functools.partial(Hook().prints)])
def test_code_that_returns_none_is_recognised(hook):
    assert may_return_a_value(hook) is False


@pytest.mark.parametrize("hook", [print, functools.partial(print), torch.neg])
def test_code_that_is_not_python_tells_nothing(hook):
    assert may_return_a_value(hook) is None
