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
