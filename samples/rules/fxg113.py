"""FXG113: a module hook reads a parameter's .grad before backward has added to it."""

import torch
from torch import nn


def print_gradient(module, grad_output):
    print(module.weight.grad)  # None, or what the backward before this one left


def print_norm_ready(weight):
    print(weight.grad.norm())


def build():
    model = nn.Linear(10, 20)
    model.register_full_backward_pre_hook(print_gradient)
    return model, (torch.randn(8, 10),)


def build_mended():
    model = nn.Linear(10, 20)
    model.weight.register_post_accumulate_grad_hook(print_norm_ready)
    return model, (torch.randn(8, 10),)
