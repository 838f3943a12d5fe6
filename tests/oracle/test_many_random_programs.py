"""Thousands of random programs with hooks of every kind: order, number and contents of all calls."""

import random
from contextlib import closing

import pytest
from random_programs import bench_with_hooks, ignored_refusals, inputs_of, program

pytestmark = pytest.mark.oracle
PROGRAMS = 2_000
FIRST = 1_000


@pytest.mark.parametrize("way", ["plain", "inputs", "grad"])
def test_every_hook_of_every_program_is_called_as_predicted(way):
    wrong, compared_programs = [], 0
    for seed in range(FIRST, FIRST + PROGRAMS):
        rng = random.Random(seed)
        made = program(rng)
        if not made.roots:
            continue
        bench = bench_with_hooks(rng, made)
        inputs = None if way == "plain" else inputs_of(rng, made)
        api = "grad" if way == "grad" else "backward"
        with closing(bench):
            predicted = bench.predicted(inputs, api)
            with ignored_refusals():
                bench.run(inputs, api)
            wrong += [f"seed {seed}: {text}" for text in bench.compared(predicted).wrong]
        compared_programs += 1
    assert not wrong, "\n".join(wrong[:20])
    assert compared_programs > PROGRAMS * 0.9
