"""FXG204: parameters that forward does not use, for which DistributedDataParallel waits."""

import torch
from torch import nn


class Spare(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.spare = nn.Linear(10, 1), nn.Linear(10, 1)

    def forward(self, x):
        return self.head(x)


class Both(Spare):
    def forward(self, x):
        return self.head(x) + self.spare(x)


def build():
    return Spare(), (torch.randn(8, 10),)


def build_mended():
    return Both(), (torch.randn(8, 10),)
