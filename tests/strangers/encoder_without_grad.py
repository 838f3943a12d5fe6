"""I hook a block of our encoder, and the hook never fires; the encoder does not train either. There is no error. Why?

A decorator that was left on the method which calls the encoder, @torch.no_grad(), disables gradients for all of it: none of its
calls makes nodes for a hook. Call it with gradients enabled.
"""

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.mix = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.Linear(4, 4)

    def forward(self, x):
        x = self.conv(x)
        x = self.norm(x)
        return x + self.mix(x).relu()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Sequential(Block(), Block(), Block()), nn.Linear(4, 1)

    def encode(self, image):
        return self.encoder(image)

    def forward(self, image):
        return self.head(self.encode(image))


class Decorated(Model):
    @torch.no_grad()
    def encode(self, image):
        return self.encoder(image)


def hook(model):
    model.encoder[1].register_full_backward_hook(lambda module, grad_input, grad_output: None)
    return model, (torch.randn(2, 1, 4, 4),), {}


def build():
    return hook(Decorated())


def build_mended():
    return hook(Model())
