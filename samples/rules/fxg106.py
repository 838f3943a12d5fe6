"""FXG106: a module with a full hook may return nothing that is changed in place afterwards."""

import torch
from torch import nn


def print_sizes(module, grad_input, grad_output):
    print([None if grad is None else tuple(grad.shape) for grad in grad_input])


def build():
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(inplace=True))
    model[0].register_full_backward_hook(print_sizes)  # forward raises in the ReLU
    return model, (torch.randn(8, 10, requires_grad=True),)


def build_mended():
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU())
    model[0].register_full_backward_hook(print_sizes)
    return model, (torch.randn(8, 10, requires_grad=True),)
