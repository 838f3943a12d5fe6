"""Are the hooks on the layers of a reversible block called?

Backward of the Function calls a method of a module that ctx holds, and that method runs the module and a backward: the hooks
are called there, by calls of which the graph shows nothing.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def show(*arguments):
    print("HOOK", len(arguments))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 3)

    def forward(self, x):
        return self.lin(x)

    def backward_pass(self, x, grad):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            self(x).backward(grad)
        return x.grad


class Rev(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, blocks):
        ctx.save_for_backward(x)
        ctx.blocks = blocks
        for block in blocks:
            x = block(x)
        return x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        for block in ctx.blocks:
            grad = block.backward_pass(x, grad)
        return grad, None


class Net(nn.Module):
    def __init__(self, *, mended=False):
        super().__init__()
        self.pre = nn.Linear(3, 3)
        self.blocks = nn.ModuleList([Block()])
        self.mended = mended

    def forward(self, x):
        x = self.pre(x)
        if not self.mended:
            return Rev.apply(x, self.blocks)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x


def hook(model):
    model.blocks[0].lin.register_full_backward_hook(show)
    model.blocks[0].lin.weight.register_hook(show)
    return model


def build():
    return hook(Net()), (torch.randn(2, 3),)


def build_mended():
    return hook(Net(mended=True)), (torch.randn(2, 3),)
