"""Question: a reduction hook on the AccumulateGrad of each parameter is never called. It was, before the parameters were
partitioned: their data is replaced by an empty tensor, and gathered again before forward. Why?

Answer: set_, and a .data of another dtype or device, make PyTorch drop the AccumulateGrad of the parameter; the next forward
makes another one, without the hook. register_post_accumulate_grad_hook belongs to the tensor.
"""

import torch
from torch import nn

KEPT = []


def reduce_gradient(*_):
    pass


def hook_accumulator(parameter):
    node = parameter.view_as(parameter).grad_fn.next_functions[0][0]
    node.register_hook(reduce_gradient)
    KEPT.append(node)  # else PyTorch frees it


def gather(parameter):
    with torch.no_grad():
        parameter.set_(torch.randn(2, 4))


def build():
    model = nn.Linear(4, 2, bias=False)
    model.weight.data = torch.empty(0)
    hook_accumulator(model.weight)
    gather(model.weight)
    return model, (torch.randn(3, 4),)


def build_mended():
    model = nn.Linear(4, 2, bias=False)
    model.weight.data = torch.empty(0)
    model.weight.register_post_accumulate_grad_hook(reduce_gradient)
    gather(model.weight)
    return model, (torch.randn(3, 4),)


def build_converted():
    model = nn.Linear(4, 2, bias=False)
    hook_accumulator(model.weight)
    return model.double(), (torch.randn(3, 4, dtype=torch.float64),)


class Gathering(nn.Linear):
    def forward(self, x):
        gather(self.weight)
        return super().forward(x)


def build_gathered_in_forward():
    model = Gathering(4, 2, bias=False)
    model.weight.data = torch.empty(0)
    hook_accumulator(model.weight)
    return model, (torch.randn(3, 4),)


def build_mended_of_the_same_type():
    """A .data of another shape alone keeps the node."""
    model = nn.Linear(4, 2, bias=False)
    hook_accumulator(model.weight)
    model.weight.data = torch.randn(5, 4)
    return model, (torch.randn(3, 4),)
