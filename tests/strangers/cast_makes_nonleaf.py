"""Question: x was made with requires_grad=True, and x.grad is None after backward. Why?

Answer: what .to() returns is no leaf: its gradient goes on to the tensor made before the conversion. Make x a leaf after
the conversion, or call x.retain_grad().
"""

import torch
from torch import nn


class Square(nn.Module):
    def forward(self, x):
        return 10 * (x**2).sum()


def build():
    x = torch.arange(12.0, requires_grad=True).reshape(3, 4)
    x = x.to(torch.float64)
    return Square(), (x,)


def build_mended():
    x = torch.arange(12.0, requires_grad=True).reshape(3, 4)
    x = x.to(torch.float64)
    x = x.detach().requires_grad_()
    return Square(), (x,)


def build_mended_retained():
    x = torch.arange(12.0, requires_grad=True).reshape(3, 4)
    x = x.to(torch.float64)
    x.retain_grad()
    return Square(), (x,)
