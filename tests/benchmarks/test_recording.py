"""What watching a forward costs, against the same forward by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fxgrad
from fxgrad.observe.registrations import RegistrationWatch
from fxgrad.observe.run import ModelRun, record_run
from tests.benchmarks.conftest import Compared
from tests.benchmarks.models import encoder, resnet


def record(model: nn.Module, inputs: tuple[Any, ...]) -> ModelRun:
    with record_run(model, (inputs, {}), watch=RegistrationWatch()) as run:
        model(*inputs)
    return run


@pytest.mark.parametrize(
    ("make", "shape"),
    [(resnet, (8, 3, 224, 224)), (encoder, (8, 128, 768))],
    ids=["a resnet-50, batch 8", "an encoder of BERT-base's size, 8 x 128"],
)
def test_watching_forward_of(
    compare: Callable[..., Compared], make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    model, inputs = make(), (torch.randn(shape),)
    compare(lambda: record(model, inputs), lambda: model(*inputs), rounds=3, clock=time.perf_counter)


@pytest.mark.parametrize(
    ("make", "shape"),
    [(resnet, (8, 3, 224, 224)), (encoder, (8, 128, 768))],
    ids=["a resnet-50, batch 8", "an encoder of BERT-base's size, 8 x 128"],
)
def test_whole_trace_of(
    compare: Callable[..., Compared], make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    model, inputs = make(), (torch.randn(shape),)
    compare(lambda: fxgrad.trace(model, inputs), lambda: model(*inputs), rounds=3, clock=time.perf_counter)


def tiny() -> nn.Module:
    return nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(50)])


def test_each_recorded_call_of_a_tiny_model(figure: Callable[[str], None], compare: Callable[..., Compared]) -> None:
    model, inputs = tiny(), (torch.randn(2, 8),)
    recorder = record(model, inputs).recorder
    functions, modules = len(recorder.function_calls), len(recorder.module_calls)
    took = compare(lambda: record(model, inputs), lambda: model(*inputs), rounds=15)
    more = took.ours - took.other
    figure(f"       {more / (functions + modules):.1f} us more a call: {functions} of functions, {modules} of modules")


def test_whole_trace_of_a_tiny_model(compare: Callable[..., Compared]) -> None:
    model, inputs = tiny(), (torch.randn(2, 8),)
    compare(lambda: fxgrad.trace(model, inputs), lambda: model(*inputs), rounds=15)
