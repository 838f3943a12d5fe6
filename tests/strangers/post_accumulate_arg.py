"""My all-reduce hook divides its argument and returns it. Why do the gradients stay the same, and the weights shrink?

Because a post-accumulate hook gets the parameter, not its gradient, and what it returns is ignored.
"""

import torch
from torch import nn


def average(grad):
    grad /= 2
    return grad


def average_data(weight):
    with torch.no_grad():
        weight.data.mul_(0.5)


def average_gradient(parameter):
    parameter.grad /= 2


def build(hook=average):
    model = nn.Linear(3, 2)
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(hook)
    return model, (torch.randn(4, 3),)


def build_data():
    return build(average_data)


def build_mended():
    return build(average_gradient)
