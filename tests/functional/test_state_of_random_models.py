"""Random models made of all kinds of changes leave nothing behind, whether forward comes to its end or raises."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from random_changes import PLANS, Plan, left_behind, recorded_otherwise

import fxgrad

FEW = settings(max_examples=15, derandomize=True, database=None)


@FEW
@given(PLANS, st.booleans())
def test_trace_leaves_nothing_behind(plan: Plan, inner: bool) -> None:
    assert left_behind(plan, fxgrad.trace, inner=inner) == []


@FEW
@given(PLANS, st.booleans())
def test_verify_leaves_nothing_behind(plan: Plan, inner: bool) -> None:
    assert left_behind(plan, fxgrad.verify, inner=inner) == []


@FEW
@given(PLANS, st.booleans())
def test_recording_leaves_what_the_program_leaves(plan: Plan, inner: bool) -> None:
    assert recorded_otherwise(plan, inner=inner) == []
