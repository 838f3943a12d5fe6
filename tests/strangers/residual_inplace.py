"""Question: DeepExplainer puts a full hook on every leaf module, and forward raises; which line of my model breaks it?

Answer: `x += shortcut`: x is what bn returned, which has a hook. x = x + shortcut.
"""

import torch
from torch import nn


def handler(module, grad_input, grad_output):
    del module, grad_input, grad_output


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()

    def forward(self, x):
        shortcut = x
        x = self.bn(self.relu(self.conv(x)))
        x += shortcut
        return self.relu(x)


class OutOfPlace(Block):
    def forward(self, x):
        x = x + self.bn(self.relu(self.conv(x)))
        return self.relu(x)


def hook_all(model):
    for module in model.children():
        module.register_full_backward_hook(handler)
    return model, (torch.randn(2, 4, 6, 6, requires_grad=True),)


def build():
    return hook_all(Block())


def build_mended():
    return hook_all(OutOfPlace())
