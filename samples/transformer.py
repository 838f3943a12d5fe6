"""A TransformerEncoder of two layers, with full hooks on attention and on the first layer.

MultiheadAttention returns (output, weights): grad_output has two entries, and weights is None. Its out_proj is never
called as a module (its weights are used directly), so a hook there never fires.

    fxgrad report samples/transformer.py
"""

import torch
from torch import nn


def print_sizes(module, grad_input, grad_output):
    for name, grads in (("grad_input", grad_input), ("grad_output", grad_output)):
        print(name, [None if grad is None else tuple(grad.shape) for grad in grads])


def build():
    layer = nn.TransformerEncoderLayer(d_model=32, nhead=4, dim_feedforward=64, batch_first=True)
    model = nn.TransformerEncoder(layer, num_layers=2)
    model.layers[0].register_full_backward_hook(print_sizes)
    model.layers[1].self_attn.register_full_backward_hook(print_sizes)
    model.layers[1].self_attn.out_proj.register_full_backward_hook(print_sizes)
    return model, (torch.randn(4, 10, 32),)
