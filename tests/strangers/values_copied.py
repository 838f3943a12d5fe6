"""Question: the encoder gets no gradient, and there is no detach anywhere.

Values are copied out of autograd's sight: torch.tensor([...]) of tensors (torch.stack), also with requires_grad=True, which makes
a leaf that hides it; a write to .data; a Variable, which is a new leaf; a sample of a distribution (rsample).
"""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.encoder, self.head, self.way = nn.Linear(3, 2), nn.Linear(2, 1), way

    def forward(self, x):
        return self.head(self.way(self.encoder(x))).square().mean()


def listed(features):
    return torch.tensor([each.mean() for each in features.unbind(1)])


def listed_as_leaf(features):
    return torch.tensor([each.mean() for each in features.unbind(1)], requires_grad=True)


def stacked(features):
    return torch.stack([each.mean() for each in features.unbind(1)])


def padded_in_data(features):
    padded = torch.zeros(4, 2)
    padded.data[: len(features)] = features
    return padded


def padded(features):
    made = torch.zeros(4, 2)
    made[: len(features)] = features
    return made


def sampled(features):
    return torch.distributions.Normal(features, 1.0).sample()


def reparametrized(features):
    return torch.distributions.Normal(features, 1.0).rsample()


def wrapped(features):
    return torch.autograd.Variable(features, requires_grad=True)


def make(way):
    return Net(way), (torch.randn(2, 3),)


def build():
    return make(listed)


def build_leaf():
    return make(listed_as_leaf)


def build_padded():
    return make(padded_in_data)


def build_sampled():
    return make(sampled)


def build_wrapped():
    return make(wrapped)


def build_mended():
    return make(stacked)


def build_mended_padded():
    return make(padded)


def build_mended_sampled():
    return make(reparametrized)
