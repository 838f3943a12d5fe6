"""Global hooks supposed in every program of tests/support/hooked_programs."""

import pytest
from hooked_programs import INEXACT, PROGRAMS
from supposed_hooks import GLOBAL, attempt

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("kind", GLOBAL, ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_supposed_global_hook_is_the_registered_one(name, kind):
    trial = attempt(PROGRAMS[name], "", kind)
    assert (trial.supposed.refused is None) == (trial.error is None), trial.wrong
    assert not trial.calls, "\n".join(trial.calls)
    assert name in INEXACT or not trial.records, "\n".join(trial.records)
