"""Question: a GRU makes the weight of a layer, as in EvolveGCN. The layer trains; the GRU's parameters have no gradient.

Answer: nn.Parameter(weight) makes a new leaf, without the history of what it is made of, so backward ends there. Use the tensor
itself: functional_call, or torch.nn.functional. (And no optimizer knows a parameter that forward makes.)
"""

import torch
from torch import nn
from torch.func import functional_call


class Evolving(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRUCell(3, 3)
        self.initial = nn.Parameter(torch.randn(3, 3))
        self.layer = nn.Linear(3, 3, bias=False)

    def forward(self, x):
        evolved = self.gru(self.initial, self.initial)
        self.layer.weight = nn.Parameter(evolved)
        return self.layer(x).sum()


class EvolvingData(Evolving):
    def forward(self, x):
        self.layer.weight.data = self.gru(self.initial, self.initial)
        return self.layer(x).sum()


class Functional(Evolving):
    def forward(self, x):
        evolved = self.gru(self.initial, self.initial)
        return functional_call(self.layer, {"weight": evolved}, (x,)).sum()


def build():
    return Evolving(), (torch.randn(4, 3),)


def build_data():
    return EvolvingData(), (torch.randn(4, 3),)


def build_mended():
    model = Functional()
    model.layer.weight.requires_grad_(False)
    return model, (torch.randn(4, 3),)
