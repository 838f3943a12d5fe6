"""Why is weight.grad None?

Because the backward of the custom Function returns None for the weight. A hook on the weight is called with None, and a
post-accumulate hook with the weight, whose .grad is still None.
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
        return grad @ weight.t(), None


class Whole(Masked):
    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return grad @ weight.t(), x.t() @ grad


class Layer(nn.Module):
    def __init__(self, function, *, scale=None):
        super().__init__()
        self.function, self.scale = function, scale
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, x):
        weight = self.weight if self.scale is None else self.weight * self.scale
        return self.function.apply(x, weight)


def hook(model):
    nodes.append(torch.autograd.graph.get_gradient_edge(model.weight).node)
    model.weight.register_hook(lambda grad: None)
    model.weight.register_post_accumulate_grad_hook(lambda parameter: None)
    nodes[-1].register_hook(lambda grad_inputs, grad_outputs: None)
    nodes[-1].register_prehook(lambda grad_outputs: None)
    return model


nodes = []


def build():
    return Layer(Masked), (torch.randn(2, 3),)


def build_hooked():
    return hook(Layer(Masked)), (torch.randn(2, 3, requires_grad=True),)


def build_scaled():
    return hook(Layer(Masked, scale=2)), (torch.randn(2, 3, requires_grad=True),)


def build_mended():
    return Layer(Whole), (torch.randn(2, 3),)


def build_mended_hooked():
    return hook(Layer(Whole, scale=2)), (torch.randn(2, 3, requires_grad=True),)
