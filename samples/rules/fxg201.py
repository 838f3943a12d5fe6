"""FXG201: a parameter gets no gradient: detach cuts it off."""

import torch
from torch import nn


class Cut(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Linear(10, 20), nn.Linear(20, 1)

    def forward(self, x):
        return self.head(self.encoder(x).detach())


class Whole(Cut):
    def forward(self, x):
        return self.head(self.encoder(x))


def build():
    return Cut(), (torch.randn(8, 10),)


def build_mended():
    return Whole(), (torch.randn(8, 10),)
