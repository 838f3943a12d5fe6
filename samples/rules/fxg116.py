"""FXG116: a hook on a parameter holds a tensor with its graph."""

import torch
from torch import nn


def add_hook(model, loss):
    def print_ratio(grad):
        print(grad.norm() / loss)

    model.weight.register_hook(print_ratio)


def build():
    model = nn.Linear(10, 1)
    add_hook(model, model(torch.randn(8, 10)).sum())
    return model, (torch.randn(8, 10),)


def build_mended():
    model = nn.Linear(10, 1)
    add_hook(model, model(torch.randn(8, 10)).sum().detach())
    return model, (torch.randn(8, 10),)
