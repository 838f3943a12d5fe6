"""Question: which of these hooks are called?

`build`: none. relu saves its result, `out += residual` changes that in place, and backward raises at ReluBackward0, before
it comes to either hook. `build_freed`: the hidden state is kept from one step to the next with its graph. The second
backward calls the hook on `out`, and raises at a node that the first one freed, before it comes to the weight's.
"""

import torch
from torch import nn


def show(*given):
    print("called")


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        residual = self.one(x)
        out = self.two(residual).relu()
        out += residual
        return out.mean()


class MendedResidual(Residual):
    def forward(self, x):
        residual = self.one(x)
        out = self.two(residual).relu()
        out = out + residual
        return out.mean()


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 6, batch_first=True)
        self.out = nn.Linear(6, 1)
        self.hidden = torch.zeros(1, 2, 6)

    def forward(self, x):
        result, self.hidden = self.rnn(x, self.hidden)
        return self.out(result[:, -1]).mean()


def build(make=Residual):
    model = make()
    model.two.register_full_backward_hook(show)
    model.two.weight.register_hook(show)
    return model, (torch.randn(2, 4, requires_grad=True),)


def build_mended():
    return build(MendedResidual)


def build_freed(detach=False):
    model, x = Reader(), torch.randn(2, 3, 4)
    model(x).backward()  # the step before
    if detach:
        model.hidden = model.hidden.detach()
    model.rnn.weight_ih_l0.register_hook(show)
    model.out.register_full_backward_hook(show)
    return model, (x,)


def build_mended_freed():
    return build_freed(detach=True)
