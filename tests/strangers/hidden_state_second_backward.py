"""Question: "Trying to backward through the graph a second time", in the second step of my recurrent model.

The hidden state of the first step goes into the second with its graph, and the first backward has freed that graph:
`hidden = hidden.detach()` between the steps.
"""

import torch
from torch import nn


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 6, batch_first=True)
        self.out = nn.Linear(6, 1)
        self.hidden = torch.zeros(1, 2, 6)

    def forward(self, x):
        seen, self.hidden = self.rnn(x, self.hidden)
        return self.out(seen[:, -1]).square().mean()


class Leaky(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.register_buffer("state", torch.zeros(3))

    def forward(self, x):
        self.state = self.state * 0.9 + self.inner(x).tanh()
        return self.state.exp().sum()


def build(detach=False):
    model = Reader()
    model(torch.randn(2, 5, 4)).backward()
    if detach:
        model.hidden = model.hidden.detach()
    return model, (torch.randn(2, 5, 4),)


def build_mended():
    return build(detach=True)


def build_buffer(detach=False):
    """A buffer that is set to zero between the steps still holds the graph."""
    model = Leaky()
    model(torch.randn(3)).backward()
    model.state.zero_()
    if detach:
        model.state = model.state.detach()
    return model, (torch.randn(3),)


def build_mended_buffer():
    return build_buffer(detach=True)
