"""Arguments and results of a module that change after its call, in place: a hook is told what they were at the call."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxgrad

pytestmark = pytest.mark.filterwarnings("ignore")  # resize_ of a tensor that holds elements


def transpose(x, result):
    with torch.no_grad():
        x.t_()


def resize(x, result):
    x.detach().resize_(2, 2)


def detach(x, result):
    x.detach_()


def transpose_result(x, result):
    with torch.no_grad():
        result.t_()


def replace_data_of_result(x, result):
    result.data = torch.zeros(7, 7)


class Changing(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.change = change
        self.layer = nn.Linear(4, 5).requires_grad_(False)
        self.layer.register_full_backward_hook(lambda module, grad_input, grad_output: None)

    def forward(self, x):
        x = x * 1
        result = self.layer(x)
        loss = result.sum()
        self.change(x, result)
        return loss


@pytest.mark.parametrize("change", [transpose, resize, detach, transpose_result, replace_data_of_result])
def test_what_changes_after_a_call_is_told_as_it_was_then(change):
    verification = fxgrad.verify(Changing(change), torch.ones(3, 4, requires_grad=True))
    assert verification.ok, verification
    assert not verification.unknown
    (site,) = verification.graph.sites
    assert [entry.shape for entry in (*site.grad_input, *site.grad_output)] == [(3, 4), (3, 5)]
