"""FXG111: the hook of a module that is called several times is not told which call it is."""

from functools import partial

import torch
from torch import nn


def print_sizes(module, grad_input, grad_output):
    print([None if grad is None else tuple(grad.shape) for grad in grad_input])


def print_call(call, grad):
    print("call", call, tuple(grad.shape))


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.step = nn.Linear(10, 10)

    def forward(self, x):
        for _ in range(3):
            x = self.step(x).tanh()
        return x


class NumberedSteps(Steps):
    def forward(self, x):
        for call in range(3):
            x = self.step(x)
            x.register_hook(partial(print_call, call))
            x = x.tanh()
        return x


def build():
    model = Steps()
    model.step.register_full_backward_hook(print_sizes)
    return model, (torch.randn(8, 10, requires_grad=True),)


def build_mended():
    return NumberedSteps(), (torch.randn(8, 10, requires_grad=True),)
