"""Parameters that get no gradient, each for another reason.

`build_mended` makes the same model with every reason taken away.

    fxgrad report samples/lost_gradients.py
    fxgrad check samples/lost_gradients.py
    fxgrad check samples/lost_gradients.py:build_mended
"""

import torch
from torch import nn


class Lossy(nn.Module):
    def __init__(self):
        super().__init__()
        self.detached = nn.Linear(4, 4)
        self.without_grad = nn.Linear(4, 4)
        self.chosen = nn.Linear(4, 4)
        self.measured = nn.Linear(4, 4)
        self.dropped = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)
        self.kept = nn.Linear(4, 4)

    def forward(self, x):
        out = self.kept(x)
        out = out + self.detached(x).detach()
        with torch.no_grad():
            offset = self.without_grad(x)
        out = out + offset + self.chosen(x).argmax(-1, keepdim=True)
        out = out * self.measured(x).abs().max().item()
        self.dropped(x)
        return out


class Mended(Lossy):
    def forward(self, x):
        out = self.kept(x)
        out = out + self.detached(x)
        out = out + self.without_grad(x)
        out = out + self.chosen(x)
        out = out * self.measured(x).abs().max()
        return out + self.dropped(x) + self.unused(x)


def build():
    torch.manual_seed(0)  # the value that `item` takes is then the same in every run
    return Lossy(), (torch.randn(2, 4),)


def build_mended():
    return Mended(), (torch.randn(2, 4),)
