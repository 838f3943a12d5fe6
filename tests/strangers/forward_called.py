"""Question: the hook on the module is never called; is it because the input needs no grad?

Answer: no: the program calls self.scale.forward(x) where it means self.scale(x). Hooks are called by Module.__call__.
"""

import torch
from torch import nn


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return x * self.factor


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = Scale()
        self.body = nn.Sequential(nn.Linear(3, 3), nn.Tanh())


class ByForward(Net):
    def forward(self, x):
        x = self.scale.forward(x)
        return self.body.forward(x)


class ByCall(Net):
    def forward(self, x):
        x = self.scale(x)
        return self.body(x)


def hook(module, grad_input, grad_output):
    del module, grad_input, grad_output


def hook_all(model):
    model.scale.register_full_backward_hook(hook)
    model.body.register_full_backward_hook(hook)
    return model, (torch.ones(2, 3, requires_grad=True),)


def build():
    return hook_all(ByForward())


def build_mended():
    return hook_all(ByCall())
