"""Question: my hook on the weight was called until I loaded a checkpoint (tied the weights, normalized them, copied the
model). Now it never is, and nothing is said.

Answer: the hook stays on the nn.Parameter that it was registered on, and the model has another one now: register it after that.
"""

import copy

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)

    def forward(self, x):
        return self.out(self.embed(x)).square().mean()


def scale(grad):
    grad.mul_(0.1)


def assign(model):
    model.out.weight = nn.Parameter(torch.randn(5, 4))
    return model


def load(model):
    model.load_state_dict(Net().state_dict(), assign=True)
    return model


def tie(model):
    model.out.weight = model.embed.weight
    return model


def normalize(model):
    weight_norm(model.out)
    return model


def make(replace, *, late=False):
    model = Net()
    if not late:
        model.out.weight.register_hook(scale)
    model = replace(model)
    if late:
        weight = model.out.parametrizations.weight.original1 if replace is normalize else model.out.weight
        weight.register_hook(scale)
    return model, (torch.tensor([0, 1, 2]),)


def build():
    return make(assign)


def build_loaded():
    return make(load)


def build_tied():
    return make(tie)


def build_normalized():
    return make(normalize)


def build_copied():
    return make(copy.deepcopy)


def build_mended():
    return make(assign, late=True)


def build_mended_loaded():
    return make(load, late=True)


def build_mended_tied():
    return make(tie, late=True)


def build_mended_normalized():
    return make(normalize, late=True)


def build_mended_copied():
    return make(copy.deepcopy, late=True)
