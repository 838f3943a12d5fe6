"""Measurements: each is a ratio of two things timed in turn within one run. Nothing is asserted about time."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

Clock = Callable[[], float]

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


def timed(work: Callable[..., object], *arguments: object, clock: Clock = time.process_time) -> float:
    """Seconds that `work` takes, with garbage collection paused: by default those of this process, which others on the
    machine do not disturb."""
    gc.collect()
    gc.disable()
    try:
        start = clock()
        kept = work(*arguments)
        took = clock() - start
    finally:
        gc.enable()
    del kept
    return took


class Compared(NamedTuple):
    """Medians over the rounds: the ratio of two times taken in turn, and each of them in microseconds."""

    ratio: float
    ours: float
    other: float


@pytest.fixture
def compare(benchmark: Any, figure: Callable[[str], None]) -> Callable[..., Compared]:
    """Time `ours` and `other` in turn, and show the median of the ratios; `per` counts what is done in one call.

    With `fresh` each call gets an argument of its own, which is given to `done` afterwards. What runs in several threads
    or processes needs `clock` to be that on the wall.
    """

    def run(
        ours: Callable[..., object],
        other: Callable[..., object],
        *,
        rounds: int = 7,
        per: int = 1,
        fresh: Callable[[], object] | None = None,
        done: Callable[[Any], object] = id,
        clock: Clock = time.process_time,
    ) -> Compared:
        def once(work: Callable[..., object]) -> float:
            arguments = () if fresh is None else (fresh(),)
            took = timed(work, *arguments, clock=clock)
            for argument in arguments:
                done(argument)
            return took

        benchmark.pedantic(once, (ours,), rounds=1)
        once(other)
        pairs = [(once(ours), once(other)) for _ in range(rounds)]
        ratios = sorted(mine / its for mine, its in pairs)
        mine, its = (statistics.median(times) / per * 1e6 for times in zip(*pairs, strict=True))
        compared = Compared(statistics.median(ratios), mine, its)
        benchmark.extra_info.update(compared._asdict())
        spread = f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        figure(f"{compared.ratio:6.2f} times {spread}   {mine:.2f} us against {its:.2f} us each")
        return compared

    return run
