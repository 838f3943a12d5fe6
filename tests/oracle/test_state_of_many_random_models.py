"""Hundreds of random models made of all kinds of changes leave nothing behind."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_changes import PLANS, Plan, left_behind, recorded_otherwise

import fxgrad

pytestmark = pytest.mark.oracle
MANY = settings(max_examples=400, database=None)


@MANY
@given(PLANS, st.booleans())
def test_trace_leaves_nothing_behind(plan: Plan, inner: bool) -> None:
    assert left_behind(plan, fxgrad.trace, inner=inner) == []


@MANY
@given(PLANS, st.booleans())
def test_verify_leaves_nothing_behind(plan: Plan, inner: bool) -> None:
    assert left_behind(plan, fxgrad.verify, inner=inner) == []


@MANY
@given(PLANS, st.booleans())
def test_recording_leaves_what_the_program_leaves(plan: Plan, inner: bool) -> None:
    assert recorded_otherwise(plan, inner=inner) == []
