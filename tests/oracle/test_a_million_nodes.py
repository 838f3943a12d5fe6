"""A graph of a million nodes in a process of its own: recorded, looked at and freed, within 3 GB."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("resource", reason="peak memory is asked of POSIX")

pytestmark = pytest.mark.oracle

LIMIT = 3e9

PROGRAM = """
import gc, resource, sys, torch, fxgrad
{first}
value = torch.ones(4, requires_grad=True) * 1
middle = []
for step in range({length} - 2):
    value = value * 1.0001
    if step % 100_003 == 5_000:
        middle += [value, value.grad_fn]
if not {keeps_middle}:
    middle.clear()
trace = fxgrad.capture(value)
print("nodes", len(trace.graph.nodes))
print("edges", sum(edge.next_node is not None for node in trace.graph.nodes for edge in node.edges))
print("kinds", *sorted({{node.kind.value for node in trace.graph.nodes}}))
del value
gc.collect()
print("middle", *[step.grad_fn.name() for step in middle[::2][:1]])
while middle:
    middle.pop(len(middle) // 2)
del trace
gc.collect()
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def run(repository: Path, length: int, *, keeps_middle: bool = False, first: str = "") -> tuple[int, dict[str, str]]:
    """The exit status, and the lines that were printed by their first word."""
    program = PROGRAM.format(length=length, keeps_middle=keeps_middle, first=first)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=repository, stdout=subprocess.PIPE, text=True, check=False
    )
    return done.returncode, dict(line.partition(" ")[::2] for line in done.stdout.splitlines())


def test_a_million_nodes_are_recorded_and_freed_within_3_gb(repository):
    status, printed = run(repository, 1_000_000)
    assert status == 0
    assert printed["nodes"] == "1000000"
    assert printed["edges"] == "999999"
    assert printed["kinds"] == "accumulate grad function"
    assert float(printed["peak"]) < LIMIT


def test_references_into_the_middle_of_a_million_nodes_can_be_dropped_in_any_order(repository):
    status, printed = run(repository, 1_000_000, keeps_middle=True)
    assert status == 0
    assert printed["middle"] == "MulBackward0"
    assert float(printed["peak"]) < LIMIT


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13),
    reason="nodes wrapped by Python are freed without recursion",
)
def test_without_the_lists_of_nodes_in_metadata_pytorch_overflows_the_stack(repository):
    status, printed = run(repository, 300_000, first="import fxgrad.observe.autograd.walk as walk; walk.DEEP = 10**9")
    assert printed["nodes"] == "300000"
    assert status == -signal.SIGSEGV
