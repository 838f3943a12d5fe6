"""Question: the loss gets a gradient for every layer, but some weights never change. Why?

Answer: the layers in the list, and those that forward makes, are not in model.parameters(), so the optimizer never
updates them. Hold them in an nn.ModuleList; make them in __init__.
"""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, hold):
        super().__init__()
        self.hidden = hold([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.last = nn.Linear(4, 1)

    def forward(self, x):
        for layer in self.hidden:
            x = layer(x).relu()
        return self.last(x).mean()


class Experts(nn.Module):
    def __init__(self, hold):
        super().__init__()
        self.experts = hold({"left": nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "right": nn.Linear(4, 4)})

    def forward(self, x):
        return sum(expert(x).mean() for expert in self.experts.values())


class Inside(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 1)

    def forward(self, x):
        x = nn.Linear(4, 4)(x).relu()
        return self.last(x).mean()


class Before(Inside):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x):
        return self.last(self.first(x).relu()).mean()


class Scaled(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.scale = make(torch.ones(4, requires_grad=True))

    def forward(self, x):
        return (x * self.scale).mean()


def build():
    return Net(list), (torch.randn(3, 4),)


def build_mended():
    return Net(nn.ModuleList), (torch.randn(3, 4),)


def build_dict():
    return Experts(dict), (torch.randn(3, 4),)


def build_mended_dict():
    return Experts(nn.ModuleDict), (torch.randn(3, 4),)


def build_inside():
    return Inside(), (torch.randn(3, 4),)


def build_mended_inside():
    return Before(), (torch.randn(3, 4),)


def build_tensor():
    return Scaled(torch.as_tensor), (torch.randn(3, 4),)


def build_mended_tensor():
    return Scaled(nn.Parameter), (torch.randn(3, 4),)
