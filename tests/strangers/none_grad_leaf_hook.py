"""Which of my hooks on `weight` are called, and with what? Its .grad stays None.

All four: the tensor hook with None, the node's prehook with (None,), the post-accumulate hook while .grad is still None, and
the node's hook. Backward of the custom Function returns None for the weight.
"""

import torch
from torch import nn


class Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx, grad):
        _, weight = ctx.saved_tensors
        return grad @ weight.t(), None  # weight is "frozen" by hand


class Trained(Masked):
    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return grad @ weight.t(), x.t() @ grad


def show(*arguments):
    print("HOOK", len(arguments))


class Layer(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))
        self.function = function

    def forward(self, x):
        return self.function.apply(x, self.weight)


KEPT = []


def make_model(function):
    model = Layer(function)
    node = model.weight.expand_as(model.weight).grad_fn.next_functions[0][0]
    KEPT.append(node)
    model.weight.register_hook(show)
    model.weight.register_post_accumulate_grad_hook(show)
    node.register_hook(show)
    node.register_prehook(show)
    return model, (torch.randn(2, 3, requires_grad=True),)


def build():
    return make_model(Masked)


def build_mended():
    return make_model(Trained)
