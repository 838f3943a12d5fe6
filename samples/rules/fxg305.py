"""FXG305: inside vmap, nothing requires grad that a hook could be put on."""

import torch
from torch import nn


def print_norm(module, grad_input, grad_output):
    print(grad_output[0].norm())


class PerSample(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(10, 1)

    def forward(self, x):
        return torch.func.vmap(self.net)(x)


def build():
    model = PerSample()
    model.net.register_full_backward_hook(print_norm)
    return model, (torch.randn(8, 10, requires_grad=True),)


def build_mended():
    model = PerSample()
    model.register_full_backward_hook(print_norm)
    return model, (torch.randn(8, 10, requires_grad=True),)
