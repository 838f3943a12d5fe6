"""FXG102: where a non-full hook would sit on another device, shown where it was seen there."""

import pytest
from msgspec.structs import replace

from fxgrad.graph import Landing, OtherDevice
from fxgrad.rules import explain_graph

ON_THE_CPU = (
    Landing("layers.3#1", "MulBackward0", 2, 1),
    Landing("layers.3#2", "MulBackward0", 2, 1),
    Landing("layers.3#3", "MulBackward0", 2, 1),
)


def told(program, other):
    program.info = replace(program.info, other_device=other)
    return [explanation for explanation in explain_graph(program.graph()) if explanation.code == "FXG102"]


def test_both_sides_are_shown_with_the_nodes_and_the_numbers_of_entries(lstm_cells):
    (found,) = told(lstm_cells, OtherDevice("cpu", ON_THE_CPU))
    assert found.headline == "on the CPU this hook sits on another node, MulBackward0"
    assert found.because.endswith(
        "and the hook sits on that function's node, ThnnFusedLstmCellBackward0_0. That function belongs to the fused "
        "cells of CUDA, XPU and PrivateUse1. On the CPU, where the same program ran as well, it sits on MulBackward0 "
        "at call 3, and receives 2 grad_input and 1 grad_output, not 5 and 2."
    )


def test_the_call_that_differs_is_the_one_shown(lstm_cells):
    same = Landing("layers.3#3", "ThnnFusedLstmCellBackward0", 5, 2)
    (found,) = told(lstm_cells, OtherDevice("cpu", (*ON_THE_CPU[:2], same)))
    assert found.site.call == "layers.3#2"
    assert "MulBackward0 at call 2," in found.because


def test_nothing_is_said_where_the_sites_are_the_same(lstm_cells):
    same = tuple(
        replace(landing, node="ThnnFusedLstmCellBackward0", grad_input=5, grad_output=2) for landing in ON_THE_CPU
    )
    assert told(lstm_cells, OtherDevice("cpu", same)) == []


@pytest.mark.parametrize("change", [{"grad_input": 4}, {"grad_output": 1}])
def test_a_node_of_the_same_name_with_other_entries_is_another(lstm_cells, change):
    same = Landing("layers.3#3", "ThnnFusedLstmCellBackward0", 5, 2)
    assert len(told(lstm_cells, OtherDevice("cpu", (replace(same, **change),)))) == 1


def test_a_failure_over_there_is_told_and_nothing_claimed(lstm_cells):
    (found,) = told(lstm_cells, OtherDevice("cpu", failure="RuntimeError while calling model.py:build()"))
    assert found.headline == "on another device this hook may sit on another node"
    assert found.because.endswith(
        "Where it sits on the CPU could not be seen: RuntimeError while calling model.py:build()."
    )


def test_nothing_is_claimed_of_a_call_that_the_other_device_did_not_make(lstm_cells):
    (found,) = told(lstm_cells, OtherDevice("cpu", (Landing("layers.9#1", "MulBackward0", 2, 1),)))
    assert "MulBackward0" not in found.because


def test_a_name_from_over_there_is_escaped(lstm_cells):
    (found,) = told(lstm_cells, OtherDevice("xpu\n", (replace(ON_THE_CPU[2], node="a\x1bBackward"),)))
    assert "On xpu\\n, where the same program ran as well, it sits on a\\x1bBackward at call 3" in found.because
