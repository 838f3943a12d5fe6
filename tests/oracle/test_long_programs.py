"""Programs of very many nodes get through, and a node of theirs costs what one of a short program does."""

from __future__ import annotations

import pytest

from tests.support.long_programs import COSTS, measure_costs

LARGEST_RATIO = 2.5
"""Measured are 1.0 to 1.5 (tests/benchmarks/test_depth.py); what grows with the square would be 12 times as much."""

pytestmark = pytest.mark.oracle


def test_cost_of_a_node_does_not_grow_with_the_program() -> None:
    few = [measure_costs(5_000) for _ in range(2)][1]  # the second time, all is made that is made once in a process
    many = measure_costs(60_000)
    assert {what: many[what] / few[what] for what in COSTS if many[what] > LARGEST_RATIO * few[what]} == {}
