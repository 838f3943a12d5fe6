"""FXG114: backward(inputs=...) executes the nodes on the way to those inputs, and no other."""

import torch
from torch import nn


def print_sizes(module, grad_input, grad_output):
    print([None if grad is None else tuple(grad.shape) for grad in grad_input])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Linear(10, 20), nn.Linear(20, 1)

    def forward(self, x):
        hidden = self.encoder(x)
        return self.head(hidden)


def build():
    model = Net()
    model.encoder.register_full_backward_hook(print_sizes)  # not called in backward(inputs=[head.weight])
    return model, (torch.randn(8, 10, requires_grad=True),)


def build_mended():
    model = Net()
    model.head.register_full_backward_pre_hook(lambda module, grad_output: None)
    return model, (torch.randn(8, 10, requires_grad=True),)
