"""Python's garbage collector is paused while fxgrad makes, reads and writes records, and is then as it was."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fxgrad
from fxgrad.collection import pause_collection
from fxgrad.errors import UsageError
from fxgrad.exchange.saved import from_json

ANSWERS: dict[str, Callable[[fxgrad.Trace], Any]] = {
    "predict": lambda trace: trace.predict(),
    "report": lambda trace: str(trace.report()),
    "explain": lambda trace: str(trace.explain()),
    "order": lambda trace: str(trace.order()),
    "to_networkx": lambda trace: trace.to_networkx(),
}


@pytest.fixture(scope="module")
def trace() -> fxgrad.Trace:
    model = nn.Sequential(*[nn.Tanh() for _ in range(1_000)])
    for module in model:
        module.register_backward_hook(lambda module, grad_input, grad_output: None)
    return fxgrad.trace(model, torch.ones(1, 2, requires_grad=True))


def count_collections(work: Callable[[], Any]) -> int:
    """How often the collector ran while `work` did."""
    seen: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            seen.append(info["generation"])

    gc.callbacks.append(note)
    try:
        work()
    finally:
        gc.callbacks.remove(note)
    return len(seen)


def test_collector_runs_while_objects_are_made_without_a_pause() -> None:
    assert count_collections(lambda: [[number] for number in range(100_000)]) > 0


@pytest.mark.parametrize("name", ANSWERS)
def test_collector_does_not_run_while_an_answer_is_made(trace: fxgrad.Trace, name: str) -> None:
    ANSWERS[name](trace)  # what is imported and made once is
    assert count_collections(lambda: ANSWERS[name](trace)) <= 2  # it may run between two pauses


def test_collector_does_not_run_while_a_trace_is_read(trace: fxgrad.Trace) -> None:
    text = trace.to_json()
    assert count_collections(lambda: from_json(text)) <= 2


def test_collector_is_as_it_was_when_reading_raises() -> None:
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            with pytest.raises(UsageError):
                from_json("no trace")
            assert gc.isenabled() is enabled
        finally:
            gc.enable()


def test_collector_is_on_after_pauses_of_two_threads_that_overlap() -> None:
    """Whichever of the two ends first: the first found it on, and puts it on again."""
    inside, leave = threading.Event(), threading.Event()

    def pause() -> None:
        with pause_collection():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=pause)
    thread.start()
    assert inside.wait(10)
    with pause_collection():
        leave.set()
        thread.join()
    assert gc.isenabled()
