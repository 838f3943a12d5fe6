"""Question: register_full_backward_hook on the encoder of my (transformers) model is never called. On its layers it is.

The encoder returns an output object with its tensors inside: return_dict=False makes it a tuple, on which the hook works.
"""

from collections import OrderedDict
from dataclasses import dataclass, fields

import torch
from torch import nn


@dataclass
class Output(OrderedDict):
    last_hidden_state: torch.Tensor
    pooled: torch.Tensor

    def __post_init__(self):
        self.update({field.name: getattr(self, field.name) for field in fields(self)})


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, return_dict=None):
        hidden = self.linear(x)
        if return_dict is False:
            return hidden, hidden[:, 0]
        return Output(hidden, hidden[:, 0])


class Model(nn.Module):
    def __init__(self, *, as_tuple=False):
        super().__init__()
        self.encoder, self.head, self.as_tuple = Encoder(), nn.Linear(4, 2), as_tuple
        self.encoder.register_full_backward_hook(lambda module, grad_input, grad_output: None)

    def forward(self, x):
        if self.as_tuple:
            hidden, _ = self.encoder(x, return_dict=False)
        else:
            hidden = self.encoder(x).last_hidden_state
        return self.head(hidden).square().mean()


def build():
    return Model(), (torch.randn(2, 4, requires_grad=True),)


def build_mended():
    return Model(as_tuple=True), (torch.randn(2, 4, requires_grad=True),)
