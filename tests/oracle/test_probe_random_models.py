"""Hooks supposed in a thousand random models, held against really registering them."""

import pytest
from random_modules import GRAMMARS
from random_suppositions import suppose_in_random_models

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_no_supposed_hook_differs_from_the_registered_one_without_a_caveat(grammar):
    counts, wrong = suppose_in_random_models(grammar, range(250))
    assert not wrong, "\n".join(wrong[:20])
    assert counts["trials"] > 375
    assert counts["moved"] > 25
    assert counts["refused"] > 12


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_where_a_caveat_warns_backward_is_still_mostly_as_supposed(grammar):
    counts, _ = suppose_in_random_models(grammar, range(1_000, 1_075))
    assert counts["other calls"] + counts["other refusal"] < 0.05 * counts["trials"]
