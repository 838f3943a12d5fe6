"""Every operator that torch can differentiate, run in every way: no entry may be predicted wrongly."""

import operators
import pytest
from module_cases import hold
from operator_modules import HOOKS, ON_NODES, operator_cases
from tally import tally_of

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
SAMPLES = 20
LEAST = 36_000
"""Entries that must be compared in each way of running."""
SAMPLES_IN_MODULES = 8
MOST_OPEN = 0.001
"""Of the entries, those that only values decide."""
MOST_OPEN_SECOND_DERIVATIVES = 0.03
"""The formulas of second derivatives leave out what is zero, which the graph does not show."""


@pytest.mark.parametrize("way", operators.WAYS)
def test_no_entry_of_any_operator_is_predicted_wrongly_and_few_are_left_open(way):
    tally = tally_of("every operator of torch's database, each node hooked", way)
    tally.note = f"the first {SAMPLES} samples of each of {len(operators.operators())} operators"
    for operator in operators.operators():
        operators.hold(operator, way, SAMPLES, tally)
    tally.assert_nothing_is_wrong()
    most = MOST_OPEN_SECOND_DERIVATIVES if way == "double backward" else MOST_OPEN
    assert tally.open_by_torch <= tally.entries * most
    assert tally.entries > LEAST


@pytest.mark.parametrize(
    ("way", "hooks", "samples", "detached"),
    [
        ("hooks on the module and its results", HOOKS, SAMPLES_IN_MODULES, 2),
        ("each node hooked, one input without grad", ON_NODES, SAMPLES, 1),
    ],
)
def test_no_entry_of_any_operator_in_a_module_is_predicted_wrongly_and_few_are_left_open(way, hooks, samples, detached):
    """The recorded forward tells more than the nodes alone: what stands behind edges that lead nowhere."""
    tally = tally_of("every operator of torch's database, in a module", way)
    for case in operator_cases(samples, detached=detached):
        hold(case, hooks, tally)
    tally.assert_nothing_is_wrong()
    assert tally.unknown.total() <= tally.entries * MOST_OPEN
    assert tally.entries > LEAST
