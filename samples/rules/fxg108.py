"""FXG108: a module takes full hooks or non-full ones, not both."""

import torch
from torch import nn


def print_sizes(module, grad_input, grad_output):
    print([None if grad is None else tuple(grad.shape) for grad in grad_input])


def build():
    model = nn.Linear(10, 20)
    model.register_full_backward_hook(print_sizes)
    model.register_backward_hook(print_sizes)  # raises
    return model, (torch.randn(8, 10, requires_grad=True),)


def build_mended():
    model = nn.Linear(10, 20)
    model.register_full_backward_hook(print_sizes)
    model.register_full_backward_hook(print_sizes)
    return model, (torch.randn(8, 10, requires_grad=True),)
