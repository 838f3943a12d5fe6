"""Which hooks are PyTorch's own: it registers some for itself, and passes on some of the program's."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd.graph import register_multi_grad_hook

import fxgrad
from fxgrad.rules import explain


def ignore(*arguments):
    """A hook."""


class Own(nn.Module):
    """A class of the program's, which inherits private methods from torch's."""


_replicate_for_data_parallel = nn.Module._replicate_for_data_parallel  # a private function of torch's


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
        lambda x: x.register_hook(partial(nn.functional.relu, inplace=False)),
        lambda x: x.register_hook(nn.ReLU().forward),
        lambda x: x.register_hook(Own()._get_name),
        lambda x: x.register_hook(partial(_replicate_for_data_parallel, ignore)),
    ],
)
def test_what_the_program_registers_is_its_own(register):
    graph = fxgrad.trace(Model(register), torch.randn(2, 3)).graph
    assert [hook.by_torch for hook in graph.hooks] == [False]


@pytest.mark.parametrize(
    "register",
    [
        lambda x: x.register_hook(nn.ReLU()._get_name),
        lambda x: x.register_hook(partial(_replicate_for_data_parallel, nn.ReLU())),
    ],
)
def test_a_private_function_of_torch_with_arguments_of_torchs_is_torchs(register):
    graph = fxgrad.trace(Model(register), torch.randn(2, 3)).graph
    assert [hook.by_torch for hook in graph.hooks] == [True]


def test_hooks_of_torch_are_told_apart_and_give_no_finding():
    graph = fxgrad.trace(Model(register_torchs), torch.randn(2, 3)).graph
    assert {hook.by_torch for hook in graph.hooks} == {True}
    assert not [finding for finding in explain(graph) if finding.site is not None]


TORCHS = "hooks of PyTorch itself (torch/_functorch/_aot_autograd/…) are not shown"


@pytest.mark.parametrize("make", [fxgrad.Trace.report, fxgrad.Trace.explain, fxgrad.Trace.order])
def test_texts_count_the_hooks_of_torch_and_show_them_where_they_are_asked_for(make):
    trace = fxgrad.trace(Model(register_torchs), torch.randn(2, 3))
    folded, full = (" ".join(str(make(trace, all_hooks=asked)).split()) for asked in (False, True))
    assert f"{len(trace.graph.hooks)} {TORCHS}" in folded
    assert "posthook" not in folded
    assert "not shown" not in full
    assert "posthook" in full


def test_hooks_of_the_program_are_shown_beside_those_of_torch():
    model = Model(register_torchs)
    model.linear.register_full_backward_hook(ignore)
    trace = fxgrad.trace(model, torch.randn(2, 3))
    assert "register_full_backward_hook(ignore)" in str(trace.explain())
    assert TORCHS in " ".join(str(trace.explain()).split())
    assert "ignore" in str(trace.report())


def test_the_markdown_shows_what_the_report_shows():
    trace = fxgrad.trace(Model(register_torchs), torch.randn(2, 3))
    assert "posthook" not in trace.to_markdown()
    assert "posthook" in trace.to_markdown(all_hooks=True)
