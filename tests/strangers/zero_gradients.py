"""Question: the loss requires grad, backward runs, and the encoder never learns: its .grad is all zero. Why?

Answer: round, sign and other step functions give zeros as their gradient whichever gradient arrives; a straight-through
estimator is wanted. ReLU and clamp do the same where every element is in their flat part.
"""

import torch
from torch import nn


class Quantized(nn.Module):
    def __init__(self, step):
        super().__init__()
        self.step = step
        self.enc, self.dec = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.dec(self.step(self.enc(x))).square().mean()


class StraightThrough(Quantized):
    def forward(self, x):
        x = self.enc(x)
        return self.dec(x + (self.step(x) - x).detach()).square().mean()


class Saturated(nn.Module):
    def __init__(self, bias, act):
        super().__init__()
        self.enc, self.dec, self.act = nn.Linear(4, 4), nn.Linear(4, 4), act
        nn.init.constant_(self.enc.bias, bias)

    def forward(self, x):
        return self.dec(self.act(self.enc(x))).square().mean()


def build():
    return Quantized(torch.round), (torch.randn(3, 4),)


def build_mended():
    return StraightThrough(torch.round), (torch.randn(3, 4),)


def build_sampled():
    return Quantized(lambda x: torch.bernoulli(x.sigmoid())), (torch.randn(3, 4),)


def build_floored():
    return Quantized(lambda x: torch.div(x, 2, rounding_mode="floor")), (torch.randn(3, 4),)


def build_saturated():
    return Saturated(-100.0, torch.relu), (torch.randn(3, 4),)


def build_mended_saturated():
    return Saturated(100.0, torch.relu), (torch.randn(3, 4),)


def build_clamped():
    return Saturated(-100.0, lambda x: x.clamp(0, 1)), (torch.randn(3, 4),)


def build_rounded_sigmoid():
    return Saturated(100.0, nn.Sigmoid()), (torch.randn(3, 4),)
