"""FXG103: a module makes no node of its own: its non-full hook sits on another module's."""

import torch
from torch import nn


def print_sizes(module, grad_input, grad_output):
    print([None if grad is None else tuple(grad.shape) for grad in grad_input])


def build():
    model = nn.Sequential(nn.Linear(10, 20), nn.Dropout(0.0).eval(), nn.Linear(20, 1))
    model[1].register_backward_hook(print_sizes)  # gets what a hook on the first Linear would get
    return model, (torch.randn(8, 10, requires_grad=True),)


def build_mended():
    model = nn.Sequential(nn.Linear(10, 20), nn.Dropout(0.0).eval(), nn.Linear(20, 1))
    model[1].register_full_backward_hook(print_sizes)
    return model, (torch.randn(8, 10, requires_grad=True),)
