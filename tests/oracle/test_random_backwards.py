"""Random code in the backward of custom Functions: what it returns is read from it and held against what it returns."""

import random
from contextlib import closing

import pytest
import torch
from random_backwards import arguments, loaded, random_backward
from real_backward import Bench
from tally import tally_of

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
SEEDS = 4_000
KNOWN = 0.3
"""Of the entries, those of which the code tells something: else nothing would be compared."""


@pytest.mark.parametrize("part", range(4))
def test_no_entry_that_a_random_backward_returns_is_predicted_wrongly(part):
    tally = tally_of("random code in the backward of custom Functions", f"part {part}")
    for seed in range(part, SEEDS, 4):
        with loaded(random_backward(seed)) as program:
            hold(program, random.Random(seed), f"seed {seed}", tally)
    tally.assert_nothing_is_wrong()
    assert tally.unknown.total() < tally.entries * (1 - KNOWN)
    assert tally.tried > SEEDS // 4 * 0.4


def hold(program, rng, name, tally):
    """Predict, change the program's global, and run backward once or twice."""
    results = [each for each in program.function.apply(*arguments(rng)) if torch.is_tensor(each) and each.requires_grad]
    roots = rng.sample(results, rng.randint(1, len(results)))
    with closing(Bench(roots).on_every_node()) as bench:
        predicted = bench.predicted(None, "backward")
        if rng.random() < 0.5:
            program.flip()
        try:
            if rng.random() < 0.3:
                torch.autograd.backward(roots, [torch.ones_like(root) for root in roots], retain_graph=True)
                bench.log.clear()
            bench.run(None, "backward")
        except Exception as error:
            tally.skip(f"in backward: {type(error).__name__}")
        else:
            tally.hold(name, bench.compared(predicted))
