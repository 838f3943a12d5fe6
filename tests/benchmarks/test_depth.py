"""What a node costs in trace, report, explain and JSON, in short programs and in very long ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.long_programs import COSTS, measure_costs

COUNTS = (1_000, 30_000, 300_000)


@pytest.mark.filterwarnings("ignore")
def test_cost_of_a_node_in_long_programs(benchmark: Any, figure: Callable[[str], None]) -> None:
    measure_costs(COUNTS[0])  # what is made once in a process is made
    rows = benchmark.pedantic(lambda: [measure_costs(count) for count in COUNTS], rounds=1)
    for what in COSTS:
        each = [row[what] for row in rows]
        told = " ".join(f"{seconds * 1e6:8.1f}" for seconds in each)
        figure(f"{each[-1] / each[0]:6.2f} times   {what:<8}{told} us a node, of {' '.join(f'{n:,}' for n in COUNTS)}")
