"""Hooks that are called at another moment, or for something else, than one thinks.

`build_mended` makes the same, mended.

    fxgrad report samples/wrong_moment.py
    fxgrad check samples/wrong_moment.py
    fxgrad check samples/wrong_moment.py:build_mended
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def print_size(grad):
    print(tuple(grad.shape))


def print_weight(module, grad_input, grad_output):
    print("weight.grad", module.weight.grad)


def print_weight_ready(weight):
    print("weight.grad", tuple(weight.grad.shape))


def print_sizes(module, grad_input, grad_output):
    print([None if grad is None else tuple(grad.shape) for grad in grad_input])


class Early(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.segment = nn.Linear(4, 4)

    def forward(self, x):
        hidden = self.first(x)
        hidden.register_hook(print_size)
        hidden.relu_()
        return checkpoint(self.segment, hidden, use_reentrant=True)


class Mended(Early):
    def forward(self, x):
        hidden = self.first(x).relu()
        hidden.register_hook(print_size)
        return checkpoint(self.segment, hidden, use_reentrant=False)


def build():
    model, x = Early(), torch.randn(2, 4)
    reference = model.first(x)
    model.first.register_backward_hook(print_weight)  # weight.grad is added to later
    model.segment.register_full_backward_hook(print_sizes)  # attached when backward runs the checkpoint again
    model.first.weight.register_hook(lambda grad: print((grad * reference.sum()).shape))  # keeps reference's graph
    return model, (x,)


def build_mended():
    model, x = Mended(), torch.randn(2, 4)
    reference = model.first(x).detach()
    model.first.weight.register_post_accumulate_grad_hook(print_weight_ready)
    model.segment.register_full_backward_hook(print_sizes)
    model.first.weight.register_hook(lambda grad: print((grad * reference.sum()).shape))
    return model, (x,)
