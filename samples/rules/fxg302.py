"""FXG302: a module that runs in TorchScript runs without hooks."""

import torch
from torch import nn


def print_sizes(module, grad_input, grad_output):
    print([None if grad is None else tuple(grad.shape) for grad in grad_input])


def build():
    model = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 1))
    model[0].register_full_backward_hook(print_sizes)
    model[0] = torch.jit.script(model[0])  # drops the hook in silence
    return model, (torch.randn(8, 10, requires_grad=True),)


def build_mended():
    model = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 1))
    model[0].register_full_backward_hook(print_sizes)
    return model, (torch.randn(8, 10, requires_grad=True),)
