"""Question: "Trying to backward through the graph a second time", and with retain_graph=True it becomes "modified by an inplace
operation". Two losses, two optimizers.

The first backward frees what both losses share. Which change helps depends on what comes between the two: nothing
(retain_graph=True, or a detached tensor), a step of an optimizer (both backwards before it), or the result of
torch.autograd.grad itself (create_graph=True).
"""

import torch
from torch import nn
from torch.nn.functional import softplus


class Gan(nn.Module):
    def __init__(self, *, detach=False, retain=None):
        super().__init__()
        self.made, self.judge = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), nn.Linear(4, 1)
        self.optimizer = torch.optim.SGD(self.judge.parameters(), lr=0.1)
        self.detach, self.retain = detach, retain

    def forward(self, noise, real):
        fake = self.made(noise)
        shown = fake.detach() if self.detach else fake
        loss = softplus(-self.judge(real)).mean() + softplus(self.judge(shown)).mean()
        loss.backward(retain_graph=self.retain)
        self.optimizer.step()
        return softplus(-self.judge(fake)).mean()


class ActorCritic(nn.Module):
    """Both heads use the features, and the step of the first changes the weights that made them."""

    def __init__(self, *, late=False):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())
        self.value, self.policy = nn.Linear(4, 1), nn.Linear(4, 2)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        self.late = late

    def forward(self, x):
        features = self.body(x)
        critic = (1 - self.value(features)).square().mean()
        actor = -self.policy(features).log_softmax(-1)[:, 0].mean()
        if not self.late:
            critic.backward()
            self.optimizer.step()
            return actor
        return actor + critic


class Forces(nn.Module):
    def __init__(self, *, create_graph=False):
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        self.create_graph = create_graph

    def forward(self, positions):
        positions = positions.clone().requires_grad_()
        energy = self.energy(positions).sum()
        (slope,) = torch.autograd.grad(energy, positions, create_graph=self.create_graph)
        return energy + slope.square().sum()


def build():
    return Gan(), (torch.randn(2, 4), torch.randn(2, 4))


def build_stepped():
    return ActorCritic(), (torch.randn(2, 4),)


def build_forces():
    return Forces(), (torch.randn(2, 3),)


def build_mended():
    return Gan(detach=True), (torch.randn(2, 4), torch.randn(2, 4))


def build_mended_retained():
    return Gan(retain=True), (torch.randn(2, 4), torch.randn(2, 4))


def build_mended_stepped():
    return ActorCritic(late=True), (torch.randn(2, 4),)


def build_mended_forces():
    return Forces(create_graph=True), (torch.randn(2, 3),)
