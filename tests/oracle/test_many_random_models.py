"""Hundreds of random models under hooks of every kind, in any order, some removed again; thousands with ``--models``."""

import itertools
import random

import pytest
from random_hooked_models import HOOKED, STRANGE, STRANGE_WAYS, WAYS, compared_model, verified_model
from tally import tally_of

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
FIRST = 10_000
HOOKED_MODELS, STRANGE_MODELS, VERIFIED_MODELS = 500, 100, 50


@pytest.mark.parametrize(
    ("grammar", "way"),
    [*itertools.product(HOOKED, WAYS), *itertools.product(STRANGE, STRANGE_WAYS)],
)
def test_every_hook_of_every_random_model_is_called_as_predicted(grammar, way, request):
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


@pytest.mark.parametrize("grammar", STRANGE)
def test_verify_finds_nothing_wrong_in_any_random_model(grammar, request):
    count = request.config.getoption("--models") or VERIFIED_MODELS
    wrong, verified = [], 0
    for seed in range(FIRST, FIRST + count):
        verification = verified_model(random.Random(seed), STRANGE[grammar])
        if verification is not None:
            verified += 1
            wrong += [] if verification.ok else [f"seed {seed}: {verification}"]
    assert not wrong, "\n".join(wrong[:20])
    assert verified > count / 2 - 10
