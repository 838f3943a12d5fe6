"""The question that started fxgrad: four LSTMCells, unrolled over time, with a non-full backward hook on each.

The asker expected three gradients in ``grad_input``, one for each input of LSTMCell.forward, and got five.

    fxgrad explain samples/lstm_cell.py layers.3 --device cuda
    fxgrad explain samples/lstm_cell.py layers.3
"""

import torch
from torch import nn


def print_sizes(module, grad_input, grad_output):
    for name, grads in (("grad_input", grad_input), ("grad_output", grad_output)):
        print(name, [None if grad is None else tuple(grad.shape) for grad in grads])


class Stack(nn.Module):
    def __init__(self, size, num_layers):
        super().__init__()
        self.layers = nn.ModuleList(nn.LSTMCell(size, size) for _ in range(num_layers))

    def forward(self, steps):
        hiddens = [steps.new_zeros(steps.shape[1:]) for _ in self.layers]
        cells = [steps.new_zeros(steps.shape[1:]) for _ in self.layers]
        for input in steps:
            for i, rnn in enumerate(self.layers):
                hidden, cell = rnn(input, (hiddens[i], cells[i]))
                hiddens[i], cells[i] = hidden, cell
                input = hidden
        return hidden


def build():
    model = Stack(size=1000, num_layers=4)
    for layer in model.layers:
        layer.register_backward_hook(print_sizes)
    return model, (torch.randn(3, 9, 1000),)
