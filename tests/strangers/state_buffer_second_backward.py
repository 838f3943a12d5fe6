"""Question: "Trying to backward through the graph a second time", although `reset` sets my state to zero.

The buffer `state` holds the graph of the step before, whatever its values are: ``state.detach_()``.
"""

import torch
from torch import nn


class Leaky(nn.Module):
    def __init__(self, *, detach=False):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.register_buffer("state", torch.zeros(3))
        self.detach = detach

    def reset(self):
        if self.detach:
            self.state.detach_()
        self.state.zero_()

    def forward(self, x):
        self.state = self.state * 0.9 + self.inner(x).tanh()
        return self.state.exp().sum()


def make_model(*, detach):
    """The second step as a loop meets it."""
    model = Leaky(detach=detach)
    model(torch.randn(3)).backward()
    model.reset()
    return model, (torch.randn(3),)


def build():
    return make_model(detach=False)


def build_mended():
    return make_model(detach=True)
