"""Every operator that torch can differentiate, run in every way: no entry may be predicted wrongly."""

import operators
import pytest

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
SAMPLES = 20
MOST_OPEN = 0.001
"""Of the entries, those that only values decide."""
MOST_OPEN_SECOND_DERIVATIVES = 0.03
"""The formulas of second derivatives leave out what is zero, which the graph does not show."""


@pytest.mark.parametrize("way", operators.WAYS)
def test_no_entry_of_any_operator_is_predicted_wrongly_and_few_are_left_open(way):
    total = operators.Tally()
    for operator in operators.operators():
        total.add(operators.tally(operator, way, SAMPLES))
    print(f"{way}: {total.entries} entries, {total.unknown} unknown, {total.open_by_torch} without a Python Function")
    assert not total.wrong, "\n".join(total.wrong[:20])
    most = MOST_OPEN_SECOND_DERIVATIVES if way == "double backward" else MOST_OPEN
    assert total.open_by_torch <= total.entries * most
    assert total.entries > 10_000
