"""Random forwards with cuts, changes in place and dropped values: lost gradients and overwritten tensors are told
exactly where a real backward leaves .grad None, or raises."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

import fxgrad
from fxgrad.errors import TargetError
from fxgrad.rules import explain
from fxgrad.rules.fxg2_gradients import find_lost_gradients

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
SIZE = 3


def added(rng, pick):
    return pick() + pick()


def multiplied(rng, pick):
    return pick() * pick()


def exponential(rng, pick):
    return pick().tanh().exp()


def rectified(rng, pick):
    return pick().clone().relu_()


def detached(rng, pick):
    return pick().detach()


def data(rng, pick):
    return pick().data * 2


def without_grad(rng, pick):
    with torch.no_grad():
        return pick() + pick()


def largest(rng, pick):
    return pick().argmax(-1, keepdim=True).to(torch.float32).expand(SIZE, SIZE)


def compared(rng, pick):
    return torch.where(pick() > 0, pick(), pick())


def scaled_by_a_number(rng, pick):
    return pick() * pick().mean().item()


def through_numpy(rng, pick):
    return torch.from_numpy(pick().detach().numpy()) + pick()


def parts_joined(rng, pick):
    return torch.cat([pick()[:1], pick()[1:]])


def one_of_several(rng, pick):
    values, indices = pick().max(-1, keepdim=True)
    return rng.choice([values, indices]).float().expand(SIZE, SIZE)


def written_into_a_buffer(rng, pick):
    buffer = torch.zeros(SIZE, SIZE)
    buffer[rng.randrange(SIZE)] = pick()[0]
    return buffer


def copied_into_a_buffer(rng, pick):
    buffer = torch.zeros(SIZE, SIZE)
    view = buffer[: rng.randint(1, SIZE)]
    if rng.random() < 0.5:
        view.copy_(pick()[: len(view)])
    else:
        with torch.no_grad():
            view.copy_(pick()[: len(view)])
    return buffer


def changed_in_place(rng, pick):
    made = pick() * 1
    kept = made.tanh() if rng.random() < 0.5 else made + 1
    target = made[:1] if rng.random() < 0.5 else made
    target.mul_(pick()[: len(target)])
    return made + kept


def a_result_is_changed(rng, pick):
    made = pick().sigmoid()
    (made.detach() if rng.random() < 0.5 else made).add_(1)
    return made


COMMON = [added, multiplied, exponential, parts_joined, rectified, written_into_a_buffer]
RARE = [
    detached,
    data,
    without_grad,
    largest,
    compared,
    scaled_by_a_number,
    through_numpy,
    one_of_several,
    copied_into_a_buffer,
    changed_in_place,
    a_result_is_changed,
]


class Random(nn.Module):
    """Every run with one seed does the same."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed
        self.weights = nn.ParameterList(torch.randn(SIZE, SIZE) for _ in range(random.Random(seed).randint(2, 6)))

    def forward(self, x):
        rng = random.Random(self.seed)
        values = [x, *self.weights]
        for _ in range(rng.randint(2, 12)):
            operation = rng.choice(COMMON if rng.random() < 0.6 else RARE)
            values.append(operation(rng, lambda: rng.choice(values)))
        return sum(values[-rng.randint(1, 3) :])


def backward(model):
    """What a real backward does: (the parameters it leaves without a gradient, whether it raises); None without one."""
    result = model(torch.ones(SIZE, SIZE))
    if not result.requires_grad:
        return None
    try:
        result.sum().backward()
    except RuntimeError as error:
        assert "has been modified by an inplace operation" in str(error)  # noqa: PT017  # any other is a mistake here
        return set(), True
    return {name for name, parameter in model.named_parameters() if parameter.grad is None}, False


@pytest.mark.parametrize("block", range(8))
def test_lost_gradients_and_overwritten_tensors_are_told_as_backward_finds_them(block):
    wrong, compared_programs = [], 0
    for seed in range(block * 150, block * 150 + 150):
        torch.manual_seed(seed)
        model = Random(seed)
        real = backward(model)
        if real is None:
            with pytest.raises(TargetError, match="FXG202"):
                fxgrad.trace(model, torch.ones(SIZE, SIZE))
            continue
        graph = fxgrad.trace(model, torch.ones(SIZE, SIZE)).graph
        missing, raises = real
        told = {lost.parameter.name for lost in find_lost_gradients(graph)}
        overwritten = any(found.code == "FXG203" for found in explain(graph))
        compared_programs += 1
        if overwritten != raises or (not raises and told != missing):
            wrong.append((seed, told, real, overwritten))
    assert compared_programs > 100
    assert wrong == []
