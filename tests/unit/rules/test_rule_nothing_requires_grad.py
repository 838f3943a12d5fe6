"""FXG202: where the way to the parameters is cut, so that nothing requires grad."""

import re

import pytest
import torch
from lost_programs import (
    Program,
    unused,
)
from torch import nn

import fxgrad
from fxgrad.errors import TargetError


def refusal(forward, loss=None, model=None):
    with pytest.raises(TargetError) as raised:
        fxgrad.trace(model or Program(forward), torch.ones(2, 3), loss=loss)
    return re.sub(r"tests/unit/rules/test_rule_nothing_requires_grad.py:\d+", "HERE", str(raised.value)).splitlines()


def accuracy(output):
    return (output > 0).float().mean()


def test_the_cut_nearest_to_the_loss_is_named_where_nothing_requires_grad():
    assert refusal(unused, accuracy) == [
        "nothing in the result of the loss function accuracy requires grad (result: requires no grad). At HERE, "
        "`return (output > 0).float().mean()`, `gt` returns bool, which cannot require grad. (FXG202)",
        "  allowed: at least one tensor that requires grad, in nested tuples, lists, dicts or dataclasses",
        "  try: go on with the floating point values that `gt` was given",
    ]


def test_what_was_taken_out_of_torch_on_the_way_to_the_loss_is_named():
    def number(output):
        return torch.tensor(output.sum().item())

    given, _, advice = refusal(unused, number)
    assert given.endswith(
        "At HERE, `return torch.tensor(output.sum().item())`, `item` gives its value to Python, which autograd does not "
        "follow. (FXG202)"
    )
    assert advice == "  try: go on with the tensor, without `item`"


def test_a_forward_without_gradients_is_named_by_its_last_operation_with_a_parameter():
    with torch.no_grad():
        given, _, _ = refusal(unused)
    assert "`linear` runs with gradients disabled (no_grad, inference_mode or set_grad_enabled(False))." in given


def test_a_frozen_model_has_no_cut():
    given, _, advice = refusal(unused, model=Program(unused).requires_grad_(False))
    assert given.endswith(
        "Nothing that forward computes its output from requires grad: of its 4 parameters all are frozen. (FXG202)"
    )
    assert advice == "  try: let a parameter that forward uses, or an input, require grad"


def test_a_loss_of_ones_own_program_is_explained_as_well():
    model = Program(unused)
    with fxgrad.record(model) as recording:
        loss = model(torch.ones(2, 3)).sum().detach()
    with pytest.raises(TargetError, match=r"the result of `detach` does not require grad. \(FXG202\)"):
        recording.trace(loss)


def test_the_models_state_is_put_back_where_nothing_requires_grad():
    model = nn.BatchNorm1d(3).requires_grad_(False)
    with pytest.raises(TargetError):
        fxgrad.trace(model, torch.ones(2, 3))
    assert int(model.num_batches_tracked) == 0
