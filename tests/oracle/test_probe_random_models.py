"""Hooks probed in hundreds of random models, held against really registering them."""

import random
from collections import Counter

import pytest
from probed_hooks import GLOBAL, LOCAL, try_hook
from random_modules import GRAMMARS, paths_of, random_model

from fxgrad.errors import FxgradError

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
MODELS = 250


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_a_probed_hook_is_the_registered_one(grammar):
    sorts, wrong = Counter(), []
    for seed in range(MODELS):
        build, rng = random_model(seed, GRAMMARS[grammar]), random.Random(seed)
        paths = paths_of(build)
        for path, kind in [*[(rng.choice(paths), kind) for kind in LOCAL], ("", rng.choice(GLOBAL))]:
            try:
                trial = try_hook(build, path, kind)
            except FxgradError:  # the program itself raises, or nothing in it requires grad
                sorts["untraceable"] += 1
                break
            sorts += trial.sorts
            wrong += [f"seed {seed}, {kind.value} at {path!r}: {each}" for each in trial.wrong]
    assert not wrong, "\n".join(wrong[:20])
    assert sorts["trials"] > 375
    assert sorts["moved"] > 25
    assert sorts["refused"] > 12
