"""FXG112: a tensor hook stays at the value that the tensor had before an operation in place."""

import torch
from torch import nn


def print_size(grad):
    print(tuple(grad.shape))


class Before(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(10, 20)

    def forward(self, x):
        hidden = self.linear(x)
        hidden.register_hook(print_size)
        hidden.mul_(2)
        return hidden


class After(Before):
    def forward(self, x):
        hidden = self.linear(x)
        hidden.mul_(2)
        hidden.register_hook(print_size)
        return hidden


def build():
    return Before(), (torch.randn(8, 10),)


def build_mended():
    return After(), (torch.randn(8, 10),)
