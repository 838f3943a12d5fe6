"""FXG202: backward raises: what it starts from does not require grad."""

import torch
from torch import nn


class Predicted(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(10, 3)

    def forward(self, x):
        return self.head(x).argmax(dim=1).float()  # argmax has no derivative


class Scored(Predicted):
    def forward(self, x):
        return self.head(x).logsumexp(dim=1)


def build():
    return Predicted(), (torch.randn(8, 10),)


def build_mended():
    return Scored(), (torch.randn(8, 10),)
