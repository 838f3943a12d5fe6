"""A hook on a parameter logs into a list of its module. After torch.jit.trace the traced module has no such list. Why?

Because the traced module shares the parameters, with their hooks, and has no other attributes of Python: the hook writes to
the module that was traced. A backward hook on a module is another matter: torch.jit.trace raises, torch.jit.script drops it.
"""

import torch
from torch import nn


class Logged(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(3.0))
        self.inner = nn.Linear(1, 1)
        self.w.register_hook(self.log)

    def log(self, grad):
        print("HOOK w", grad)

    def forward(self, x):
        return self.inner(x * self.w)


def build():
    return torch.jit.trace(Logged(), (torch.ones(2, 1),)), (torch.ones(2, 1),)


def build_script():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sigmoid())
    model[0].register_full_backward_hook(lambda module, grad_input, grad_output: print("HOOK script"))
    return torch.jit.script(model), (torch.ones(2, 2),)


def build_mended():
    model = Logged()
    return model, (torch.ones(2, 1),)


if __name__ == "__main__":
    for make in (build, build_script):
        model, args = make()
        model(*args).sum().backward()
        print("---")
