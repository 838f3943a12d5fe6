"""The program in the accepted answer: one Linear, called three times, with a non-full backward hook.

It says that grad_input is "bias, input, weight". These are the arguments of addmm: the bias, the input (which does not
require grad here) and the *transposed* weight.

    fxgrad explain samples/linear_unrolled.py
"""

import torch
from torch import nn


def print_sizes(module, grad_input, grad_output):
    for name, grads in (("grad_input", grad_input), ("grad_output", grad_output)):
        print(name, [None if grad is None else tuple(grad.shape) for grad in grads])


class Unrolled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(10, 20)

    def forward(self, input):
        outputs = []
        for i in range(input.size(1)):
            output = self.linear(input[:, i])
            outputs.append(output)
        return torch.stack(outputs, dim=1)


def distance(prediction):
    return torch.norm(torch.ones_like(prediction) - prediction, 2)


def build():
    from fxgrad import Target

    model = Unrolled()
    model.linear.register_backward_hook(print_sizes)
    return Target(model, (torch.randn(8, 3, 10),), loss=distance)
