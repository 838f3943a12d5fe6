"""Question: "modified by an inplace operation" at my own Function. Which line is it?

The Function saves its result, and `y += 1` changes that in place: backward raises when it reads ctx.saved_tensors. Where
backward reads it only under a condition, only backward decides.
"""

import torch
from torch import nn


class Exp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return grad * y


class LazyExp(Exp):
    @staticmethod
    def backward(ctx, grad):
        if grad.max() > 10:
            return grad
        return grad * ctx.saved_tensors[0]


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.function = function

    def forward(self, x):
        y = self.function.apply(self.lin(x))
        y += 1
        return y.sum()


class MendedNet(Net):
    def forward(self, x):
        y = self.function.apply(self.lin(x))
        y = y + 1
        return y.sum()


def build(make=Net, function=Exp):
    model = make(function)
    model.lin.weight.register_hook(print)
    return model, (torch.randn(2, 4),)


def build_mended():
    return build(MendedNet)


def build_undecided():
    return build(Net, LazyExp)


def build_mended_undecided():
    return build(MendedNet, LazyExp)
