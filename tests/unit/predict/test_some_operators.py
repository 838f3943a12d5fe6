"""A sample of torch's operators; tests/oracle takes them all."""

import random

import operators
import pytest
from tally import Tally

pytestmark = pytest.mark.filterwarnings("ignore")
CHOSEN = 60


@pytest.mark.parametrize("way", operators.WAYS)
def test_no_entry_of_some_operators_is_predicted_wrongly(way):
    chosen = random.Random(way).sample(operators.operators(), CHOSEN)
    tally = Tally(way)
    for operator in chosen:
        operators.hold(operator, way, 2, tally)
    tally.assert_nothing_is_wrong()
    assert tally.entries > 200
