"""More than 5,000 hostile inputs: each gets an error with three parts or a right answer, and nothing is changed."""

import pytest
from fuzz_categories import CATEGORIES
from fuzzing import failures

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]


def test_there_are_enough_inputs():
    assert sum(count for _, count in CATEGORIES.values()) > 5_000


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_input_is_answered_or_refused_and_changes_nothing(category):
    try_one, count = CATEGORIES[category]
    found = failures(category, try_one, range(count))
    assert not found, f"{len(found)} of {count}:\n" + "\n".join(found[:5])
