"""Question: what does the full hook on `lin` get as grad_input?

Answer: one entry of shape (3, 4), the argument as it was when the module was called. That it is reshaped in place
afterwards changes nothing, as the layer is frozen: there is nothing to find.
"""

import torch
from torch import nn


class Late(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 5).requires_grad_(False)
        self.lin.register_full_backward_hook(lambda module, grad_input, grad_output: None)

    def forward(self, x):
        result = self.lin(x)
        with torch.no_grad():
            x.unsqueeze_(0)
        return result.sum()


class Mended(Late):
    def forward(self, x):
        return self.lin(x).sum() + x.unsqueeze(0).sum()


def build():
    return Late(), torch.randn(3, 4, requires_grad=True)


def build_mended():
    return Mended(), torch.randn(3, 4, requires_grad=True)
