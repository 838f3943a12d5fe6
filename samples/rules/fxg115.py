"""FXG115: a hook inside a reentrant checkpoint is attached when backward runs it again."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def print_sizes(module, grad_input, grad_output):
    print([None if grad is None else tuple(grad.shape) for grad in grad_input])


class Segment(nn.Module):
    use_reentrant = True

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(10, 10)

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=self.use_reentrant)


class Mended(Segment):
    use_reentrant = False


def build():
    model = Segment()
    model.inner.register_full_backward_hook(print_sizes)
    return model, (torch.randn(8, 10, requires_grad=True),)


def build_mended():
    model = Mended()
    model.inner.register_full_backward_hook(print_sizes)
    return model, (torch.randn(8, 10, requires_grad=True),)
