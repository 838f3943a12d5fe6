"""Hundreds of random models under hooks of every kind, in any order, some removed again; thousands with ``--models``."""

import random

import pytest
from random_hooked_models import HOOKED, STRANGE, WAYS, compared_model
from tally import tally_of

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
FIRST = 10_000
HOOKED_MODELS, STRANGE_MODELS = 500, 150


@pytest.mark.parametrize("grammar", [*HOOKED, *STRANGE])
@pytest.mark.parametrize("way", WAYS)
def test_every_hook_of_every_random_model_is_called_as_predicted(way, grammar, request):
    count = request.config.getoption("--models") or (HOOKED_MODELS if grammar in HOOKED else STRANGE_MODELS)
    tally = tally_of("random models", f"{grammar}, by {way}")
    for seed in range(FIRST, FIRST + count):
        comparison = compared_model(random.Random(seed), {**HOOKED, **STRANGE}[grammar], way)
        if comparison is None:
            tally.skip("it raises in forward, or nothing in what it returns requires grad")
        else:
            tally.hold(f"seed {seed}", comparison)
    tally.assert_nothing_is_wrong()
    assert tally.tried > count / 2
    assert tally.sites > count
