"""A Function with any backward, what is read from that, and what a hook really gets."""

from __future__ import annotations

from contextlib import closing

import torch
from real_backward import Bench
from torch.autograd import Function

ALWAYS = ["tensor", "none"]
OPEN = ["unknown", "none"]
"""For the first two arguments, which need a gradient; the third is a number."""


class Doubles(Function):
    """Its two arguments need gradients; ``scale`` is kept."""

    @staticmethod
    def forward(ctx, x, y, scale):
        ctx.save_for_backward(x, y, None)
        ctx.scale, ctx.nothing, ctx.is_set, ctx.held = scale, None, True, x * 2
        return x + y


def leaf():
    return torch.randn(3, requires_grad=True)


def statuses(backward, *arguments, predict=True):
    """The statuses of the entries of the node, after holding them against a real backward."""
    return statuses_of(type("Made", (Doubles,), {"backward": staticmethod(backward)}), *arguments, predict=predict)


def statuses_of(function, *arguments, predict=True):
    """The same for a whole Function, or an operator that is registered."""
    given = arguments or (leaf(), leaf(), 2.0)
    with closing(Bench(getattr(function, "apply", function)(*given)).on_every_node()) as bench:
        predicted = bench.predicted(None, "backward")
        (site,) = [site for site in predicted.sites if site.node == 0]
        if predict:
            bench.run()
            comparison = bench.compared(predicted)
            assert not comparison.wrong
    return [entry.status for entry in site.grad_input]
