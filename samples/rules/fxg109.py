"""FXG109: what a hook returns takes the place of the gradients, and must fit them."""

import torch
from torch import nn


def halve_first(module, grad_input, grad_output):
    return (grad_input[0] / 2,)  # backward raises: the node has three arguments


def halve_all(module, grad_input, grad_output):
    for grad in grad_input:
        if grad is not None:
            grad.mul_(0.5)


def build():
    model = nn.Linear(10, 20)
    model.register_backward_hook(halve_first)
    return model, (torch.randn(8, 10, requires_grad=True),)


def build_mended():
    model = nn.Linear(10, 20)
    model.register_full_backward_hook(halve_all)
    return model, (torch.randn(8, 10, requires_grad=True),)
