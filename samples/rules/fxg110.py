"""FXG110: a hook that is removed after the call is still on the call's nodes."""

import torch
from torch import nn


def print_sizes(module, grad_input, grad_output):
    print([None if grad is None else tuple(grad.shape) for grad in grad_input])


class Watched(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(10, 20)

    def forward(self, x):
        handle = self.linear.register_full_backward_hook(print_sizes)
        output = self.linear(x)
        handle.remove()
        return output


class RemovedBefore(Watched):
    def forward(self, x):
        handle = self.linear.register_full_backward_hook(print_sizes)
        handle.remove()
        return self.linear(x)


def build():
    return Watched(), (torch.randn(8, 10, requires_grad=True),)


def build_mended():
    return RemovedBefore(), (torch.randn(8, 10, requires_grad=True),)
