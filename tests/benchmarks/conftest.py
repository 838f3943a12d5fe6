"""Measurements: each is a ratio of two things timed in turn within one run. Nothing is asserted about time."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest

FIGURES: list[tuple[str, str]] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "benchmarks" in item.path.parts:
            item.add_marker("benchmark")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if FIGURES:
        terminalreporter.section("figures")
        width = max(len(name) for name, _ in FIGURES)
        for name, figure in FIGURES:
            terminalreporter.write_line(f"{name:<{width}}  {figure}")


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Show a figure at the end of the run, under the test's name."""

    def show(text: str) -> None:
        FIGURES.append((request.node.name.removeprefix("test_"), text))

    return show


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes, with garbage collection paused."""
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        kept = work()
        took = time.perf_counter() - start
    finally:
        gc.enable()
    del kept
    return took


@pytest.fixture
def compare(benchmark: Any, figure: Callable[[str], None]) -> Callable[..., float]:
    """Time `ours` and `other` in turn; show and return the median of the ratios. `per` counts what is done per call."""

    def run(ours: Callable[[], object], other: Callable[[], object], *, rounds: int = 7, per: int = 1) -> float:
        ours(), other()
        pairs = [(timed(ours), timed(other)) for _ in range(rounds)]
        benchmark.pedantic(ours, rounds=1)
        ratios = sorted(mine / its for mine, its in pairs)
        mine, its = (statistics.median(times) / per * 1e6 for times in zip(*pairs, strict=True))
        ratio = statistics.median(ratios)
        benchmark.extra_info["ratio"] = ratio
        figure(f"{ratio:6.2f} times ({ratios[0]:.2f} to {ratios[-1]:.2f})   {mine:.2f} us against {its:.2f} us each")
        return ratio

    return run
