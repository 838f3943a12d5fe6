"""Supposes hooks in random models, and counts how the answers agree with reality."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

from random_modules import GRAMMARS, paths_of, random_model
from supposed_hooks import GLOBAL, LOCAL, Trial, attempt

from fxgrad.errors import FxgradError


def suppose_in_random_models(grammar: str, seeds: Iterable[int]) -> tuple[Counter[str], list[str]]:
    """How many trials there were, of which sort; and what was wrong where nothing warned of it.

    Where a caveat says that the records do not tell all, a difference is not wrong.
    """
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for seed in seeds:
        build = random_model(seed, GRAMMARS[grammar])
        rng = random.Random(seed)
        paths = paths_of(build)
        for path, kind in [*[(rng.choice(paths), kind) for kind in LOCAL], ("", rng.choice(GLOBAL))]:
            try:
                trial = attempt(build, path, kind)
            except FxgradError:  # the program itself raises, or nothing in it requires grad
                counts["untraceable"] += 1
                break
            counts.update(_sorts(trial))
            if trial.wrong and not trial.supposed.caveats:
                wrong.append(f"{grammar}, seed {seed}, {kind.value} at {path!r}: {trial.wrong[0]}")
    return counts, wrong


def _sorts(trial: Trial) -> list[str]:
    sorts = {
        "trials": True,
        "refused": trial.supposed.refused is not None,
        "with caveats": bool(trial.supposed.caveats),
        "other records": bool(trial.records),
        "other calls": bool(trial.calls),
        "other refusal": (trial.supposed.refused is None) != (trial.error is None),
        "moved": bool(trial.supposed.moved),
    }
    return [sort for sort, applies in sorts.items() if applies]
