"""FXG109, FXG110, FXG111: what a hook may return, and which calls carry it."""

import pytest
from msgspec.structs import replace

from fxgrad.graph import HookKind
from fxgrad.rules import explain
from fxgrad.rules.fxg1_hook_returns import describe_return


def told(graph, code):
    return [explanation for explanation in explain(graph) if explanation.code == code]


def rehooked(program, **changes):
    """The program with its only hook changed."""
    program.hooks[0] = replace(program.hooks[0], **changes)
    program.sites[:] = [replace(site, hook=program.hooks[0]) for site in program.sites]
    return program


def test_a_hook_that_may_return_something_is_told_what(linear):
    (found,) = told(rehooked(linear, may_return=True).graph(), "FXG109")
    assert found.fix == (
        "return None, or a tuple of 3 entries in place of grad_input: ((20,), None, (10, 20)) (with None where an "
        "entry is None)"
    )


@pytest.mark.parametrize("known", [False, None])
def test_a_hook_that_is_not_known_to_return_something_is_left_in_peace(linear, known):
    assert told(rehooked(linear, may_return=known).graph(), "FXG109") == []


@pytest.mark.parametrize(
    ("kind", "phrase"),
    [
        (HookKind.POST_ACCUMULATE_GRAD, "None: anything else raises"),
        (HookKind.RETAIN_GRAD, "anything: the value is ignored"),
        (HookKind.MULTI_GRAD, "anything: the value is ignored"),
        (HookKind.MODULE_FULL_BACKWARD_PRE, "None, or a tuple of 1 entry in place of grad_output: ((8, 20),)"),
        (HookKind.NODE_PRE, "None, or a tuple of 1 entry in place of grad_output: ((8, 20),)"),
        (HookKind.TENSOR, "None, or one tensor of shape (8, 20)"),
    ],
)
def test_each_kind_of_hook_has_its_own_return_value(linear, kind, phrase):
    assert describe_return(rehooked(linear, kind=kind).sites[0]) == phrase


def test_a_removed_hook_that_calls_still_carry_is_found(lstm_cells):
    (found,) = told(rehooked(lstm_cells, active=False).graph(), "FXG110")
    assert found.headline == "`print_sizes` was removed but still fires"
    assert "Calls 3 to 1 still carry it, on ThnnFusedLstmCellBackward0_0, _1 and _2." in found.because


def test_a_hook_that_is_still_registered_was_not_removed(lstm_cells):
    assert told(lstm_cells.graph(), "FXG110") == []


def test_several_calls_are_told_apart_by_the_order_in_which_they_fire(lstm_cells):
    (found,) = told(lstm_cells.graph(), "FXG111")
    assert found.headline == "`layers.3` is called 3 times: which call is this?"
    assert "in this order: calls 3 to 1." in found.because


def test_calls_that_were_given_the_same_shapes_are_told_together(lstm_cells):
    (found,) = told(lstm_cells.graph(), "FXG111")
    assert found.because.endswith("Each got input (9, 1000), hx[0] (9, 1000) and hx[1] (9, 1000).")


def test_calls_that_were_given_other_tensors_are_told_apart(lstm_cells):
    first = lstm_cells.calls[0]
    lstm_cells.calls[0] = replace(first, inputs=first.inputs[:1])
    (found,) = told(lstm_cells.graph(), "FXG111")
    *_, after = found.because.split("Calls 3 and 2 got ")
    assert after == "input (9, 1000), hx[0] (9, 1000) and hx[1] (9, 1000); call 1 got input (9, 1000)."


def test_a_module_with_one_call_raises_no_question(linear):
    assert told(linear.graph(), "FXG111") == []
