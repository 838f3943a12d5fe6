"""With a full hook on it, self-attention does not take the self-attention branch any more. Why?

Because the full hook passes query, key and value through BackwardHookFunction: they come out as three different tensors,
so `query is key` is False inside, and three projections run. The gradients stay the same, up to rounding.
"""

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


def build_in_a_layer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    layer.self_attn.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    return layer, (torch.randn(2, 5, 8, requires_grad=True),)


def build_without_grad():
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    attention.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    return attention, (torch.ones(2, 5, 8),) * 3


def build_mended():
    return SelfAttention(on_result=lambda grad: None), (torch.randn(2, 5, 8),)
