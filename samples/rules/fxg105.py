"""FXG105: no positional input requires grad: the full hook runs early, and gets None."""

import torch
from torch import nn


def print_sizes(module, grad_input, grad_output):
    print([None if grad is None else tuple(grad.shape) for grad in grad_input])


def build():
    model = nn.Sequential(nn.Embedding(30, 10), nn.Linear(10, 2))
    model[0].register_full_backward_hook(print_sizes)
    return model, (torch.arange(8),)


def build_mended():
    model = nn.Sequential(nn.Embedding(30, 10), nn.Linear(10, 2))
    model[1].register_full_backward_hook(print_sizes)  # its input requires grad
    return model, (torch.arange(8),)
