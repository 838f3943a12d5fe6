"""The process around a call, and gradients, are as before a trace and a real backward."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from changing_modules import Changing
from snapshots import changed_by
from torch import nn

import fxgrad


def test_seed_that_another_thread_sets_meanwhile_is_undone() -> None:
    class Seeding(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            thread = threading.Thread(target=torch.manual_seed, args=(3,))
            thread.start()
            thread.join()
            return x * 2

    before = torch.get_rng_state()
    fxgrad.trace(Seeding(), torch.ones(3, requires_grad=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_numpy_with_another_generator_is_as_before() -> None:
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        model, x = Changing(["random_numbers_drawn"]), torch.randn(4, 3)
        state = repr(np.random.get_state(legacy=False))
        fxgrad.trace(model, x)
        assert repr(np.random.get_state(legacy=False)) == state
    finally:
        np.random.set_bit_generator(before)


def test_precision_that_was_set_in_two_ways_is_left_alone() -> None:
    """PyTorch refuses to read it then."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with pytest.raises(RuntimeError, match="mix"):
            torch.get_float32_matmul_precision()
        fxgrad.trace(nn.Linear(3, 3), torch.randn(4, 3))
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


class Doubling(nn.Module):
    """Its forward changes a weight, then uses it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.linear.weight.mul_(2)
        return self.linear(x)


def test_region_of_autocast_does_not_keep_casts_of_the_traced_run() -> None:
    """PyTorch keeps one cast of each weight until the region ends: that of the weight as the traced forward made it."""
    model, x = Doubling(), torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model.linear(x)
    with torch.autocast("cpu", torch.bfloat16):
        fxgrad.trace(model, x)
        assert torch.equal(model.linear(x), expected)


def test_sparse_gradients_are_as_before_a_real_backward() -> None:
    model, tokens = nn.Embedding(5, 3, sparse=True), torch.tensor([0, 1, 1])
    model(tokens).sum().backward()
    assert changed_by(lambda: fxgrad.verify(model, tokens), model, tokens) == []


def test_gradients_are_as_before_when_a_hook_raises_in_backward() -> None:
    model, x = Changing(["batch_norm"], nn.Linear(3, 3)), torch.randn(4, 3)
    model.inner[0].register_full_backward_hook(raising)

    def run() -> None:
        with pytest.raises(fxgrad.TargetError):
            fxgrad.verify(model, x)

    assert changed_by(run, model, x) == []


def raising(*arguments: Any) -> None:
    raise ValueError("no gradient today")


def test_gradients_are_as_before_when_backward_is_interrupted() -> None:
    model, x = Changing(["batch_norm"], nn.Linear(3, 3)), torch.randn(4, 3)
    model.scale.register_hook(interrupting)

    def run() -> None:
        with pytest.raises(KeyboardInterrupt):
            fxgrad.verify(model, x)

    assert changed_by(run, model, x) == []


def interrupting(grad: torch.Tensor) -> None:
    raise KeyboardInterrupt


def test_hooks_that_remove_themselves_in_backward_are_as_before() -> None:
    model, x = nn.Linear(3, 3), torch.randn(4, 3)
    handles = [model.weight.register_hook(lambda grad: handles[0].remove())]
    handles.append(model.bias.register_post_accumulate_grad_hook(lambda tensor: handles[1].remove()))
    handles.append(model.register_full_backward_hook(lambda module, gi, go: handles[2].remove()))
    assert changed_by(lambda: fxgrad.verify(model, x), model, x) == []
