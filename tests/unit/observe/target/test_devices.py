from __future__ import annotations

import pytest
import torch
from torch import nn

import fxgrad
from fxgrad.errors import UsageError
from fxgrad.observe.target.devices import check_placed, check_present, needs_emulation


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_device_of_every_build_is_present(device):
    check_present(device)


def test_no_device_asks_for_no_emulation():
    assert not needs_emulation(None)
    assert not needs_emulation("cpu")


def test_a_model_on_the_device_is_placed():
    check_placed(nn.Linear(2, 2, device="meta"), "meta")
    check_placed(nn.Linear(2, 2), torch.device("cpu"))


def test_a_model_elsewhere_is_refused_with_the_line_that_moves_it():
    with pytest.raises(UsageError) as caught:
        check_placed(nn.Sequential(nn.Linear(2, 2)), "meta")
    assert str(caught.value) == (
        "device meta for a model whose 0.weight is on cpu\n  allowed: the device that the model is on: tracing moves "
        "no tensors\n  try: model.to('meta'), with inputs to match, before tracing"
    )


def test_a_buffer_elsewhere_is_refused_too():
    model = nn.Module()
    model.register_buffer("table", torch.ones(2))
    with pytest.raises(UsageError, match="a model whose table is on cpu"):
        check_placed(model, "meta")


@pytest.mark.parametrize("verb", [fxgrad.trace, fxgrad.verify])
def test_the_verbs_refuse_a_model_elsewhere(verb):
    with pytest.raises(UsageError, match="a model whose weight is on cpu"):
        verb(nn.Linear(2, 2), torch.ones(1, 2), device="meta")
