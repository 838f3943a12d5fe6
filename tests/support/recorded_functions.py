"""Functions in modules whose forward is recorded."""

from __future__ import annotations

from typing import ClassVar

from module_hooks import FromFunction
from recorded_forward import described, recorded_forward_problems
from torch.autograd import Function

import fxgrad


def forward_of(function, *args, **kwargs):
    """The recorded graph of a module whose forward is the function, after itself."""
    return fxgrad.trace(FromFunction(lambda self, *a, **k: function(self.weight, *a, **k)), args, kwargs).forward


def node_named(graph, name):
    return next(node for node in graph.nodes if node.name == name)


def problems(function):
    """What is wrong with the recorded forward of a function of three numbers."""
    model = FromFunction(lambda self: function(self.weight))
    return recorded_forward_problems(model, lambda: ((), {}))


class Received(Function):
    """Keeps what it is called with."""

    arguments: ClassVar[list] = []

    @staticmethod
    def forward(ctx, x, *rest):
        ctx.count = len(rest)
        Received.arguments.append(described(rest))
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad, *[None] * ctx.count


class Twice(Function):
    @staticmethod
    def forward(ctx, x, *rest):
        ctx.count = len(rest)
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2, *[None] * ctx.count
