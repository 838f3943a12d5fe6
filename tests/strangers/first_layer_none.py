"""Question: register_backward_hook on the first conv gives (None, (8, 3, 3, 3), None); where is the image's gradient?

Answer: the entries are the arguments of convolution: input, weight and bias. The image requires no grad, so its entry is
None: a full hook, and image.requires_grad_() before the model is called.
"""

import torch
from torch import nn


def keep(module, grad_in, grad_out):
    del module, grad_in, grad_out


def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())


def build():
    model = make()
    model[0].register_backward_hook(keep)
    return model, (torch.randn(1, 3, 8, 8),)


def build_full():
    model = make()
    model[0].register_full_backward_hook(keep)
    return model, (torch.randn(1, 3, 8, 8),)


def build_mended():
    model = make()
    model[0].register_full_backward_hook(keep)
    image = torch.randn(1, 3, 8, 8)
    return model, (image.requires_grad_(),)
