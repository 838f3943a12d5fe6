"""A gradient reversal by a full hook on every block works, but raises for the first block. Why?

Because the first block's input requires no grad: the hook is called with (None,), and may return nothing but None.
"""

import torch
from torch import nn


def reverse(module, grad_input, grad_output):
    return tuple(-grad for grad in grad_output[:1])


def reverse_before(module, grad_output):
    return tuple(-grad for grad in grad_output)


def build(*, requires_grad=False):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[0].register_full_backward_hook(reverse)
    model[2].register_full_backward_hook(reverse)
    return model, (torch.randn(2, 4, requires_grad=requires_grad),)


def build_mended():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[0].register_full_backward_pre_hook(reverse_before)
    model[2].register_full_backward_pre_hook(reverse_before)
    return model, (torch.randn(2, 4),)


def build_mended_input():
    return build(requires_grad=True)
