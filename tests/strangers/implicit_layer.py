"""A deep equilibrium layer: I expected my full hook on its cell to fire once, for the step with gradients. Why does it fire
four times in a backward?

The tensor hook that solves for the gradient runs torch.autograd.grad through one more step of the cell, three times: a backward
inside of backward, which calls the hooks of the nodes that it executes. A tensor hook on the result of the step that is meant
fires once.
"""

import torch
from torch import nn


def show(module, grad_input, grad_output):
    pass


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.state, self.input = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, z, x):
        return torch.tanh(0.5 * self.state(z) + self.input(x))


class Equilibrium(nn.Module):
    def __init__(self, on_step=None):
        super().__init__()
        self.cell, self.on_step = Cell(), on_step

    def forward(self, x):
        with torch.no_grad():
            z = torch.zeros_like(x)
            for _ in range(5):
                z = self.cell(z, x)
        z = self.cell(z, x)
        if self.on_step is not None:
            z.register_hook(self.on_step)
        before = z.detach().requires_grad_()
        after = self.cell(before, x)

        def solve(grad):
            total = grad
            for _ in range(3):
                total = grad + torch.autograd.grad(after, before, total, retain_graph=True)[0]
            return total

        z.register_hook(solve)
        return z


def build():
    model = nn.Sequential(nn.Linear(4, 4), Equilibrium(), nn.Linear(4, 1))
    model[1].cell.register_full_backward_hook(show)
    return model, (torch.randn(3, 4),), {}


def build_mended():
    model = nn.Sequential(nn.Linear(4, 4), Equilibrium(on_step=lambda grad: None), nn.Linear(4, 1))
    return model, (torch.randn(3, 4),), {}
