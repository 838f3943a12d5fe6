"""I have registered no hook: what are the 18 hooks on my compiled model?

Dynamo's own: it puts hooks on the nodes that it traces, for the stack traces of errors. Nothing is to be said of them, and
nothing is to be mended.
"""

import torch
from torch import nn


def build():
    model = torch.compile(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1)), backend="aot_eager")
    x = torch.randn(2, 3)
    model(x).sum().backward()  # warm up
    model.zero_grad()
    return model, (x,)


def build_mended():
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1)), (torch.randn(2, 3),)
