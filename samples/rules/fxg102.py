"""FXG102: on another device another kernel runs, and the hook sits on another node."""

import torch
from torch import nn


def print_sizes(module, grad_input, grad_output):
    print([None if grad is None else tuple(grad.shape) for grad in grad_input])


class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(10, 20)

    def forward(self, x, hidden):
        return self.cell(x, hidden)


def build():
    model = Step()
    model.cell.register_backward_hook(print_sizes)  # on CUDA the cell is one fused function
    return model, (torch.randn(8, 10, requires_grad=True), torch.randn(8, 20))


def build_mended():
    model = Step()
    model.cell.register_full_backward_hook(print_sizes)
    return model, (torch.randn(8, 10, requires_grad=True), torch.randn(8, 20))
