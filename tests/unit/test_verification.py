"""What counts as a difference between a prediction and what backward did."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import fxgrad


@pytest.mark.filterwarnings("ignore")
def test_a_hook_on_a_leaf_inside_of_a_reentrant_checkpoint_is_left_open_and_not_wrong():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=True)

    model = Checkpointed()
    model.inner.weight.register_hook(lambda grad: None)
    verification = fxgrad.verify(model, (torch.randn(2, 3, requires_grad=True),))
    assert verification.ok
    assert [open_.what for open_ in verification.unknown] == ["fires"]


def test_a_tensor_that_retains_its_gradient_and_gets_none_is_as_predicted():
    """PyTorch calls retain_grad there, which stores nothing."""

    class Halves(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1, x * 2

        @staticmethod
        def backward(ctx, first, second):
            return None

    class Model(nn.Module):
        def forward(self, x):
            kept = x * 1
            kept.retain_grad()
            return Halves.apply(kept)[0]

    verification = fxgrad.verify(Model(), torch.randn(3, requires_grad=True))
    assert verification.ok, verification
    (site,) = verification.graph.sites
    assert (site.fires, [entry.status for entry in site.grad_output]) == (True, ["none"])
