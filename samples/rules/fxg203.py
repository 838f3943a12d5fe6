"""FXG203: backward raises: what a node saved was changed in place since."""

import torch
from torch import nn


class Overwriting(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(10, 20)

    def forward(self, x):
        gate = self.linear(x).sigmoid()  # saves its result
        output = gate * 2
        gate.add_(1)
        return output + gate


class Adding(Overwriting):
    def forward(self, x):
        gate = self.linear(x).sigmoid()
        output = gate * 2
        return output + (gate + 1)


def build():
    return Overwriting(), (torch.randn(8, 10),)


def build_mended():
    return Adding(), (torch.randn(8, 10),)
