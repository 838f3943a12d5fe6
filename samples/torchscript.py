"""A scripted model: its nodes are tied to the modules inside of the script, on which no backward hook can be registered.

A hook on a parameter works, and so does one on a tensor that goes in or comes out. What `model.save("model.pt")` writes is
a TARGET as well, with `--input`; it keeps no hooks.

    fxgrad report samples/torchscript.py
"""

import torch
from torch import nn


def print_size(grad):
    print(tuple(grad.shape))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(10), nn.Linear(10, 10)

    def forward(self, x):
        return torch.relu(self.linear(self.norm(x))) + x


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(10, 1)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def build():
    model = torch.jit.script(Model())
    model.blocks[0].linear.weight.register_hook(print_size)
    return model, (torch.randn(8, 10),)
