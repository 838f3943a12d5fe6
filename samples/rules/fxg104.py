"""FXG104: the result is a dict: a full hook finds no tensor in it, and never fires."""

import torch
from torch import nn


def print_sizes(module, grad_input, grad_output):
    print([None if grad is None else tuple(grad.shape) for grad in grad_input])


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Linear(10, 2)

    def forward(self, x):
        return {"score": self.score(x)}


class FlatHeads(Heads):
    def forward(self, x):
        return (self.score(x),)


class Net(nn.Module):
    def __init__(self, heads):
        super().__init__()
        self.heads = heads

    def forward(self, x):
        return self.heads(x)


def build():
    model = Net(Heads())
    model.heads.register_full_backward_hook(print_sizes)
    return model, (torch.randn(8, 10, requires_grad=True),)


def build_mended():
    model = Net(FlatHeads())
    model.heads.register_full_backward_hook(print_sizes)
    return model, (torch.randn(8, 10, requires_grad=True),)
