"""Whether the backward of a Function starts another one: read from its code, and from what its context holds."""

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
from fxgrad.rules import explain

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


# What the context holds, or forward uses, is what backward may call


class Block(nn.Module):
    """Runs itself again, and a backward, in a method that a Function's backward calls."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x):
        return self.inner(x)

    def backward_pass(self, x, grad):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            self(x).backward(grad)
        return x.grad

    inverse = backward_pass  # a Tensor has a method of that name


class ByMethod(Function):
    @staticmethod
    def forward(ctx, x, block):
        ctx.save_for_backward(x)
        ctx.block = block
        return block(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return ctx.block.backward_pass(x, grad), None


class ByMethodOfTensors(ByMethod):
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return ctx.block.inverse(x, grad), None


class ByMember(ByMethod):
    @staticmethod
    def forward(ctx, x, block):
        ctx.save_for_backward(x)
        ctx.blocks = {"first": [block]}
        return block(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        for blocks in ctx.blocks.values():
            for block in blocks:
                grad = block.backward_pass(x, grad)
        return grad, None


class ByCallable(ByMethod):
    @staticmethod
    def forward(ctx, x, block):
        ctx.save_for_backward(x)
        ctx.again = functools.partial(block.backward_pass)
        return block(x)

    @staticmethod
    def backward(ctx, grad):
        again = ctx.again
        return again(*ctx.saved_tensors, grad), None


class ByTorch(ByMethod):
    @staticmethod
    def forward(ctx, x, block):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            result = block(x)
        ctx.pull = functools.partial(torch.autograd.grad, result, (x, *block.parameters()))
        return result.detach()

    @staticmethod
    def backward(ctx, grad):
        return ctx.pull(grad)[0], None


class Holder:
    def __init__(self, block):
        self.weight = block.inner.weight

    def again(self, x, grad):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            nn.functional.linear(x, self.weight).backward(grad)
        return x.grad


class ByObject(ByMethod):
    @staticmethod
    def forward(ctx, x, block):
        ctx.save_for_backward(x)
        ctx.held = Holder(block)
        return nn.functional.linear(x, ctx.held.weight)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return ctx.held.again(x, grad), None


class ByNobodyKnows(ByMethod):
    registry = ()

    @staticmethod
    def forward(ctx, x, block):
        ctx.save_for_backward(x)
        ByNobodyKnows.registry = ((lambda block: block.backward_pass, block),)
        return block(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        ((find, block),) = ByNobodyKnows.registry
        return find(block)(x, grad), None


@torch.library.custom_op("fxgrad_tests::runs_a_block", mutates_args=())
def runs_a_block(x: torch.Tensor) -> torch.Tensor:
    return registered[-1](x).clone()


registered = []
runs_a_block.register_autograd(
    lambda ctx, grad: registered[-1].backward_pass(ctx.saved_tensors[0], grad),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)


class ByOperator:
    @staticmethod
    def apply(x, block):
        registered.append(block)
        return runs_a_block(x)


class RunsNothing(ByMethod):
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        scaled = torch.where(x > 0, grad, torch.zeros_like(grad)).mul(2)
        return scaled.sum(0, keepdim=True).expand_as(grad) if isinstance(x, torch.Tensor) else grad, None


class Model(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.before, self.block = nn.Linear(3, 3), Block()

    def forward(self, x):
        return self.function.apply(self.before(x), self.block)


REACHED = [ByMethod, ByMethodOfTensors, ByMember, ByCallable, ByTorch, ByObject, ByNobodyKnows, ByOperator]


def hooked(function):
    model, fired = Model(function), []
    for name, module in model.named_modules():
        module.register_full_backward_hook(lambda *given, name=name: fired.append(name))
    model.block.inner.weight.register_hook(lambda grad: fired.append("weight"))
    return model, fired


@pytest.mark.parametrize("function", REACHED)
def test_hooks_that_the_backward_of_a_function_may_reach_are_unknown(function):
    model, fired = hooked(function)
    trace = fxgrad.trace(model, torch.randn(2, 3, requires_grad=True))
    assert fxgrad.verify(model, torch.randn(2, 3, requires_grad=True)).ok
    fired.clear()
    model(torch.randn(2, 3, requires_grad=True)).sum().backward()
    assert "weight" in fired
    never = {site.hook.owner for site in trace.sites if site.fires is False}
    assert not never & {"block", "block.inner", "block.inner.weight"}
    assert not {"FXG104", "FXG204"} & {finding.code for finding in explain(trace.graph)}


@pytest.mark.parametrize("function", [ByMethod, ByMember, ByCallable, ByTorch, ByObject, ByOperator])
def test_what_it_may_reach_is_unknown_where_forward_was_not_recorded(function):
    model, _ = hooked(function)
    trace = fxgrad.capture(model(torch.randn(2, 3, requires_grad=True)), model)
    assert {site.fires for site in trace.sites if site.hook.owner.startswith("block")} == {None}


def test_a_backward_that_calls_nothing_unknown_starts_none_whatever_it_holds():
    model, fired = hooked(RunsNothing)
    verification = fxgrad.verify(model, torch.randn(2, 3, requires_grad=True))
    assert verification.ok
    assert not {unknown.what for unknown in verification.unknown} & {"fires"}
    assert set(fired) == {"", "before"}


def test_where_their_number_is_unknown_a_site_has_no_entries():
    model, _ = hooked(ByMethod)
    sites = {site.hook.owner: site for site in fxgrad.trace(model, torch.randn(2, 3, requires_grad=True)).sites}
    assert (sites["block"].grad_input, sites["block"].grad_output) == (None, None)
    assert [entry.status for entry in sites["block.inner.weight"].grad_output] == ["unknown"]
    assert len(sites["before"].grad_output) == 1
