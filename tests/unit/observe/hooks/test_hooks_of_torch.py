"""Which hooks are PyTorch's own: it registers some for itself, and passes on some of the program's."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import register_multi_grad_hook

import fxgrad
from fxgrad.rules import explain


def ignore(*arguments):
    """A hook."""


def register_torchs(x):
    """What AOTAutograd does for the nodes that it traces (torch/_functorch/_aot_autograd)."""
    from torch._functorch._aot_autograd.logging_utils import setup_stacktrace_preservation_hooks

    setup_stacktrace_preservation_hooks([x.grad_fn])


class Model(nn.Module):
    def __init__(self, register):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register = register

    def forward(self, x):
        result = self.linear(x)
        self.register(result)
        return result


@pytest.mark.parametrize(
    "register",
    [
        lambda x: x.register_hook(ignore),
        lambda x: x.register_hook(torch.nan_to_num),
        lambda x: x.register_hook(nn.functional.relu),
        lambda x: x.grad_fn.register_hook(ignore),
        lambda x: register_multi_grad_hook((x,), ignore),
    ],
)
def test_what_the_program_registers_is_its_own(register):
    graph = fxgrad.trace(Model(register), torch.randn(2, 3)).graph
    assert [hook.by_torch for hook in graph.hooks] == [False]


def test_hooks_of_torch_are_told_apart_and_give_no_finding():
    graph = fxgrad.trace(Model(register_torchs), torch.randn(2, 3)).graph
    assert {hook.by_torch for hook in graph.hooks} == {True}
    assert not [finding for finding in explain(graph) if finding.site is not None]
