"""FXG117: a full hook on self-attention makes three tensors of one."""

import torch
from torch import nn


class SelfAttention(nn.Module):
    def __init__(self, *, on_result=None):
        super().__init__()
        self.embed, self.attention = nn.Linear(8, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.on_result = on_result

    def forward(self, x):
        x = self.embed(x)
        y, _ = self.attention(x, x, x)
        if self.on_result is not None:
            y.register_hook(self.on_result)
        return y


def build():
    model = SelfAttention()
    model.attention.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    return model, (torch.randn(2, 5, 8),)


def build_mended():
    return SelfAttention(on_result=lambda grad: None), (torch.randn(2, 5, 8),)
