"""FXG303: inside a compiled module only hooks that were there at the first call are called."""

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
    model.block.compile(backend="aot_eager")
    x = torch.randn(8, 10, requires_grad=True)
    model(x)  # the first call, which compiles
    model.block.linear.register_full_backward_hook(print_sizes)
    return model, (x,)


def build_mended():
    model = Net()
    model.block.compile(backend="aot_eager")
    x = torch.randn(8, 10, requires_grad=True)
    model.block.linear.register_full_backward_hook(print_sizes)
    model(x)
    return model, (x,)
