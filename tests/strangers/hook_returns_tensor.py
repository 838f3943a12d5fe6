"""Does my full hook, which returns the gradient of the module's input, work?

No: it must return None or a tuple as long as grad_input. Of a bare tensor, the first dimension counts as the number of
entries, so backward raises.
"""

import torch
from torch import nn


def same(module, grad_input, grad_output):
    return grad_input[0]


def same_in_a_tuple(module, grad_input, grad_output):
    return (grad_input[0],)


def build(hook=same):
    model = nn.Sequential(nn.Linear(3, 3), nn.Identity(), nn.Linear(3, 1))
    model[1].register_full_backward_hook(hook)
    return model, (torch.randn(2, 3),)


def build_mended():
    return build(same_in_a_tuple)
