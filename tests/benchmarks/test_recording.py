"""What watching a forward costs, against the same forward by itself."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fxgrad
from fxgrad.observe.hooks.registrations import RegistrationWatch
from fxgrad.observe.restore import preserve
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


def test_whole_trace_of_an_encoder_of_width_32(compare: Callable[..., Compared]) -> None:
    """So narrow that nearly all of it is Python's work, torch's and fxgrad's."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model, inputs = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False), (torch.randn(2, 8, 32),)
    compare(lambda: fxgrad.trace(model, inputs), lambda: model(*inputs), rounds=15)


def test_putting_back_an_encoder_of_width_32(compare: Callable[..., Compared]) -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model, inputs = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False), (torch.randn(2, 8, 32),)

    def put_back() -> None:
        with preserve(model, inputs, on_write=True):
            pass

    compare(put_back, lambda: model(*inputs), rounds=15)


PEAKS = """
import resource, torch, fxgrad
from torch import nn
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
fxgrad.trace(nn.Linear(2, 2), torch.ones(2))
model, x = nn.Sequential(*[nn.Linear(2000, 2000) for _ in range(24)]), torch.randn(4, 2000)
model(x), model(x)
alone = peak()
{work}
print(peak() - alone, sum(weight.nbytes for weight in model.parameters()))
"""
WORK = {
    "trace": "fxgrad.trace(model, x)",
    "a model that writes to one weight": """
model[0].register_forward_pre_hook(lambda module, args: module.weight.data.mul_(1))
fxgrad.trace(model, x)""",
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_memory_beyond_a_model_of_384_mb(figure: Callable[[str], None], work: str) -> None:
    done = subprocess.run([sys.executable, "-c", PEAKS.format(work=work)], capture_output=True, text=True, check=True)
    more, size = map(int, done.stdout.split())
    figure(f"{more / size:6.3f} times the model's bytes more at the peak   {more / 1e6:.0f} MB")
