"""Random models under hooks of every kind, in any order, some removed again: all predictions against real backward."""

import random

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_hooked_models import HOOKED, STRANGE, WAYS, compared_model

EXAMPLES = 60
GRAMMARS = {**HOOKED, "everything": STRANGE["everything"]}
CALM = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("grammar", GRAMMARS)
@pytest.mark.parametrize("way", WAYS)
def test_every_hook_of_a_random_model_is_called_as_predicted(way, grammar):
    @CALM
    @given(st.randoms(use_true_random=False))
    def holds(choices: random.Random) -> None:
        comparison = compared_model(choices, GRAMMARS[grammar], way)
        assume(comparison is not None)
        assert not comparison.wrong, "\n".join(comparison.wrong)

    holds()


@pytest.mark.parametrize("grammar", [*HOOKED, *STRANGE])
def test_most_random_models_can_be_compared_and_have_hooks(grammar):
    compared = [compared_model(random.Random(seed), {**HOOKED, **STRANGE}[grammar], "record") for seed in range(40)]
    assert sum(comparison is not None for comparison in compared) > 18
    assert sum(comparison.sites for comparison in compared if comparison is not None) > 50
