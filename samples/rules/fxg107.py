"""FXG107: a keyword argument has no entry in the grad_input of a full hook."""

import torch
from torch import nn


def print_sizes(module, grad_input, grad_output):
    print([None if grad is None else tuple(grad.shape) for grad in grad_input])


class Scale(nn.Module):
    def forward(self, x, factor):
        return x * factor


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.factor = Scale(), nn.Parameter(torch.ones(10))

    def forward(self, x):
        return self.scale(x, factor=self.factor)


class ByPosition(ByKeyword):
    def forward(self, x):
        return self.scale(x, self.factor)


def build():
    model = ByKeyword()
    model.scale.register_full_backward_hook(print_sizes)
    return model, (torch.randn(8, 10, requires_grad=True),)


def build_mended():
    model = ByPosition()
    model.scale.register_full_backward_hook(print_sizes)
    return model, (torch.randn(8, 10, requires_grad=True),)
