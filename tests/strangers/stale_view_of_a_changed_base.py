"""Question: does forward raise?

Answer: no. Reading the grad_fn of a view whose base was changed in place makes it anew, and fxgrad does not do that for the
program. What is to be told: the hooks on the view never fire, neither that from before the change nor that from after it.
"""

import torch
from torch import nn


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        base = x * self.scale
        view = base[:2]
        view.register_hook(lambda grad: None)
        view.retain_grad()
        base.mul_(2)
        view.register_hook(lambda grad: None)
        return base.sum() + view.exp().sum()


class Mended(Doubled):
    def forward(self, x):
        base = x * self.scale
        base.mul_(2)
        view = base[:2]
        view.register_hook(lambda grad: None)
        return base.sum() + view.exp().sum()


def build():
    return Doubled(), torch.ones(4, 3, requires_grad=True)


def build_mended():
    return Mended(), torch.ones(4, 3, requires_grad=True)
