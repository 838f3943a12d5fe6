"""x.grad is 1 and should be 2: where is my hook?

Dynamo looked for hooks at the first call; a hook that is registered on an inner module later is passed by.
"""

import torch
from torch import nn


def double(module, grad_input, grad_output):
    print("HOOK double")


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3, bias=False)
        nn.init.eye_(self.layer.weight)

    def forward(self, x):
        return self.layer(x)


def build():
    model = Outer()
    compiled = torch.compile(model, backend="aot_eager")
    compiled(torch.randn(2, 3, requires_grad=True))
    model.layer.register_full_backward_hook(double)
    return compiled, (torch.ones(2, 3, requires_grad=True),)


def build_mended():
    model = Outer()
    compiled = torch.compile(model, backend="aot_eager")
    model.layer.register_full_backward_hook(double)
    compiled(torch.randn(2, 3, requires_grad=True))
    return compiled, (torch.ones(2, 3, requires_grad=True),)


def build_mended_by_a_reset():
    model = Outer()
    compiled = torch.compile(model, backend="aot_eager")
    compiled(torch.randn(2, 3, requires_grad=True))
    model.layer.register_full_backward_hook(double)
    torch._dynamo.reset()
    return compiled, (torch.ones(2, 3, requires_grad=True),)
