"""Hundreds of random models under hooks of every kind, in any order, some removed again."""

import random

import pytest
from random_hooked_models import HOOKED, WAYS, compared_model
from tally import tally_of

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
MODELS = range(10_000, 10_500)


@pytest.mark.parametrize("grammar", HOOKED)
@pytest.mark.parametrize("way", WAYS)
def test_every_hook_of_every_random_model_is_called_as_predicted(way, grammar):
    tally = tally_of("random models", f"{grammar}, by {way}")
    for seed in MODELS:
        comparison = compared_model(random.Random(seed), HOOKED[grammar], way)
        if comparison is None:
            tally.skip("it raises, or nothing in what it returns requires grad")
        else:
            tally.hold(f"seed {seed}", comparison)
    tally.assert_nothing_is_wrong()
    assert tally.tried > len(MODELS) / 2
    assert tally.sites > len(MODELS)
