"""A sample of what tests/oracle/test_probe_random_models.py does."""

import pytest
from random_modules import GRAMMARS
from random_suppositions import suppose_in_random_models


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("grammar", GRAMMARS)
def test_a_hook_supposed_in_a_random_model_is_the_registered_one(grammar):
    counts, wrong = suppose_in_random_models(grammar, range(25))
    assert not wrong, "\n".join(wrong)
    assert counts["trials"] >= 30
