"""FXG207: layers in a list get gradients, and no optimizer of model.parameters() ever updates them."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, hold=list):
        super().__init__()
        self.hidden = hold([nn.Linear(10, 10), nn.Linear(10, 10)])
        self.last = nn.Linear(10, 1)

    def forward(self, x):
        for layer in self.hidden:
            x = layer(x).relu()
        return self.last(x)


def build():
    return Net(), (torch.randn(8, 10),)


def build_mended():
    return Net(nn.ModuleList), (torch.randn(8, 10),)
