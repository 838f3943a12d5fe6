"""Records of the nodes behind a few tensors, made without a trace."""

from __future__ import annotations

import torch

from fxgrad.graph import Node
from fxgrad.observe.autograd.node_records import make_node_records
from fxgrad.observe.autograd.walk import walk


class Scaled(torch.autograd.Function):
    """A custom Function."""

    @staticmethod
    def forward(ctx, x, factor):
        return x * factor

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def leaf(*shape: int) -> torch.Tensor:
    """Ones that require grad: three of them, if no shape is given."""
    return torch.ones(*(shape or (3,)), requires_grad=True)


def records(*tensors: torch.Tensor) -> tuple[Node, ...]:
    """The records of the nodes from these tensors on."""
    return make_node_records(walk([tensor.grad_fn for tensor in tensors]))
