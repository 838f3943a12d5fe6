"""Networks whose backward starts another backward: checkpoints, reversible blocks, Functions that run a module again."""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

WIDTH = 4


class Reversible(Function):
    """Keeps what it returns, computes from that what it was given, and runs both halves again."""

    @staticmethod
    def forward(ctx, x, f, g):
        first, second = x.chunk(2, -1)
        first = first + f(second)
        second = second + g(first)
        ctx.modules, ctx.results = (f, g), (first.detach(), second.detach())
        return torch.cat([first, second], -1)

    @staticmethod
    def backward(ctx, grad):
        (f, g), (first, second) = ctx.modules, ctx.results
        grad_first, grad_second = grad.chunk(2, -1)
        with torch.enable_grad():
            first = first.detach().requires_grad_()
            again = g(first)
            again.backward(grad_second)
        grad_first = grad_first + first.grad
        with torch.enable_grad():
            second = (second - again).detach().requires_grad_()
            f(second).backward(grad_first)
        return torch.cat([grad_first, grad_second + second.grad], -1), None, None


class KeptGraph(Function):
    """Builds a graph in forward, and runs backward on that."""

    @staticmethod
    def forward(ctx, x, module):
        with torch.enable_grad():
            ctx.argument = x.detach().requires_grad_()
            ctx.result = module(ctx.argument)
        return ctx.result.detach()

    @staticmethod
    def backward(ctx, grad):
        torch.autograd.backward(ctx.result, grad)
        return ctx.argument.grad, None


class BySaved(Function):
    """Differentiates by the tensor that it saved, which is a tensor of the graph around."""

    @staticmethod
    def forward(ctx, x, module):
        ctx.save_for_backward(x)
        ctx.module = module
        return module(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            result = ctx.module(x)
        return *torch.autograd.grad(result, x, grad), None


class GivenWeights(Function):
    """Differentiates by the weights that it was given, too, and returns their gradients."""

    @staticmethod
    def forward(ctx, x, module, *weights):
        ctx.x, ctx.module, ctx.weights = x, module, weights
        return module(x)

    @staticmethod
    def backward(ctx, grad):
        x = ctx.x.detach().requires_grad_()
        with torch.enable_grad():
            result = ctx.module(x)
        grad_x, *others = torch.autograd.grad(result, (x, *ctx.weights), grad)
        return grad_x, None, *others


def _run_backward(result, grad):
    result.backward(grad)


class ByHelper(Function):
    """Leaves it to another function to start the backward."""

    @staticmethod
    def forward(ctx, x, module):
        ctx.x, ctx.module = x, module
        return module(x)

    @staticmethod
    def backward(ctx, grad):
        x = ctx.x.detach().requires_grad_(True)
        with torch.set_grad_enabled(True):
            result = ctx.module(x)
        _run_backward(result, grad)
        return x.grad, None


class Around(nn.Module):
    """Modules before, inside and after what is run again, by `way`."""

    def __init__(self, way):
        super().__init__()
        inner = WIDTH // 2 if way is reversible_block else WIDTH
        self.before, self.inside, self.after = nn.Linear(WIDTH, WIDTH), nn.Linear(inner, inner), nn.Linear(WIDTH, WIDTH)
        self.other = nn.Linear(WIDTH // 2, WIDTH // 2)
        self.way = way

    def forward(self, x):
        return self.after(self.way(self, self.before(x)))


def reversible_block(model, hidden):
    return Reversible.apply(hidden, model.inside, model.other)


def kept_graph(model, hidden):
    return KeptGraph.apply(hidden, model.inside)


def differentiated_by_what_was_saved(model, hidden):
    return BySaved.apply(hidden, model.inside)


def given_weights(model, hidden):
    return GivenWeights.apply(hidden, model.inside, *model.inside.parameters())


def backward_in_a_helper(model, hidden):
    return ByHelper.apply(hidden, model.inside)


def helper_with_a_closure(model, hidden):
    shift = model.after.bias + 1
    return ByHelper.apply(hidden, lambda y: model.inside(y) + shift)


def checkpoint_in_a_checkpoint(model, hidden):
    def inner(y):
        return checkpoint(model.inside, y.tanh(), use_reentrant=True)

    return checkpoint(inner, hidden, use_reentrant=True)


def checkpoint_with_a_closure(model, hidden):
    """Uses a tensor of the graph around that it is not given."""
    shift = model.after.bias + 1
    return checkpoint(lambda y: model.inside(y) + shift, hidden, use_reentrant=True)


def checkpoint_with_a_closure_used_again(model, hidden):
    shift = model.after.bias + 1
    return checkpoint(lambda y: model.inside(y) + shift, hidden, use_reentrant=True) + shift


def checkpoint_given_a_list(model, hidden):
    """What is in a list is not detached."""
    shift = model.after.bias + 1
    return checkpoint(lambda y, others: model.inside(y) + others[0], hidden, [shift], use_reentrant=True)


def weights_used_around_the_checkpoint(model, hidden):
    return checkpoint(model.inside, model.inside(hidden), use_reentrant=True)


NESTED_WAYS = (
    reversible_block,
    kept_graph,
    differentiated_by_what_was_saved,
    given_weights,
    backward_in_a_helper,
    helper_with_a_closure,
    checkpoint_in_a_checkpoint,
    checkpoint_with_a_closure,
    checkpoint_with_a_closure_used_again,
    checkpoint_given_a_list,
    weights_used_around_the_checkpoint,
)
"""What runs the module ``inside`` of a model again when backward comes to it."""


def around(way):
    """A model, as the zoo wants it, that runs ``inside`` again in this way."""
    return Around(way), (torch.randn(3, WIDTH),), {}
