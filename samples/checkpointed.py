"""Two segments under torch.utils.checkpoint, one of each kind, with a full hook in each.

Without reentrance the hooks sit where they would sit without a checkpoint. In the reentrant one the modules run under
no_grad in forward, and their hooks attach only when backward runs them again: whether they fire is not known before.

    fxgrad explain samples/checkpointed.py
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def print_sizes(module, grad_input, grad_output):
    for name, grads in (("grad_input", grad_input), ("grad_output", grad_output)):
        print(name, [None if grad is None else tuple(grad.shape) for grad in grads])


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.second = nn.Sequential(nn.Linear(8, 8), nn.Tanh())

    def forward(self, x):
        x = checkpoint(self.first, x, use_reentrant=False)
        return checkpoint(self.second, x, use_reentrant=True)


def build():
    model = Checkpointed()
    model.first[0].register_full_backward_hook(print_sizes)
    model.second[0].register_full_backward_hook(print_sizes)
    return model, (torch.randn(3, 8, requires_grad=True),)
