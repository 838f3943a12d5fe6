"""My actor returns a torch.distributions.Normal, and its full backward hook never fires, though its weights train. Why?

A full hook sees only a Tensor, or the Tensors of a tuple, as result: the distribution's are inside an object. Let a module
return them in a tuple, and make the distribution of that outside; or put tensor hooks on them.
"""

import torch
from torch import nn


def show(module, grad_input, grad_output):
    pass


class Statistics(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.log_scale = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x):
        return self.mean(x), self.log_scale(x).exp()


class Actor(Statistics):
    def forward(self, x):
        return torch.distributions.Normal(*super().forward(x))


class Policy(nn.Module):
    def __init__(self, actor, on_scale=None):
        super().__init__()
        self.actor, self.critic, self.on_scale = actor, nn.Linear(3, 1), on_scale

    def forward(self, state, action, returns):
        distribution = self.actor(state)
        if isinstance(distribution, tuple):
            distribution = torch.distributions.Normal(*distribution)
        if self.on_scale is not None:
            distribution.scale.register_hook(self.on_scale)
        value = self.critic(state).squeeze(-1)
        advantage = (returns - value).detach()
        return (value - returns).pow(2).mean() - (distribution.log_prob(action).sum(-1) * advantage).mean()


def make_batch():
    return torch.randn(4, 3, requires_grad=True), torch.randn(4, 2), torch.randn(4)


def build():
    model = Policy(Actor())
    model.actor.register_full_backward_hook(show)
    return model, make_batch()


def build_with_a_pre_hook():
    model = Policy(Actor())
    model.actor.register_full_backward_pre_hook(lambda module, grad_output: None)
    return model, make_batch()


def build_mended():
    model = Policy(Statistics())
    model.actor.register_full_backward_hook(show)
    return model, make_batch()


def build_mended_by_a_tensor_hook():
    return Policy(Actor(), on_scale=lambda grad: None), make_batch()
