"""FXG301: torch.fx.symbolic_trace keeps calls of torch.nn's own modules, and loses other hooks."""

import torch
from torch import nn


def print_sizes(module, grad_input, grad_output):
    print([None if grad is None else tuple(grad.shape) for grad in grad_input])


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(10, 10)

    def forward(self, x):
        return self.linear(x).relu()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.head = Block(), nn.Linear(10, 1)

    def forward(self, x):
        return self.head(self.block(x))


def build():
    model = Net()
    model.block.register_full_backward_hook(print_sizes)
    return model, (torch.randn(8, 10, requires_grad=True),)


def build_mended():
    model = Net()
    model.block.linear.register_full_backward_hook(print_sizes)
    return model, (torch.randn(8, 10, requires_grad=True),)
