"""The names of edges and slots are those of the arguments and results of real calls."""

from __future__ import annotations

import pytest
import torch
import wiring as naming
from wiring import Wiring, differentiable, wiring_of, wrong_names


def test_the_comparison_with_real_calls_finds_swapped_names(monkeypatch: pytest.MonkeyPatch):
    with Wiring() as wiring:
        result = torch.rand(2, 2, requires_grad=True) @ torch.rand(2, 2)
    assert list(wrong_names(wiring.calls)) == []
    swapped = (("mat2", None), ("self", None))
    monkeypatch.setattr(naming, "name_edges", lambda signature, n_edges: swapped)
    monkeypatch.setattr(naming, "name_outputs", lambda signature, n_outputs: ("values",))
    assert list(wrong_names(wiring.calls)) == [
        "MmBackward0: mat2",
        "MmBackward0: self",
        "MmBackward0: slot 0 is result, not values",
    ]
    assert result.grad_fn.name() == "MmBackward0"


@pytest.mark.filterwarnings("ignore")
def test_names_are_those_of_the_arguments_and_results_of_real_calls():
    from torch.testing._internal.common_methods_invocations import op_db

    wiring = wiring_of(differentiable(op_db)[::8], samples=1)
    assert len(wiring.calls) > 100
    assert list(wrong_names(wiring.calls)) == []


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_names_are_those_of_the_arguments_and_results_of_every_operator_of_pytorchs_own_tests():
    from torch.testing._internal import common_methods_invocations as invocations

    foreach = [getattr(invocations, f"foreach_{kind}_op_db") for kind in ("unary", "binary", "pointwise", "reduce")]
    operators = [operator for database in (invocations.op_db, *foreach) for operator in differentiable(database)]
    wiring = wiring_of(operators, samples=10)
    assert len(wiring.calls) > 10_000
    assert list(wrong_names(wiring.calls)) == []
