"""At which module is the hook that grad-cam puts on an activation?

A forward hook registers it on what the convolution returned, so it is the convolution's, also where ``.cpu()`` then returns
the same tensor. Nothing is wrong with it.
"""

import torch
from torch import nn


def see(grad):
    print("HOOK", tuple(grad.shape))


def keep(module, arguments, output):
    output.register_hook(see)
    output.cpu().detach()


def only_hook(module, arguments, output):
    output.register_hook(see)


def make_model(hook):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))
    model[0].register_forward_hook(hook)
    return model, (torch.randn(1, 3, 10, 10),)


def build():
    return make_model(keep)


def build_mended():
    return make_model(only_hook)
