"""Targets of the command line, and a fxgrad process to give them to."""

from __future__ import annotations

import subprocess
import sys

HEAD = """
import torch
from torch import nn

def print_sizes(module, grad_input, grad_output):
    print([None if grad is None else tuple(grad.shape) for grad in grad_input])

class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
"""
MODEL = """
def build():
    model = Stack()
    model.layers[3].register_full_backward_hook(print_sizes)
    return model, (torch.ones(2, 4),)
"""


def python(*arguments, **options):
    """Run another Python on this fxgrad, warnings as Python shows them by default."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=120, **options
    )
