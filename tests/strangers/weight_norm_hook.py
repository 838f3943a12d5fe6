"""Since we use weight_norm, the tensor hook on our layer's weight never fires. Why? (The same with any parametrization.)

layer.weight is computed anew in each forward, from original0 and original1. The hook is on the tensor that was computed when it
was registered, which no forward uses. Register it on the originals, which are the parameters.
"""

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize


class Symmetric(nn.Module):
    def forward(self, matrix):
        return matrix.triu() + matrix.triu(1).T


class Layer(nn.Module):
    def __init__(self, on_weight=None):
        super().__init__()
        self.linear = parametrizations.weight_norm(nn.Linear(3, 3))
        self.on_weight = on_weight

    def forward(self, x):
        with parametrize.cached():
            if self.on_weight is not None:
                self.linear.weight.register_hook(self.on_weight)
            return self.linear(x)


def see(grad):
    return None


def build():
    model = Layer()
    model.linear.weight.register_hook(see)
    return model, (torch.randn(2, 3),), {}


def build_symmetric():
    linear = nn.Linear(3, 3)
    parametrize.register_parametrization(linear, "weight", Symmetric())
    linear.weight.register_hook(see)
    return linear, (torch.randn(2, 3),), {}


def build_mended():
    model = Layer()
    for name in ("original0", "original1"):
        getattr(model.linear.parametrizations.weight, name).register_hook(see)
    return model, (torch.randn(2, 3),), {}


def build_mended_in_forward():
    return Layer(on_weight=see), (torch.randn(2, 3),), {}
