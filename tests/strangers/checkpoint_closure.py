"""We checkpoint with a lambda, and pairs of tensors. Neither the layers inside nor those before get gradients. Why?

checkpoint(use_reentrant=True) is a custom Function, and only a tensor that is an argument of its own counts: not what a lambda
closes over, and not what is inside a tuple. Pass the tensors one by one, or use_reentrant=False.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Model(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.before, self.inside = nn.Linear(4, 4), nn.Linear(4, 4)
        self.call = call

    def forward(self, x):
        hidden = self.before(x)
        return self.call(self.inside, hidden).sum() + self.before.bias.sum()


def with_closure(layer, hidden):
    return checkpoint(lambda: layer(hidden).relu(), use_reentrant=True)


def with_tuple(layer, hidden):
    return checkpoint(lambda pair: layer(pair[0] + pair[1]), (hidden, hidden), use_reentrant=True)


def one_by_one(layer, hidden):
    return checkpoint(lambda first, second: layer(first + second), hidden, hidden, use_reentrant=True)


def without_reentering(layer, hidden):
    return checkpoint(lambda: layer(hidden).relu(), use_reentrant=False)


def make(call):
    model = Model(call)
    model.inside.weight.register_hook(lambda grad: None)
    return model, (torch.randn(2, 4),)


def build():
    return make(with_closure)


def build_with_tuple():
    return make(with_tuple)


def build_mended():
    return make(one_by_one)


def build_mended_without_reentering():
    return make(without_reentering)
