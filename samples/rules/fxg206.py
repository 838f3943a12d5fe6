"""FXG206: a reentrant checkpoint gets nothing that requires grad, so what it uses gets no gradient."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant=True):
        super().__init__()
        self.block, self.head, self.reentrant = nn.Linear(10, 20), nn.Linear(20, 1), reentrant

    def forward(self, x):
        return self.head(checkpoint(self.block, x, use_reentrant=self.reentrant))


def build():
    return Checkpointed(), (torch.randn(8, 10),)


def build_mended():
    return Checkpointed(reentrant=False), (torch.randn(8, 10),)
