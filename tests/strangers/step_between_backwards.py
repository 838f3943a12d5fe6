"""Question: "modified by an inplace operation: [torch.FloatTensor [4, 2]], which is output 0 of AsStrided". I change nothing.

optimizer.step() changes the weights in place between forward and the second backward, for which forward saved them: call
each backward before it, or run forward again.
"""

import torch
from torch import nn


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.critic = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)

    def forward(self, x):
        judged, loss = self.judge(x)
        loss.backward(retain_graph=True)
        self.optimizer.step()
        return nn.functional.cross_entropy(judged, torch.zeros(x.shape[0], dtype=torch.long))

    def judge(self, x):
        z = self.encoder(x)
        judged = self.critic(z)
        return judged, z.square().mean() + judged.mean()


class Mended(Both):
    def forward(self, x):
        _, loss = self.judge(x)
        loss.backward()
        self.optimizer.step()
        judged, _ = self.judge(x)
        return nn.functional.cross_entropy(judged, torch.zeros(x.shape[0], dtype=torch.long))


def build():
    return Both(), (torch.randn(5, 4),)


def build_mended():
    return Mended(), (torch.randn(5, 4),)
