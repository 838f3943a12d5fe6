"""Random programs with hooks of every kind: order, number and contents of all calls against a real backward."""

import random

import pytest
from random_programs import bench_with_hooks, ignored_refusals, inputs_of, program


@pytest.mark.parametrize("way", ["plain", "inputs", "grad"])
@pytest.mark.parametrize("seed", range(60))
def test_every_hook_of_a_random_program_is_called_as_predicted(seed, way):
    rng = random.Random(seed)
    made = program(rng)
    if not made.roots:
        pytest.skip("this program has nothing to differentiate")
    bench = bench_with_hooks(rng, made)
    inputs = None if way == "plain" else inputs_of(rng, made)
    api = "grad" if way == "grad" else "backward"
    predicted = bench.predicted(inputs, api)
    with ignored_refusals():
        bench.run(inputs, api)
    comparison = bench.compared(predicted)
    assert not comparison.wrong, "\n".join(comparison.wrong)


def test_the_comparison_finds_a_wrong_prediction():
    rng = random.Random(0)
    bench = bench_with_hooks(rng, program(rng))
    predicted = bench.predicted()
    bench.run()
    assert bench.compared(predicted, bench.log[:-1]).wrong
    assert bench.compared(predicted, bench.log[::-1]).wrong
