"""A model that torch.fx has traced, with hooks on what its graph calls and on what it does not.

The GraphModule still calls `block.linear`, a module of torch.nn. It holds `block`, too, but its graph has the operations
of that by themselves: a hook there never fires.

    fxgrad report samples/symbolically_traced.py
    fxgrad explain samples/symbolically_traced.py block
"""

import torch
from torch import fx, nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return torch.relu(self.linear(x)) + x


class Model(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.block = Block(width)
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return (self.block(x) * self.scale).sum()


def print_sizes(module, grad_input, grad_output):
    print([None if grad is None else tuple(grad.shape) for grad in grad_input])


def print_size(grad):
    print(tuple(grad.shape))


def build():
    tracer = fx.Tracer()
    tracer.record_stack_traces = True  # so that each node knows the line that it comes from
    model = Model(16)
    traced = fx.GraphModule(model, tracer.trace(model))
    traced.block.linear.register_full_backward_hook(print_sizes)
    traced.block.register_full_backward_hook(print_sizes)
    traced.scale.register_hook(print_size)
    return traced, (torch.randn(4, 16, requires_grad=True),)
