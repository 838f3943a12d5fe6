"""FXG101: a non-full hook sits on one node, and gets the arguments of that node's function."""

import torch
from torch import nn


def print_sizes(module, grad_input, grad_output):
    print([None if grad is None else tuple(grad.shape) for grad in grad_input])


def build():
    model = nn.Linear(10, 20)
    model.register_backward_hook(print_sizes)  # bias, input and the transposed weight
    return model, (torch.randn(8, 10, requires_grad=True),)


def build_mended():
    model = nn.Linear(10, 20)
    model.register_full_backward_hook(print_sizes)
    return model, (torch.randn(8, 10, requires_grad=True),)
