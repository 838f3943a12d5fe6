"""A program of torch.export, with hooks on its parameters and on the module that runs it.

The nodes have the names of the exported graph, and know the module of the model that they were in before. The parameters
have the names that the model gave to them.

    fxgrad report samples/exported.py
"""

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return torch.relu(self.linear(x)) + x


class Model(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.ModuleList([Block(width), Block(width)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x.sum()


def print_sizes(module, grad_input, grad_output):
    print([None if grad is None else tuple(grad.shape) for grad in grad_input])


def print_size(grad):
    print(tuple(grad.shape))


def build():
    x = torch.randn(4, 16, requires_grad=True)
    module = torch.export.export(Model(16), (x.detach(),)).module()
    module.register_full_backward_hook(print_sizes)
    module.get_parameter("layers.0.linear.weight").register_hook(print_size)
    return module, (x,)
