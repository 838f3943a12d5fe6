"""The modes and states in which the recorded graph runs again."""

from __future__ import annotations

import functools

import torch
from module_hooks import FromFunction
from recorded_forward import recorded_forward_problems
from recorded_functions import forward_of, problems
from torch import nn

import fxgrad


def test_a_grad_mode_that_is_changed_by_cpp_code_does_not_stay():
    def run(w):
        inner = functools.partial(torch.utils.checkpoint.checkpoint, torch.sin, use_reentrant=False)
        return torch.utils.checkpoint.checkpoint(inner, w * 1, use_reentrant=False)

    assert problems(run) == []
    assert torch.is_grad_enabled()


def test_a_graph_sets_grad_mode_where_it_differs_and_back():
    def run(w):
        with torch.no_grad():
            frozen = w.exp()
        return w * frozen

    calls = [node for node in forward_of(run).nodes if node.op.startswith("call")]
    shown = [(node.name, node.args[0] if node.target is torch._C._set_grad_enabled else None) for node in calls]
    assert shown == [("_set_grad_enabled", False), ("exp", None), ("_set_grad_enabled_1", True), ("mul", None)]


def test_a_default_dtype_is_set_and_set_back():
    def run(w):
        torch.set_default_dtype(torch.float64)
        wide = torch.ones(3)
        torch.set_default_dtype(torch.float32)
        return w * wide

    model = FromFunction(lambda self: run(self.weight))
    again = fxgrad.trace(model).forward_module(model)
    assert again().dtype == torch.float64
    assert torch.get_default_dtype() == torch.float32


def test_a_seed_is_set_before_the_next_call_that_is_recorded():
    def run(w):
        torch.manual_seed(3)
        return w * torch.rand(w.shape[0])

    assert problems(run) == []


def test_a_state_of_the_generator_that_is_set_last_is_set_last():
    def run(w):
        with torch.random.fork_rng(devices=[]):
            return w * torch.rand(3)

    assert problems(run) == []


def test_casts_that_autocast_had_cached_are_cached_in_the_rerun():
    def run(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            x = x @ self.weight
            with torch.autocast("cpu", enabled=False):
                x = x.float()
            return x @ self.weight

    class Casts(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

        forward = run

    assert recorded_forward_problems(Casts(), lambda: ((torch.ones(2, 2),), {})) == []


def test_casts_are_cached_anew_where_autocast_was_left():
    class Casts(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

        def forward(self, x):
            for _ in range(2):
                with torch.autocast("cpu", torch.bfloat16):
                    x = x @ self.weight
                x = x.float() * 2
            return x

    assert recorded_forward_problems(Casts(), lambda: ((torch.ones(2, 2),), {})) == []
