"""A checkpoint of our own keeps a block's input and runs the block again in backward. Since we froze the embedding, nothing
in the block trains and its hooks are silent, without a warning. Why?

The block's parameters are no arguments of the Function. Its only tensor argument, what the embedding returns, requires no grad
any more, so neither does its result, and backward never comes to the Function. Let that output require grad.
"""

import torch
from torch import nn


class Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, hidden):
        ctx.run = run
        ctx.save_for_backward(hidden)
        with torch.no_grad():
            return run(hidden)

    @staticmethod
    def backward(ctx, grad):
        hidden = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            output = ctx.run(hidden)
        torch.autograd.backward(output, grad)
        return None, hidden.grad


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 4), nn.Linear(4, 2)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))
        self.embed.requires_grad_(False)

    def forward(self, ids):
        return self.head(Recompute.apply(self.block, self.embed(ids)))


def build():
    model = Model()
    model.block[0].weight.register_hook(lambda grad: None)
    return model, (torch.randint(0, 20, (2, 4)),)


def build_on_the_module():
    model, args = build()
    model.block.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    return model, args


def build_mended():
    model, args = build()
    model.embed.register_forward_hook(lambda module, args, output: output.requires_grad_())
    return model, args
