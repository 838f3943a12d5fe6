"""Question: the first step works, the second raises "Trying to backward through the graph a second time". I have no RNN.

Something that an earlier step computed is used again with its graph: a memory of features, a loss that sums up, a weight that
__init__ computed once. What is kept is detached; what is to be trained is computed in each forward.
"""

import torch
from torch import nn


class Memory(nn.Module):
    def __init__(self, *, detach=False):
        super().__init__()
        self.encoder, self.head = nn.Linear(3, 3), nn.Linear(3, 1)
        self.memory, self.detach = [], detach

    def forward(self, x):
        features = self.encoder(x)
        loss = sum(self.head(each).square().mean() for each in [*self.memory, features])
        self.memory.append(features.detach() if self.detach else features)
        return loss


class Sum(nn.Module):
    def __init__(self, *, detach=False):
        super().__init__()
        self.linear, self.total, self.detach = nn.Linear(3, 3), 0.0, detach

    def forward(self, x):
        loss = self.linear(x).square().mean()
        self.total = self.total + (loss.detach() if self.detach else loss)
        return loss if self.detach else self.total


class Precomputed(nn.Module):
    def __init__(self, *, anew=False):
        super().__init__()
        self.raw = nn.Parameter(torch.randn(3, 3))
        self.weight, self.anew = None if anew else self.raw.exp(), anew

    def forward(self, x):
        return (x @ (self.raw.exp() if self.anew else self.weight)).sum()


def second_step(model):
    x = torch.randn(2, 3)
    model(x).backward()
    return model, (x,)


def build():
    return second_step(Memory())


def build_summed():
    return second_step(Sum())


def build_precomputed():
    return second_step(Precomputed())


def build_mended():
    return second_step(Memory(detach=True))


def build_mended_summed():
    return second_step(Sum(detach=True))


def build_mended_precomputed():
    return second_step(Precomputed(anew=True))
