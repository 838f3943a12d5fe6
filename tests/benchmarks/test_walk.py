"""What the records of a graph cost, against a bare walk of next_functions, and against torchviz."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchviz

import fxgrad
from fxgrad.observe.autograd.node_records import make_node_records
from fxgrad.observe.autograd.walk import walk
from tests.benchmarks.conftest import Compared, timed
from tests.benchmarks.models import chain, resnet


def bare_walk(root: Any) -> set[Any]:
    """A stack and a set: the least that a walk in Python can do."""
    seen = {root}
    stack = [root]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None and node not in seen:
                seen.add(node)
                stack.append(node)
    return seen


def recorded(root: Any) -> tuple[Any, ...]:
    return make_node_records(walk([root]))


@pytest.mark.parametrize(("length", "rounds"), [(1_000, 15), (30_000, 9), (300_000, 3), (1_000_000, 1)])
def test_records_of_a_chain_against_a_bare_walk(compare: Callable[..., Compared], length: int, rounds: int) -> None:
    """Each walk is the first from Python, as a user's is. `walk` sees to it that a graph is freed without a crash."""
    roots = {"fresh": lambda: chain(length).grad_fn, "done": lambda root: walk([root])}
    compare(recorded, bare_walk, rounds=rounds, per=length, **roots)


def test_records_of_a_chain_that_python_has_walked_before(compare: Callable[..., Compared]) -> None:
    root = chain(30_000).grad_fn
    compare(lambda: recorded(root), lambda: bare_walk(root), rounds=15, per=30_000)


def test_records_of_a_resnet_against_a_bare_walk(compare: Callable[..., Compared]) -> None:
    model, image = resnet((3, 8, 36, 3)), torch.randn(1, 3, 64, 64)
    compare(recorded, bare_walk, fresh=lambda: model(image).grad_fn, per=len(bare_walk(model(image).grad_fn)))


def test_capture_of_a_resnet_against_torchviz(compare: Callable[..., Compared]) -> None:
    model = resnet((3, 8, 36, 3))
    output = model(torch.randn(1, 3, 64, 64))
    named = dict(model.named_parameters())
    compare(lambda: fxgrad.capture(output, model), lambda: torchviz.make_dot(output, params=named), rounds=5)


def test_capture_of_unrolled_lstm_cells_against_torchviz(compare: Callable[..., Compared]) -> None:
    cell = torch.nn.LSTMCell(32, 32)
    state = (torch.zeros(4, 32), torch.zeros(4, 32))
    for _ in range(50):
        state = cell(torch.randn(4, 32), state)
    named = dict(cell.named_parameters())
    compare(lambda: fxgrad.capture(state[0], cell), lambda: torchviz.make_dot(state[0], params=named), rounds=5)


def test_capture_among_a_million_objects_against_few(figure: Callable[[str], None]) -> None:
    """A hook is registered, so that capture searches for more of them."""
    model = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(40)])
    model[0].register_full_backward_hook(lambda module, grad_input, grad_output: None)
    loss = model(torch.randn(2, 8)).sum()

    def among(count: int) -> float:
        alive = [[number] for number in range(count)]
        return min(timed(fxgrad.capture, loss, model) for _ in range(5 + 0 * len(alive)))

    pairs = [(among(1_000_000), among(1)) for _ in range(5)]
    many, few = (statistics.median(times) for times in zip(*pairs, strict=True))
    figure(f"{many / few:6.2f} times   {many * 1e3:.1f} ms against {few * 1e3:.1f} ms")


MILLION = """
import resource, time
import fxgrad
from tests.benchmarks.models import chain
value = chain({length})
start = time.process_time()
trace = fxgrad.capture(value)
nodes = len(trace.graph.nodes)
captured = time.process_time() - start
del value
freed = time.process_time() - start - captured
print(nodes, captured, freed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def test_capture_of_a_million_nodes(figure: Callable[[str], None], repository: Any) -> None:
    figures = []
    for length in (100_000, 1_000_000):
        program = MILLION.format(length=length)
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True
        )
        figures.append([float(part) for part in done.stdout.split()])
    (few, short, _, _), (many, long, freed, memory) = figures
    growth = (long / many) / (short / few)
    figure(f"{growth:6.2f} times the cost per node of 100,000   {long:.1f} s, freed in {freed:.1f} s, {memory:.2f} GiB")
