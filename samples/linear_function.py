"""The custom Function of the accepted answer, in a module with a hook on its output node and a full hook.

A node of a Python Function has one grad_input entry for each tensor that ``forward`` got: here input, weight and bias
by name, and the weight is *not* transposed. Whether each is a tensor or None is up to ``backward``: its code is read.

    fxgrad explain samples/linear_function.py
"""

import torch
from torch import nn


class LinearFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, weight, bias=None):
        ctx.save_for_backward(input, weight, bias)
        output = input.mm(weight.t())
        if bias is not None:
            output += bias.unsqueeze(0).expand_as(output)
        return output

    @staticmethod
    def backward(ctx, grad_output):
        input, weight, bias = ctx.saved_tensors
        grad_input = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_input = grad_output.mm(weight)
        if ctx.needs_input_grad[1]:
            grad_weight = grad_output.t().mm(input)
        if bias is not None and ctx.needs_input_grad[2]:
            grad_bias = grad_output.sum(0)
        return grad_input, grad_weight, grad_bias


def print_sizes(module, grad_input, grad_output):
    for name, grads in (("grad_input", grad_input), ("grad_output", grad_output)):
        print(name, [None if grad is None else tuple(grad.shape) for grad in grads])


class Linear(nn.Module):
    def __init__(self, in_features, out_features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, input):
        return LinearFunction.apply(input, self.weight, self.bias)


def build():
    model = nn.Sequential(Linear(10, 20), Linear(20, 5))
    for layer in model:
        layer.register_backward_hook(print_sizes)
    return model, (torch.randn(8, 10),)
