"""Question: forward calls torch.autograd.grad. May I call backward on what it returns?

With create_graph=True the graph stays, and the parameters get gradients through it. Without, grad frees the graph that the
loss has, and backward raises: retain_graph=True.
"""

import torch
from torch import nn


class Force(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 10), nn.Tanh(), nn.Linear(10, 1))

    def forward(self, x, y):
        x = x.requires_grad_()
        energy = ((self.net(x) - y) ** 2).sum()
        (force,) = torch.autograd.grad(energy, x, create_graph=True)
        return energy + force.square().mean()


class First(nn.Module):
    def __init__(self, retain):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 10), nn.ReLU(), nn.Linear(10, 1))
        self.retain = retain

    def forward(self, x, y):
        loss = ((self.net(x) - y) ** 2).sum()
        self.found = torch.autograd.grad(loss, list(self.net.parameters()), retain_graph=self.retain)
        return loss


def build(retain=None):
    x = torch.linspace(-2, 2, 16)[:, None]
    return First(retain), (x, x**2)


def build_mended():
    return build(retain=True)


def build_mended_second_order():
    x = torch.linspace(-2, 2, 16)[:, None]
    return Force(), (x, x**2)
