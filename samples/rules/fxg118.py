"""FXG118: a post-accumulate hook changes what it gets: the weight, not its gradient."""

import torch
from torch import nn


def average(grad):
    grad /= 2
    return grad


def average_gradient(parameter):
    parameter.grad /= 2


def build(hook=average):
    model = nn.Linear(10, 20)
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(hook)
    return model, (torch.randn(8, 10),)


def build_mended():
    return build(average_gradient)
