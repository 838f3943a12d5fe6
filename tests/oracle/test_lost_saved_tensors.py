"""Whether backward raises, where an earlier one freed the graph or a tensor was changed in place: over torch's operators."""

import lost_saved
import operators
import pytest
from tally import tally_of

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
SAMPLES = 1
STEP = {"freed": 1, "changed": 2}
"""Every second operator, as each is run once for each tensor that may be changed."""
LEAST = {"freed": 450, "changed": 1_000}
"""Graphs that must be compared."""


@pytest.mark.parametrize("way", lost_saved.WAYS)
def test_backward_raises_where_that_is_predicted_and_nowhere_else(way: str) -> None:
    tally = tally_of("every operator of torch's database, with saved tensors that are lost", way, properties=["raises"])
    for operator in operators.operators()[:: STEP[way]]:
        lost_saved.hold(operator, way, SAMPLES, tally)
    tally.assert_nothing_is_wrong()
    assert tally.tried > LEAST[way]
