"""A residual block with one in-place ReLU that is used twice, with hooks on the ReLU, on a convolution and the block.

The ReLU changes its input in place, so a full hook on the BatchNorm before it would make forward raise (FXG106); the
non-full hook on the ReLU sits on whatever node its result has.

    fxgrad report samples/resnet_block.py
"""

import torch
from torch import nn


def print_sizes(module, grad_input, grad_output):
    for name, grads in (("grad_input", grad_input), ("grad_output", grad_output)):
        print(name, [None if grad is None else tuple(grad.shape) for grad in grads])


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        out += identity
        return self.relu(out)


def build():
    model = Block(channels=8)
    model.relu.register_backward_hook(print_sizes)
    model.conv2.register_full_backward_hook(print_sizes)
    model.bn1.weight.register_hook(lambda grad: None)
    return model, (torch.randn(2, 8, 16, 16, requires_grad=True),)
