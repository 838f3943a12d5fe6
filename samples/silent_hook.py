"""Five hooks that never fire, each for another reason.

PyTorch warns of one of them, the dict; of the others nobody says anything.

    fxgrad explain samples/silent_hook.py
"""

import torch
from torch import nn


def never(module, grad_input, grad_output):
    print("this is never printed")


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return {"mean": self.linear(x).mean(-1), "all": self.linear(x)}


class Silent(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(4, 4)
        self.in_dict = Pair()
        self.frozen = nn.Linear(4, 4)
        self.called_directly = nn.Linear(4, 4)
        self.dropped = nn.Linear(4, 4)

    def forward(self, x):
        both = self.in_dict(x)
        with torch.no_grad():
            offset = self.frozen(x)
        direct = self.called_directly.forward(x)
        self.dropped(x)
        return both["all"] + offset + direct


def build():
    model = Silent()
    model.unused.register_full_backward_hook(never)  # the module is never called
    model.in_dict.register_full_backward_hook(never)  # it returns a dict
    model.frozen.register_full_backward_hook(never)  # it runs under no_grad
    model.called_directly.register_full_backward_hook(never)  # forward() is called, not the module
    model.dropped.register_full_backward_hook(never)  # its output is not used
    return model, (torch.randn(2, 4, requires_grad=True),)
