"""A sample of torch's operators; tests/oracle takes them all."""

import random

import operators
import pytest

pytestmark = pytest.mark.filterwarnings("ignore")
CHOSEN = 60


@pytest.mark.parametrize("way", operators.WAYS)
def test_no_entry_of_some_operators_is_predicted_wrongly(way):
    chosen = random.Random(way).sample(operators.operators(), CHOSEN)
    total = operators.Tally()
    for operator in chosen:
        total.add(operators.tally(operator, way, 2))
    assert not total.wrong, "\n".join(total.wrong)
    assert total.entries > 200
